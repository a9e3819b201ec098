"""Q-learning of a privileged teacher from its newest steps, without a replay memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import TrainFreq

from snn_rl.agents.objectives import lambda_returns
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.state_dqn import StateDQN, Update
from snn_rl.agents.state_policy import StateQNetwork


class StatePQN(StateDQN):
    """PQN (Gallici et al., 2024) with an averaged network, for observations of `make_state_env`.

    A training phase learns the lambda-returns of the newest `train_freq` steps of all environments.
    The trained network acts, and the averaged network is the result of the training.

    Args:
        *args: Arguments of `StateDQN`.
        trace_decay: Lambda, the weight of long returns.
        **kwargs: Other arguments of `StateDQN`. The replay buffer must hold a training phase.
    """

    def __init__(self, *args: Any, trace_decay: float, **kwargs: Any):
        self.trace_decay = trace_decay
        super().__init__(*args, **kwargs)

    @property
    def acting(self) -> StateQNetwork:
        """Trained network."""
        return self.q_net

    def _updates(self, gradient_steps: int, batch_size: int) -> Iterator[Update]:
        """Yields disjoint mini-batches until the newest steps are used up, then starts again."""
        buffer = self.replay_buffer
        assert isinstance(buffer, FrameReplayBuffer) and isinstance(self.train_freq, TrainFreq)
        steps = self.train_freq.frequency
        rows = (buffer.pos + np.arange(-steps, 0)) % buffer.buffer_size
        following, dones = buffer.next_observations[rows], buffer.dones[rows]
        with torch.no_grad():
            values = self.q_net(torch.as_tensor(following.reshape(-1, *buffer.obs_shape)))
        _, gamma = self.horizon.after(self._n_updates)
        returns = lambda_returns(
            torch.as_tensor(buffer.rewards[rows]),
            torch.as_tensor(dones),
            torch.as_tensor(dones * (1 - buffer.timeouts[rows])),
            values.amax(1).view(dones.shape),
            gamma,
            self.trace_decay,
        )
        observations = torch.as_tensor(buffer.observations[rows]).flatten(0, 1)
        actions = torch.as_tensor(buffer.actions[rows]).flatten()
        targets = returns.view(-1, 1)
        order = np.empty(0, np.int64)
        for _ in range(gradient_steps):
            if len(order) < batch_size:
                order = np.concatenate([order, np.random.permutation(len(targets))])
            picked, order = order[:batch_size], order[batch_size:]
            yield Update(observations[picked], actions[picked], targets[picked])
