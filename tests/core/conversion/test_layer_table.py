"""The table of layers, against spikes counted in NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from snn_rl.core.conversion import convert, format_table, layer_table, spike_rates
from snn_rl.core.networks import (
    AnalogNetwork,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)

SPEC = NetworkSpec((2, 20, 20), (Conv(8, 4, 2), Conv(16, 3, 1), Dense(32)), 4, bias=True)


def images(n: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(n, *SPEC.input_shape, generator=torch.Generator().manual_seed(seed))


def converted(timesteps: int = 3) -> SpikingNetwork:
    torch.manual_seed(0)
    return convert(AnalogNetwork(SPEC), images(), SpikingOptions(timesteps))


@pytest.mark.parametrize("timesteps", [1, 6])
def test_table_equals_counted_spikes(timesteps):
    spiking, x = converted(timesteps), images(16, seed=1)
    with torch.no_grad():
        _, layers = spiking.activity(x)
        rows = layer_table(spiking, x, [])
    assert [row.name for row in rows] == ["conv1", "conv2", "fc1"]
    for row, neuron, layer in zip(rows, spiking.neurons, layers, strict=True):
        counts = layer.numpy().sum(0)  # by image and neuron
        assert row.v_threshold == neuron.v_threshold.item()
        assert row.spike_rate == pytest.approx(counts.sum() / counts.size)
        assert row.dead == pytest.approx((counts.max(0) == 0).mean())
    assert spike_rates(layers) == [row.spike_rate for row in rows]
    text = format_table(rows)
    assert len(text.splitlines()) == 4
    assert all(row.name in text and f"{row.v_threshold:.4f}" in text for row in rows)


def test_rates_of_analog_network_are_non_zero_fractions():
    torch.manual_seed(0)
    with torch.no_grad():
        _, layers = AnalogNetwork(SPEC).activity(images())
    expected = [np.count_nonzero(layer.numpy()) / layer.numel() for layer in layers]
    assert spike_rates(layers) == pytest.approx(expected)


def test_layer_that_never_fires_is_named_in_a_warning():
    spiking = converted()
    with torch.no_grad():
        spiking.neurons[1].v_threshold.fill_(1e9)
        spiking.synapses[2].bias.fill_(1.0)
        spiking.neurons[2].v_threshold.fill_(0.5)
    with pytest.warns(UserWarning, match=r"layer conv2 never fires: .*percentile") as caught:
        rows = layer_table(spiking, images(), [])
    assert len(caught) == 1
    assert [row.dead == 1.0 for row in rows] == [False, True, False]
    assert rows[1].spike_rate == 0.0


@pytest.mark.filterwarnings("error")
def test_firing_layers_give_no_warning():
    assert all(row.dead < 1 for row in layer_table(converted(), images(), []))
