"""Replay buffer of sequences with initial states, for networks with `carry_state`."""

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
    """N sequences of L consecutive transitions."""

    observations: Tensor  # images [L, N, channels, height, width], uint8
    actions: Tensor  # [L, N]
    rewards: Tensor  # [L, N]
    dones: Tensor  # ends of episodes [L, N], 0 or 1
    timeouts: Tensor  # time limits [L, N], 0 or 1, at which Q-values bootstrap
    state: State  # membrane potentials before the first observation

    @property
    def keep(self) -> Tensor:
        """Mask [L, N] that is zero at the first observation of a new episode."""
        before = self.dones[:-1]
        return torch.cat([torch.ones_like(before[:1]), 1 - before])


class SequenceReplayBuffer(FrameReplayBuffer):
    """Replay buffer that samples sequences of burn_in + window rows.

    Sequences start at multiples of `window` rows. The agent's membrane potentials at these rows are
    stored, as in R2D2 (Kapturowski et al., 2019), and updated by the first burn_in rows of the
    sequence. Sequences without stored membrane potentials (from another agent, or from before
    training was resumed) start with zero membrane potentials.

    Args:
        *args: Arguments of `FrameReplayBuffer`.
        burn_in: Number of rows of a sequence that are not part of the loss.
        window: Number of rows of a sequence in the loss.
        **kwargs: Arguments of `FrameReplayBuffer`.
    """

    def __init__(self, *args: Any, burn_in: int = 8, window: int = 8, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.burn_in = burn_in
        self.window = window
        self._states: list[NDArray[np.float16]] = []

    @property
    def length(self) -> int:
        """Number of rows of a sequence."""
        return self.burn_in + self.window

    def remember(self, state: State) -> None:
        """Stores the membrane potentials before the next row if a sequence can start there."""
        if self.pos % self.window:
            return
        if not self._states:
            slots = -(-self.buffer_size // self.window)
            self._states = [np.zeros((slots, *each.shape), np.float16) for each in state]
        for stored, each in zip(self._states, state, strict=True):
            stored[self.pos // self.window] = each.clamp(-_LARGEST, _LARGEST).cpu().numpy()

    def forget(self) -> None:
        """Removes all stored membrane potentials."""
        self._states = []

    def starts(self) -> NDArray[np.int64]:
        """Returns the first rows of all sequences that the buffer contains completely."""
        rows = np.arange(0, self.size(), self.window)
        # Distance to the row written next, which is the oldest row of a full buffer
        ahead = (self.pos - rows - 1) % self.buffer_size + 1 if self.full else self.pos - rows
        return rows[ahead >= self.length]

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> SequenceSamples:
        """Samples batch_size / window sequences, at least one.

        Args:
            batch_size: Number of rows in the loss.
            env: Not supported.

        Raises:
            ValueError: The buffer contains no complete sequence.
        """
        starts = self.starts()
        if not len(starts):
            raise ValueError(
                f"the replay buffer does not yet contain a sequence of {self.length} rows"
            )
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
