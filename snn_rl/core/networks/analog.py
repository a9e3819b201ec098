"""The analog network: a layer stack of ReLU units."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.core.lif import MIN_THRESHOLD
from snn_rl.core.networks.base import Network, head_outputs
from snn_rl.core.networks.spec import NetworkSpec

# Initial clip. [ULL] does not state the value; with He initialization activities are about 1, so
# this one clips hardly any neuron before training.
INITIAL_CLIP = 4.0


class AnalogNetwork(Network):
    """A network with a ReLU after every hidden layer, clipped if the spec says so.

    Args:
        spec: Layer stack.

    Attributes:
        mu: Clip of every hidden layer, [hidden layers]; None without clips.
    """

    mu: nn.Parameter | None

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        layers = len(spec.shapes())
        self.mu = nn.Parameter(torch.full((layers,), INITIAL_CLIP)) if spec.clip else None

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`; T = 1 and the activity is the ReLU's output."""
        layers = []

        def fire(index: int, current: Tensor) -> Tensor:
            layers.append(self.fire(index, current))
            return layers[-1]

        last = self.propagate(x.unsqueeze(0), fire)
        return head_outputs(self.head, last[0].flatten(1)), layers

    def fire(self, index: int, current: Tensor) -> Tensor:
        """Returns the activity of a hidden layer: the ReLU, or clip(current, 0, mu).

        The gradient of a clipped neuron goes to mu instead of to the current.

        Source: [ULL] eq. 1.
        """
        activity = F.relu(current)
        return activity if self.mu is None else activity.clamp(max=self.mu[index])

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keeps the clips above zero, see `Network.clamp_`."""
        if self.mu is not None:
            self.mu.clamp_(min=MIN_THRESHOLD)
