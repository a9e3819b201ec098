"""The analog network: a layer stack of ReLU units."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.core.lif import MIN_THRESHOLD
from snn_rl.core.networks.base import INITIAL_CLIP, Network, head_outputs
from snn_rl.core.networks.spec import NetworkSpec


class AnalogNetwork(Network):
    """The ordinary network: ReLU after every hidden layer, clipped where the spec says so.

    Attributes:
        mu: With a clip, the largest activity of every hidden layer, [hidden layers]; else None.
    """

    mu: nn.Parameter | None

    def __init__(self, spec: NetworkSpec):
        super().__init__(spec)
        count = len(spec.shapes())
        self.mu = nn.Parameter(torch.full((count,), INITIAL_CLIP)) if spec.clip else None

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`; T = 1 and the activity is the ReLU's output."""
        layers = []

        def fire(index: int, current: Tensor) -> Tensor:
            activity = self.fire(index, current)
            layers.append(activity)
            return activity

        last = self.propagate(x.unsqueeze(0), fire)
        return head_outputs(self.head, last[0].flatten(1)), layers

    def fire(self, index: int, current: Tensor) -> Tensor:
        """Activity of hidden layer `index`: clip(current, 0, mu), or the plain ReLU.

        Source: [ULL] eq. 1. Where a neuron is clipped, the gradient goes to mu instead of to the
        current.

        Args:
            index: From 0.
            current: Any shape.
        """
        activity = F.relu(current)
        return activity if self.mu is None else activity.clamp(max=self.mu[index])

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keeps the clips above zero: at or below it nothing of a layer would be left."""
        if self.mu is not None:
            self.mu.clamp_(min=MIN_THRESHOLD)
