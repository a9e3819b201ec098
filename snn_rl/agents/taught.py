"""Distillation of a privileged teacher into a network that observes images."""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from snn_rl.agents import objectives
from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.state_policy import StateQNetwork
from snn_rl.core.networks import Network

_LEAST = 0.25  # weight of an observation without advantages, relative to the mean weight
_TINY = 1e-12  # weight of observations if all advantages are zero


class LabeledSamples(NamedTuple):
    """N observations with the teacher's Q-values."""

    observations: Tensor  # images [N, channels, height, width], uint8
    labels: Tensor  # [N, actions]


class LabeledReplayBuffer(FrameReplayBuffer):
    """Replay buffer that stores the teacher's Q-values of each observation.

    The states that the teacher observes are not stored, so the Q-values cannot be computed later.

    Args:
        *args: Arguments of `FrameReplayBuffer`.
        **kwargs: Arguments of `FrameReplayBuffer`.

    Attributes:
        labels: Q-values of the teacher, [rows, n_envs, actions].
        sizes: Mean absolute advantages of the teacher, [rows, n_envs].
    """

    fields: ClassVar[tuple[str, ...]] = (*FrameReplayBuffer.fields, "labels", "sizes")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        actions = self.action_space.n  # type: ignore[attr-defined]
        self.labels = np.zeros((self.buffer_size, self.n_envs, actions), np.float32)
        self.sizes = np.zeros((self.buffer_size, self.n_envs), np.float32)

    def label(self, q_values: NDArray[np.float32]) -> None:
        """Sets the labels [n_envs, actions] of the row that is written next."""
        self.labels[self.pos] = q_values
        self.sizes[self.pos] = np.abs(q_values - q_values.mean(1, keepdims=True)).mean(1)

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> LabeledSamples:
        """Samples observations with their labels, more often where the choice of action matters.

        The probability of an observation is proportional to the teacher's mean absolute advantage
        plus a quarter of its mean over the buffer.

        Args:
            batch_size: Number of observations.
            env: Not supported.
        """
        sizes = self.sizes[: self.size()].ravel()
        sums = np.cumsum(sizes + (_LEAST * sizes.mean() + _TINY), dtype=np.float64)
        picked = np.searchsorted(sums, np.random.random(batch_size) * sums[-1], side="right")
        rows, envs = np.divmod(np.minimum(picked, len(sums) - 1), self.n_envs)
        return LabeledSamples(
            self.to_torch(self.observations[rows, envs]), self.to_torch(self.labels[rows, envs])
        )


@torch.no_grad()
def center(network: Network) -> None:
    """Subtracts the mean of every filter in the first layer, which then ignores uniform brightness.

    No pixel is negative. Without this projection, the gradients of the first layer mainly shift the
    response to the background, and training takes longer.
    """
    weight = next(network.synapses.parameters(), network.head.weight)
    weight -= weight.mean(tuple(range(1, weight.dim())), keepdim=True)


class TaughtDQN(SpikingDQN):
    """`SpikingDQN` that acts in the environments of `make_taught_env` and learns from a teacher.

    The filters of the first layer keep a mean of zero, see `center`.

    Args:
        *args: Arguments of `SpikingDQN`.
        privileged: Teacher that observes the states of the environments.
        guided_steps: Agent steps over which the share of environments in which the teacher acts
            falls linearly from 1 to 0 (DAgger, Ross et al., 2011).
        **kwargs: Other arguments of `SpikingDQN`.
    """

    def __init__(self, *args: Any, privileged: StateQNetwork, guided_steps: int = 0, **kwargs: Any):
        self.privileged = privileged
        self.guided_steps = guided_steps
        kwargs |= {
            "objective": objectives.DISTILL,
            "replay_buffer_class": LabeledReplayBuffer,
        }
        super().__init__(*args, **kwargs)
        self.policy.optimizer.register_step_post_hook(lambda *_: center(self.network))

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Chooses actions, and labels the current observations in the replay buffer."""
        buffer = self.replay_buffer
        assert isinstance(buffer, LabeledReplayBuffer) and self.env is not None
        labels = self.privileged.decide(self.env.states).q_values.cpu().numpy()  # type: ignore[attr-defined]
        buffer.label(labels)
        actions, _ = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.num_timesteps < self.guided_steps:
            guided = np.random.random(n_envs) >= self.num_timesteps / self.guided_steps
            actions = np.where(guided, labels.argmax(1), actions)
        return actions, actions

    def _labels(self, batch: LabeledSamples) -> Tensor:
        return batch.labels
