"""PQN of a privileged teacher: Q-learning from the newest steps, without experience replay."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import TrainFreq
from torch import Tensor

from snn_rl.agents.objectives import lambda_returns
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.state_dqn import StateDQN, Update
from snn_rl.agents.state_policy import StateQNetwork


class StatePQN(StateDQN):
    """PQN (Gallici et al., 2024) with an averaged network, for observations of `make_state_env`.

    Each training phase fits the lambda-returns of the newest `train_freq` steps of all
    environments. The trained network acts, and the averaged network is the result of the training.

    Args:
        *args: Arguments of `StateDQN`.
        trace_decay: Lambda of the lambda-returns, from 0 (1-step returns) to 1.
        **kwargs: Other arguments of `StateDQN`. The replay buffer must hold a training phase.
    """

    def __init__(self, *args: Any, trace_decay: float, **kwargs: Any):
        self.trace_decay = trace_decay
        super().__init__(*args, **kwargs)

    @property
    def acting(self) -> StateQNetwork:
        """Trained network, which selects the actions during training."""
        return self.q_net

    def _updates(self, gradient_steps: int, batch_size: int) -> Iterator[Update]:
        """Yields mini-batches that use each of the newest steps once per pass, in random order."""
        buffer = self.replay_buffer
        assert isinstance(buffer, FrameReplayBuffer) and isinstance(self.train_freq, TrainFreq)
        rows = (buffer.pos + np.arange(-self.train_freq.frequency, 0)) % buffer.buffer_size

        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.as_tensor(array, device=self.device)

        dones = buffer.dones[rows]
        following = tensor(buffer.next_observations[rows]).flatten(0, 1)
        with torch.no_grad():
            values = self.q_net(following).amax(1).view(dones.shape)
        _, gamma = self.horizon.after(self._n_updates)
        targets = lambda_returns(
            tensor(buffer.rewards[rows]),
            tensor(dones),
            tensor(dones * (1 - buffer.timeouts[rows])),
            values,
            gamma,
            self.trace_decay,
        ).view(-1, 1)
        observations = tensor(buffer.observations[rows]).flatten(0, 1)
        actions = tensor(buffer.actions[rows]).flatten()
        order = np.empty(0, np.int64)
        for _ in range(gradient_steps):
            if len(order) < batch_size:
                order = np.concatenate([order, np.random.permutation(len(targets))])
            picked, order = order[:batch_size], order[batch_size:]
            yield Update(observations[picked], actions[picked], targets[picked])
