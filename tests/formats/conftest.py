"""Networks and images for the export formats."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from snn_rl.core.networks import Conv, Dense, NetworkSpec, SpikingNetwork, SpikingOptions

SPEC = NetworkSpec((2, 20, 24), (Conv(8, 5, 2, 1), Conv(16, 3), Dense(32)), 3, bias=True)


@pytest.fixture
def spec() -> NetworkSpec:
    return SPEC


@pytest.fixture
def random_network() -> Callable[..., SpikingNetwork]:
    """Builds a random spiking network with options."""

    def build(timesteps: int = 1, **options: Any) -> SpikingNetwork:
        torch.manual_seed(0)
        network = SpikingNetwork(SPEC, SpikingOptions(timesteps, **options))
        with torch.no_grad():
            for synapse in network.synapses:
                synapse.weight.mul_(3.0)
            for neuron in network.neurons:
                neuron.v_threshold.fill_(0.4)
                neuron.leak.fill_(0.8)
        return network

    return build


@pytest.fixture
def pixels() -> Callable[..., Tensor]:
    """Draws random images."""

    def draw(count: int = 16) -> Tensor:
        return torch.randint(0, 256, (count, *SPEC.input_shape), dtype=torch.uint8)

    return draw
