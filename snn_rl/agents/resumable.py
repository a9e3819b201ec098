"""Base class of the agents that `train_stage` trains."""

from typing import Any

from stable_baselines3 import DQN
from torch import Tensor, nn

from snn_rl.files.checkpoint import check_parameters
from snn_rl.files.optimizer_state import load_moments, moments
from snn_rl.utils.errors import DamagedFile

_POLICY = "policy."  # prefix of the policy's tensors


class ResumableDQN(DQN):
    """DQN whose state can be saved as named tensors.

    Attributes:
        last_loss: Mean loss of the most recent call to `train`; None before the first call.
    """

    last_loss: float | None = None

    @property
    def evaluated(self) -> Any:
        """Q-network that is scored and saved, with the attribute `network`."""
        return self.q_net

    @property
    def network(self) -> nn.Module:
        """Network inside the evaluated Q-network."""
        network: nn.Module = self.evaluated.network
        return network

    def tensors(self) -> dict[str, Tensor]:
        """Returns all tensors that training changes: both networks and the optimizer state."""
        weights = {f"{_POLICY}{name}": t for name, t in self.policy.state_dict().items()}
        return weights | moments(self.policy.optimizer)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors returned by `tensors`."""
        policy = {n.removeprefix(_POLICY): t for n, t in tensors.items() if n.startswith(_POLICY)}
        try:
            self.policy.load_state_dict(check_parameters(policy, "the checkpoint"))
            load_moments(self.policy.optimizer, tensors)
        except (RuntimeError, ValueError) as error:
            raise DamagedFile(f"the checkpoint does not fit the network: {error}") from error
