"""The analog network: a stack of layers with ReLU activations."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.core.lif import MIN_THRESHOLD
from snn_rl.core.networks.base import Network, head_outputs
from snn_rl.core.networks.spec import NetworkSpec

# Initial clipping threshold, which [ULL] does not state. With He initialization, activations are
# about 1, so a threshold of 4 clips hardly any neuron before training.
INITIAL_CLIP = 4.0


class AnalogNetwork(Network):
    """A network with a ReLU after every hidden layer, optionally clipped (`NetworkSpec.clip`).

    Args:
        spec: Layer stack.

    Attributes:
        mu: Clipping threshold of every hidden layer, [hidden layers]. None if the ReLUs are not
            clipped.
    """

    mu: nn.Parameter | None

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        layers = len(spec.shapes())
        self.mu = nn.Parameter(torch.full((layers,), INITIAL_CLIP)) if spec.clip else None

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the outputs and the ReLU activations, with T = 1, see `Network.activity`."""
        layers = []

        def fire(index: int, current: Tensor) -> Tensor:
            layers.append(self.fire(index, current))
            return layers[-1]

        last = self.propagate(x.unsqueeze(0), fire)
        return head_outputs(self.head, last[0].flatten(1)), layers

    def fire(self, index: int, current: Tensor) -> Tensor:
        """Returns the activity of a hidden layer: the ReLU, or clip(current, 0, mu).

        The gradient of a clipped neuron flows to mu instead of to the current.

        Source: [ULL] eq. 1.
        """
        activity = F.relu(current)
        return activity if self.mu is None else activity.clamp(max=self.mu[index])

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamps the clipping thresholds to positive values, see `Network.clamp_`."""
        if self.mu is not None:
            self.mu.clamp_(min=MIN_THRESHOLD)
