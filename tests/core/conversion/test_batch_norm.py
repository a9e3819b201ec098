"""Fusion of batch normalization, against the network with batch normalization."""

from dataclasses import replace

import torch
from torch import nn

from snn_rl.core.conversion import fuse_batch_norm
from snn_rl.core.networks import AnalogNetwork


def test_fused_network_is_equivalent(batch_norm_network):
    network, x = batch_norm_network, torch.rand(4, 2, 12, 12, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused.double()(x), network(x), rtol=1e-6, atol=1e-6)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_clips_are_kept(batch_norm_network):
    spec = replace(batch_norm_network.spec, clip=True)
    torch.manual_seed(3)
    analog = AnalogNetwork(spec).eval()
    analog.mu.data.fill_(0.05)
    x = torch.rand(4, 2, 12, 12)
    fused = fuse_batch_norm(analog)
    assert fused.spec.clip
    torch.testing.assert_close(fused(x), analog(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fused(x), AnalogNetwork(spec).eval()(x))
