"""Replay of sequences, for agents that remember: each with the state it begins in."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.core.networks import State

_LARGEST = float(np.finfo(np.float16).max)


class SequenceSamples(NamedTuple):
    """N sequences of L consecutive rows.

    Attributes:
        observations: [L, N, channels, height, width], uint8.
        actions: [L, N].
        rewards: [L, N].
        dones: [L, N], 1 where the episode ended.
        timeouts: [L, N], 1 where a time limit ended it, which is not its end for Q-values.
        state: The agent's memory before the first observation.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    dones: Tensor
    timeouts: Tensor
    state: State

    @property
    def keep(self) -> Tensor:
        """[L, N], zero where an observation is another episode's first."""
        before = self.dones[:-1]
        return torch.cat([torch.ones_like(before[:1]), 1 - before])


class SequenceReplayBuffer(FrameReplayBuffer):
    """A replay buffer whose rows are sampled as sequences of burn_in + window rows.

    A sequence may begin at every window-th row. The memory that the agent had there is stored, as
    in R2D2 (Kapturowski et al., 2019), and its first burn_in rows only bring it up to date. Rows
    whose memory is not known (another agent played them, or a training was resumed) begin in an
    empty one.

    Args:
        *args: `FrameReplayBuffer`'s.
        burn_in: Rows of a sequence that are not learnt from.
        window: Rows that are.
        **kwargs: `FrameReplayBuffer`'s.
    """

    def __init__(self, *args: Any, burn_in: int = 8, window: int = 8, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.burn_in = burn_in
        self.window = window
        self._states: list[NDArray[np.float16]] = []

    @property
    def length(self) -> int:
        """Rows of a sequence."""
        return self.burn_in + self.window

    def remember(self, state: State) -> None:
        """Stores the memory before the row that is added next, if a sequence may begin there."""
        if self.pos % self.window:
            return
        if not self._states:
            slots = -(-self.buffer_size // self.window)
            self._states = [np.zeros((slots, *rest.shape), np.float16) for rest in state]
        for stored, rest in zip(self._states, state, strict=True):
            stored[self.pos // self.window] = rest.clamp(-_LARGEST, _LARGEST).cpu().numpy()

    def forget(self) -> None:
        """Empties all stored memories."""
        self._states = []

    def starts(self) -> NDArray[np.int64]:
        """Rows at which a sequence begins that is wholly in the buffer."""
        rows = np.arange(0, self.size(), self.window)
        # the distance to the row that is written next, which is also the oldest of a full buffer
        ahead = (self.pos - rows - 1) % self.buffer_size + 1 if self.full else self.pos - rows
        return rows[ahead >= self.length]

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> SequenceSamples:
        """Draws sequences.

        Args:
            batch_size: Rows to learn from: there are batch_size / window sequences, at least one.
            env: Not supported.

        Raises:
            ValueError: No sequence is in the buffer.
        """
        starts = self.starts()
        if not len(starts):
            raise ValueError(f"the replay buffer holds no sequence of {self.length} rows yet")
        count = max(1, batch_size // self.window)
        first = starts[np.random.randint(len(starts), size=count)]
        envs = np.random.randint(self.n_envs, size=count)
        rows = (first + np.arange(self.length)[:, None]) % self.buffer_size
        slot = first // self.window
        return SequenceSamples(
            self.to_torch(self.observations[rows, envs]),
            self.to_torch(self.actions[rows, envs, 0]),
            self.to_torch(self.rewards[rows, envs]),
            self.to_torch(self.dones[rows, envs]),
            self.to_torch(self.timeouts[rows, envs]),
            [self.to_torch(stored[slot, envs]).float() for stored in self._states],
        )
