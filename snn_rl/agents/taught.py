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
from snn_rl.utils.errors import DamagedFile

_LEAST = 0.25  # weight of an observation without advantages, relative to the mean weight
_TINY = 1e-12  # weight of observations if all advantages are zero
_LEAST_LOSS, _MOST_LOSS = 0.2, 20.0  # bounds of the weight of an observation's last loss
_LOSSES = "replay.losses"  # name in a checkpoint


class LabeledSamples(NamedTuple):
    """N observations with the teacher's Q-values."""

    observations: Tensor  # images [N, channels, height, width], uint8
    labels: Tensor  # [N, actions]
    indices: NDArray[np.intp]  # positions in the flattened buffer, [N]


class LabeledReplayBuffer(FrameReplayBuffer):
    """Replay buffer that stores the teacher's Q-values of each observation.

    The states that the teacher observes are not stored, so the Q-values cannot be computed later.

    Args:
        *args: Arguments of `FrameReplayBuffer`.
        **kwargs: Arguments of `FrameReplayBuffer`.

    Attributes:
        labels: Q-values of the teacher, [rows, n_envs, actions].
        sizes: Mean absolute advantages of the teacher, [rows, n_envs].
        losses: Weights of the last losses, [rows, n_envs]; 1 until an observation is sampled. They
            change after a row is stored, so they belong to the checkpoint and not to the journal.
    """

    fields: ClassVar[tuple[str, ...]] = (*FrameReplayBuffer.fields, "labels", "sizes")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        actions = self.action_space.n  # type: ignore[attr-defined]
        self.labels = np.zeros((self.buffer_size, self.n_envs, actions), np.float32)
        self.sizes = np.zeros((self.buffer_size, self.n_envs), np.float32)
        self.losses = np.ones((self.buffer_size, self.n_envs), np.float32)

    def label(self, q_values: NDArray[np.float32]) -> None:
        """Sets the labels [n_envs, actions] of the row that is written next."""
        self.labels[self.pos] = q_values
        self.sizes[self.pos] = np.abs(q_values - q_values.mean(1, keepdims=True)).mean(1)
        self.losses[self.pos] = 1.0

    def weigh(self, indices: NDArray[np.intp], losses: NDArray[np.float32]) -> None:
        """Weighs observations by their losses, relative to the mean of the mini-batch.

        Args:
            indices: `LabeledSamples.indices`.
            losses: Losses of these observations, [N].
        """
        relative = losses / (losses.mean() + _TINY) + _LEAST_LOSS
        self.losses.reshape(-1)[indices] = np.minimum(relative, _MOST_LOSS)

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> LabeledSamples:
        """Samples observations with their labels, more often where there is more to learn.

        The probability of an observation is proportional to the teacher's mean absolute advantage
        plus a quarter of its mean over the buffer, times the weight of the last loss, see `weigh`.

        Args:
            batch_size: Number of observations.
            env: Not supported.
        """
        sizes, losses = (each[: self.size()].ravel() for each in (self.sizes, self.losses))
        weights = (sizes + (_LEAST * sizes.mean() + _TINY)) * losses
        sums = np.cumsum(weights, dtype=np.float64)
        picked = np.searchsorted(sums, np.random.random(batch_size) * sums[-1], side="right")
        indices = np.minimum(picked, len(sums) - 1)
        rows, envs = np.divmod(indices, self.n_envs)
        return LabeledSamples(
            self.to_torch(self.observations[rows, envs]),
            self.to_torch(self.labels[rows, envs]),
            indices,
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

    def _loss(self, batch: LabeledSamples) -> Tensor:
        buffer, q_values = self.replay_buffer, self._q_values(batch)
        assert isinstance(buffer, LabeledReplayBuffer)
        losses = objectives.distill_losses(q_values, batch.labels, self.sharpness)
        buffer.weigh(batch.indices, losses.detach().cpu().numpy())
        self._record_agreement(q_values, batch.labels)
        return losses.mean()

    def tensors(self) -> dict[str, Tensor]:
        """Returns all tensors that training changes, with the weights of the losses."""
        buffer = self.replay_buffer
        assert isinstance(buffer, LabeledReplayBuffer)
        return super().tensors() | {_LOSSES: torch.from_numpy(buffer.losses)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors returned by `tensors`."""
        buffer = self.replay_buffer
        assert isinstance(buffer, LabeledReplayBuffer)
        others = dict(tensors)
        losses = others.pop(_LOSSES, None)
        if losses is None or losses.shape != buffer.losses.shape:
            raise DamagedFile(
                "the checkpoint has no weights of the losses: it is of an earlier version, or "
                "dqn.buffer_size or rollout.n_envs has changed"
            )
        super().load_tensors(others)
        buffer.losses[:] = losses.numpy()
