"""Q-learning of a privileged teacher that observes the emulator's state."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import polyak_update
from torch import Tensor

from snn_rl.agents.objectives import quantile_huber_loss, quantile_targets
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.resumable import ResumableDQN
from snn_rl.agents.state_policy import StateDQNPolicy, StateQNetwork


@dataclass(frozen=True)
class Horizon:
    """Length of the returns that a teacher learns, which changes over the first updates.

    Long n-step returns and a strong discount speed up early learning. Short returns and a weak
    discount reduce the bias of the final Q-values (Schwarzer et al., 2023).

    Attributes:
        updates: Number of updates over which the other values change geometrically.
        n_steps: First and last number of steps in n-step returns.
        gamma: First and last discount factor.
    """

    updates: int = 40_000
    n_steps: tuple[int, int] = (10, 5)
    gamma: tuple[float, float] = (0.98, 0.99)

    def after(self, updates: int) -> tuple[int, float]:
        """Returns the number of steps and the discount factor after a number of updates."""
        share = min(1.0, updates / self.updates)
        (n, n_end), (gamma, gamma_end) = self.n_steps, self.gamma
        steps = round(n ** (1 - share) * n_end**share)
        return steps, 1 - (1 - gamma) ** (1 - share) * (1 - gamma_end) ** share


class Update(NamedTuple):
    """Mini-batch of N transitions."""

    observations: Tensor  # [N, frames, columns]
    actions: Tensor  # [N]
    targets: Tensor  # samples of the return, [N, samples]


class StateDQN(ResumableDQN):
    """QR-DQN (Dabney et al., 2018) with an averaged network, for observations of `make_state_env`.

    The averaged network acts, provides the targets, and is the result of the training. The loop,
    schedules, and n-step returns are those of Stable-Baselines3.

    Args:
        policy: `StateDQNPolicy`.
        env: Environment of `make_state_env`.
        learning_rate: Constant or function of the remaining progress.
        horizon: Number of steps and discount factor of the returns.
        tau: First and last share of the trained network that enters the averaged network at each
            update. It changes geometrically: a short average speeds up early learning, and a long
            average reduces the noise of the result.
        **kwargs: Other arguments of DQN.
    """

    policy: StateDQNPolicy
    q_net: StateQNetwork  # type: ignore[assignment]
    q_net_target: StateQNetwork  # type: ignore[assignment]

    def __init__(
        self,
        policy: type[StateDQNPolicy],
        env: GymEnv,
        learning_rate: float | Schedule = 1e-3,
        horizon: Horizon | None = None,
        tau: tuple[float, float] = (0.005, 0.001),
        **kwargs: Any,
    ):
        self.horizon = horizon or Horizon()
        self.taus = tau
        kwargs |= {"replay_buffer_class": FrameReplayBuffer}
        super().__init__(policy, env, learning_rate, **kwargs)

    @property
    def evaluated(self) -> StateQNetwork:
        """Averaged network, which is the result of the training."""
        return self.q_net_target

    @property
    def acting(self) -> StateQNetwork:
        """Network that selects the actions during training."""
        return self.q_net_target

    def _on_step(self) -> None:
        """Updates the exploration rate. The averaged network changes in `train`."""
        self._n_calls += 1
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Returns actions of the acting network for observations [N, frames, columns].

        Unlike in Stable-Baselines3, each environment explores independently.
        """
        assert not isinstance(observation, dict)
        actions = self.acting.decide(observation).actions
        if not deterministic:
            explores = np.random.random(len(actions)) < self.exploration_rate
            n = self.action_space.n  # type: ignore[attr-defined]
            actions = np.where(explores, np.random.randint(n, size=len(actions)), actions)
        return actions, None

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Performs gradient steps on mini-batches from the replay buffer."""
        self._update_learning_rate(self.policy.optimizer)
        remaining, (first, last) = self._current_progress_remaining, self.taus
        self.tau = first**remaining * last ** (1 - remaining)
        losses = []
        for observations, actions, targets in self._updates(gradient_steps, batch_size):
            quantiles = self.q_net.network(observations)
            loss = quantile_huber_loss(quantiles[torch.arange(len(actions)), actions], targets)
            self.policy.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
            self._n_updates += 1
            losses.append(loss.item())
        self.last_loss = float(np.mean(losses))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", self.last_loss)

    def _updates(self, gradient_steps: int, batch_size: int) -> Iterator[Update]:
        """Yields random mini-batches with n-step targets of the averaged network."""
        buffer = self.replay_buffer
        assert isinstance(buffer, FrameReplayBuffer)
        for _ in range(gradient_steps):
            buffer.n_steps, buffer.gamma = self.horizon.after(self._n_updates)
            batch = buffer.sample(batch_size)
            with torch.no_grad():
                following = self.q_net_target.network(batch.next_observations)
                targets = quantile_targets(batch, following, buffer.gamma)
            yield Update(batch.observations, batch.actions.long().flatten(), targets)
