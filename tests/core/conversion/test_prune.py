"""Pruning, against sorted weights."""

import pytest
import torch

from snn_rl.core.conversion.prune import apply_masks_, magnitude_masks
from snn_rl.core.networks import Block, Conv, Dense, NetworkSpec, SpikingNetwork, SpikingOptions

SPEC = NetworkSpec((2, 8, 8), (Conv(4, 3, 1, 1), Block(6, 2), Dense(10)), 3, bias=True)


def test_smallest_weights_of_each_layer_are_removed():
    torch.manual_seed(0)
    network = SpikingNetwork(SPEC, SpikingOptions(1))
    before = {name: p.clone() for name, p in network.named_parameters()}
    masks = magnitude_masks(network, 0.75)
    apply_masks_(network, masks)
    assert len(masks) == 5  # three convolutions, the 1x1 shortcut, the dense layer
    for name, parameter in network.named_parameters():
        if name not in masks:
            assert torch.equal(parameter, before[name])
            continue
        values = sorted(before[name].abs().flatten().tolist())
        gone = int(0.75 * len(values))
        assert int((parameter == 0).sum()) == gone
        kept = parameter[parameter != 0]
        assert kept.abs().min() >= values[gone - 1]
        assert torch.equal(kept, before[name][parameter != 0])


def test_fraction_zero_removes_nothing():
    masks = magnitude_masks(SpikingNetwork(SPEC, SpikingOptions(1)), 0.0)
    assert all(bool((mask == 1).all()) for mask in masks.values())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_invalid_fractions_are_rejected(fraction):
    with pytest.raises(ValueError, match="fraction"):
        magnitude_masks(SpikingNetwork(SPEC, SpikingOptions(1)), fraction)
