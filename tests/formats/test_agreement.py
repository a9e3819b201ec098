"""Comparison of engines."""

import pytest
import torch

from snn_rl.core.conversion import quantize
from snn_rl.formats.agreement import Agreement, check, in_torch


def test_exact_network_with_other_bits_is_an_error(random_network, pixels):
    network, frames = quantize(random_network()), pixels()
    engine = in_torch(network, torch.channels_last)

    def next_float(part):
        q_values, spikes = engine(part)
        return torch.nextafter(q_values, torch.tensor(torch.inf)), spikes

    def flipped(part):
        q_values, spikes = engine(part)
        return q_values, [*spikes[:-1], spikes[-1].flip(-1)]

    found = dict(check(network, {"right": engine}, frames))
    assert len(found) == 6 and all(each.is_exact for each in found.values())
    for wrong in (next_float, flipped):
        with pytest.raises(RuntimeError, match="not bit-identical in wrong"):
            list(check(network, {"wrong": wrong}, frames))


def test_agreement_counts_spikes_and_actions():
    ours = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])]
    theirs = torch.tensor([[1.0, 0.5], [2.0, 1.0]]), [torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])]
    assert Agreement.of(ours, theirs) == Agreement(2, 0.75, 0.5, 2.0)
    assert Agreement.of(ours, (ours[0], [])) == Agreement(2, None, 1.0, 0.0)
