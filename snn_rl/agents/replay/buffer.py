"""A replay buffer of single frames, from which whole stacks are rebuilt when they are sampled.

Stable-Baselines3's buffer stores the stack before every step and the stack after it, and so every
frame of a stack of four eight times. Here a frame is stored once, and a transition knows the slots
of its frames. That two frames are the same is checked, not assumed, so any observations come back
as they were; those that share no frames only take more memory.
"""

import math
import mmap
import sys
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

Array = NDArray[Any]

_OBSERVATIONS, _FOLLOWING = 0, 1
_EMPTY = 0  # the slot of the frame of zeros, which a stack begins an episode with
_MAP_NORESERVE = 0x4000  # of Linux, which Python has no name for before 3.13
_SPARE = 2  # times the slots that stacks need; those that are never used take no memory


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros straight from the system, which gives a page when it is used and has it back at once.

    Memory from malloc may stay with the process (see `utils.process_memory`), so a growing store
    would take twice its size for good.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sys.platform == "linux":
        flags |= _MAP_NORESERVE
    pages = mmap.mmap(-1, size, flags=flags)
    return np.frombuffer(pages, dtype).reshape(shape)


class FrameStore:
    """The frames of a buffer, and where those of every transition lie.

    Args:
        rows: Transitions of every environment.
        envs: Environments.
        image: (channels, height, width) of an observation; a channel is a frame, the newest last.
        dtype: Of a pixel.

    Attributes:
        frames: [slots, height, width].
        slots: [2, rows, envs, channels]: of the observations, and of those that followed.
    """

    def __init__(self, rows: int, envs: int, image: tuple[int, int, int], dtype: Any):
        channels = image[0]
        self.slots = np.full((2, rows, envs, channels), _EMPTY, np.int32)
        # one new frame a step is what a stack needs, besides the first and those of new episodes
        self._least = 1 + envs * (rows + channels)
        self.frames = _zeros((_SPARE * self._least, *image[1:]), dtype)
        self._references = np.zeros(len(self.frames), np.int32)
        self._unused = _EMPTY + 1  # the first slot that was never taken
        self._freed: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes that frames and slots take."""
        frame = math.prod(self.frames.shape[1:]) * self.frames.itemsize
        used = max(self._unused, self._least) * frame
        return used + self.slots.nbytes + self._references.nbytes

    def put(self, kind: int, row: int, stacks: Array) -> None:
        """Stores the stacks [envs, channels, height, width] of a row."""
        observations, following = self.slots
        if kind == _OBSERVATIONS:
            likely = following[row - 1]
        else:
            likely = np.full_like(observations[row], _EMPTY)
            likely[:, :-1] = observations[row, :, 1:]
        stacks = np.ascontiguousarray(stacks).reshape(likely.size, -1)
        taken = likely.flatten()
        same = (self.frames[taken].reshape(stacks.shape) == stacks).all(1)
        for index in np.flatnonzero(~same):
            taken[index] = self._store(stacks[index])
        np.add.at(self._references, taken, 1)
        self._release(self.slots[kind, row].ravel())
        self.slots[kind, row] = taken.reshape(likely.shape)

    def _store(self, frame: Array) -> int:
        if not frame.any():
            return _EMPTY
        if self._freed:
            slot = self._freed.pop()
        else:
            if self._unused == len(self.frames):
                self._grow()
            slot = self._unused
            self._unused += 1
        self.frames[slot] = frame.reshape(self.frames.shape[1:])
        return slot

    def _grow(self) -> None:
        size = len(self.frames)
        frames = self.frames
        self.frames = _zeros((2 * size, *frames.shape[1:]), frames.dtype)
        self.frames[:size] = frames
        self._references = np.concatenate([self._references, np.zeros_like(self._references)])

    def _release(self, slots: Array) -> None:
        np.subtract.at(self._references, slots, 1)
        free = (self._references[slots] == 0) & (slots != _EMPTY)
        self._freed.extend(np.unique(slots[free]).tolist())


class Stacks:
    """Whole stacks, read and written as an array [rows, envs, channels, height, width].

    Args:
        store: Of the frames.
        kind: Which of its two tables.
    """

    def __init__(self, store: FrameStore, kind: int):
        self._store = store
        self._kind = kind

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, envs, channels, height, width)."""
        return (*self._store.slots.shape[1:], *self._store.frames.shape[1:])

    def __getitem__(self, rows: Any) -> Array:
        """The stacks at any index over rows and environments, a copy."""
        stacks: Array = self._store.frames.take(self._store.slots[self._kind][rows], axis=0)
        return stacks

    def __setitem__(self, row: int, stacks: Array) -> None:
        self._store.put(self._kind, row, stacks)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)


class FrameReplayBuffer(NStepReplayBuffer):
    """Stable-Baselines3's replay buffer, sample for sample, in about an eighth of its memory.

    Args:
        buffer_size: Transitions, of all environments together.
        observation_space: Images, channels first; a channel is a frame, the newest last.
        action_space: Of the agent.
        device: Of the samples.
        n_envs: Environments.
        optimize_memory_usage: Not supported: it drops the observation behind a time limit.
        n_steps: Steps of the sampled returns.
        gamma: Discount of a step, in those of several.
        **kwargs: `ReplayBuffer`'s.

    Raises:
        ValueError: The observations are not images; optimize_memory_usage.
    """

    observations: Stacks  # type: ignore[assignment]
    next_observations: Stacks  # type: ignore[assignment]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        gamma: float = 0.99,
        **kwargs: Any,
    ):
        if optimize_memory_usage:
            raise ValueError("FrameReplayBuffer is small without optimize_memory_usage")
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 3:
            raise ValueError(f"FrameReplayBuffer stores images, not {observation_space}")
        super().__init__(
            buffer_size,
            spaces.Box(0, 0, (0,)),  # of whole stacks nothing is stored
            action_space,
            device,
            n_envs,
            n_steps=n_steps,
            gamma=gamma,
            **kwargs,
        )
        self.observation_space = observation_space
        self.obs_shape = observation_space.shape
        self.store = FrameStore(
            self.buffer_size, n_envs, observation_space.shape, observation_space.dtype
        )
        self.observations = Stacks(self.store, _OBSERVATIONS)
        self.next_observations = Stacks(self.store, _FOLLOWING)

    @property
    def nbytes(self) -> int:
        """Bytes that the buffer takes when it is full."""
        rest = (self.actions, self.rewards, self.dones, self.timeouts)
        return self.store.nbytes + sum(array.nbytes for array in rest)

    def _get_samples(
        self, batch_inds: NDArray[np.int64], env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        if self.n_steps == 1:  # without discounts, as Stable-Baselines3 samples then
            return ReplayBuffer._get_samples(self, batch_inds, env)
        return super()._get_samples(batch_inds, env)

    def to_torch(self, array: Array, copy: bool = True) -> Tensor:
        """Wraps an array; what is sampled is a copy already."""
        return super().to_torch(array, copy=False)
