"""Fixtures of the conversion tests."""

import pytest
import torch
from torch import nn

from snn_rl.core.networks import AnalogNetwork, AvgPool, Block, Conv, Dense, NetworkSpec


@pytest.fixture
def batch_norm_network() -> AnalogNetwork:
    """A residual network with running statistics of batch normalization, in float64."""
    layers = (Conv(4, 3, 1, 1), AvgPool(2), Block(4), Block(6, 2), Dense(8))
    torch.manual_seed(3)
    network = AnalogNetwork(NetworkSpec((2, 12, 12), layers, 3, batch_norm=True)).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.train()
    for _ in range(5):
        network(torch.rand(16, 2, 12, 12, dtype=torch.float64))
    return network.eval()
