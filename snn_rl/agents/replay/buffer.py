"""Replay buffer of single frames that rebuilds frame stacks during sampling.

Stable-Baselines3's buffer stores the frame stacks before and after every step, so each frame of a
stack of four is stored eight times. This buffer stores each frame once, and a transition refers to
the slots of its frames. Equal frames are detected by comparison, so all observations are restored
exactly. Observations that share no frames are also supported but need more memory.
"""

import math
import mmap
import sys
from typing import Any, ClassVar

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
_EMPTY = 0  # slot of the zero frame, which pads frame stacks at the start of an episode
_MAP_NORESERVE = 0x4000  # Linux constant; mmap.MAP_NORESERVE requires Python 3.13
_SPARE = 2  # allocated slots per required slot; unused slots take no memory


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns zeros in memory that is allocated on first use and returned to the system when freed.

    Memory from malloc may remain allocated (see `utils.process_memory`), so a growing store would
    permanently take twice its size.
    """
    if sys.platform == "win32":
        return np.zeros(shape, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sys.platform == "linux":
        flags |= _MAP_NORESERVE
    pages = mmap.mmap(-1, size, flags=flags)
    return np.frombuffer(pages, dtype).reshape(shape)


class FrameStore:
    """Storage for the frames of a replay buffer, and the frame indices (slots) of transitions.

    Args:
        rows: Number of transitions per environment.
        envs: Number of environments.
        shape: Shape (channels, ...) of an observation; each channel is a frame, with the newest
            frame last.
        dtype: Pixel type.

    Attributes:
        frames: Frames, [slots, ...].
        slots: Slots of the observations and of the next observations, [2, rows, envs, channels].
    """

    def __init__(self, rows: int, envs: int, shape: tuple[int, ...], dtype: Any):
        channels = shape[0]
        # zeros (_EMPTY), because they take no memory before their first use
        self.slots = np.zeros((2, rows, envs, channels), np.int32)
        # Each step adds one frame per environment, and more at the start of an episode.
        self._least = 1 + envs * (rows + channels)
        self.frames = _zeros((_SPARE * self._least, *shape[1:]), dtype)
        self._references = np.zeros(len(self.frames), np.int32)
        self._unused = _EMPTY + 1  # first slot that was never used
        self._freed: list[int] = []

    @property
    def nbytes(self) -> int:
        """Memory used by frames and slots, in bytes."""
        frame = math.prod(self.frames.shape[1:]) * self.frames.itemsize
        used = max(self._unused, self._least) * frame
        return used + self.slots.nbytes + self._references.nbytes

    def put(self, kind: int, row: int, stacks: Array) -> None:
        """Stores the frame stacks [envs, channels, ...] of one row.

        `kind` is the index of the observations or the next observations in `slots`.
        """
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
    """Array view [rows, envs, channels, ...] of the frame stacks in a store.

    `kind` is the index of the observations or the next observations in the store's slots.
    """

    def __init__(self, store: FrameStore, kind: int):
        self._store = store
        self._kind = kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (rows, envs, channels, ...)."""
        return (*self._store.slots.shape[1:], *self._store.frames.shape[1:])

    def __getitem__(self, rows: Any) -> Array:
        """Returns a copy of the stacks selected by an index over rows and environments."""
        stacks: Array = self._store.frames.take(self._store.slots[self._kind][rows], axis=0)
        return stacks

    def __setitem__(self, row: int, stacks: Array) -> None:
        self._store.put(self._kind, row, stacks)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)


class FrameReplayBuffer(NStepReplayBuffer):
    """Replay buffer equivalent to that of Stable-Baselines3 that stores each frame once.

    With stacks of four frames, the buffer uses about an eighth of the memory.

    Args:
        buffer_size: Number of transitions over all environments.
        observation_space: Box [channels, height, width] of images or [channels, numbers] of
            states; each channel is a frame, with the newest frame last.
        action_space: Action space.
        device: Device of the samples.
        n_envs: Number of environments.
        optimize_memory_usage: Not supported, because it discards observations after time limits.
        n_steps: Number of steps in n-step returns.
        gamma: Discount factor of multi-step returns.
        **kwargs: Other arguments of `ReplayBuffer`.

    Raises:
        ValueError: The observations are not stacks of frames, or optimize_memory_usage is set.
    """

    # names of the arrays [rows, n_envs, ...] that the journal stores beside the frames
    fields: ClassVar[tuple[str, ...]] = ("actions", "rewards", "dones", "timeouts")
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
            raise ValueError("FrameReplayBuffer does not support optimize_memory_usage")
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) < 2:
            raise ValueError(
                f"FrameReplayBuffer requires stacks of frames, got {observation_space}"
            )
        super().__init__(
            buffer_size,
            spaces.Box(0, 0, (0,)),  # the base class stores no observations
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
        """Memory used by the full buffer, in bytes."""
        arrays: list[Array] = [getattr(self, name) for name in self.fields]
        return self.store.nbytes + sum(array.nbytes for array in arrays)

    def _get_samples(
        self, batch_inds: NDArray[np.int64], env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        if self.n_steps == 1:  # 1-step samples of Stable-Baselines3 contain no discounts
            return ReplayBuffer._get_samples(self, batch_inds, env)
        return super()._get_samples(batch_inds, env)

    def to_torch(self, array: Array, copy: bool = True) -> Tensor:
        """Converts an array without copying; samples are already copies."""
        return super().to_torch(array, copy=False)
