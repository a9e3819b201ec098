"""Energy of a decision, against the numbers of the papers and sums by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from snn_rl.core.energy import FLOAT32, INT32, energy, macs, memory_accesses, operations, spikes
from snn_rl.core.networks import IMAGE_NETWORKS, AnalogNetwork, Conv, Dense, NetworkSpec
from snn_rl.core.networks.q_networks import cartpole, mnih

PONG_ACTIONS = 6
SINGLE = mnih((1, 84, 84), PONG_ACTIONS)
STACK = mnih((4, 84, 84), PONG_ACTIONS)


@pytest.mark.parametrize("spec", [SINGLE, STACK, cartpole((3, 40, 120), 2)])
def test_macs_equal_flop_counter(spec):
    """A multiply-accumulate is two floating-point operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        AnalogNetwork(spec)(torch.zeros(1, *spec.input_shape))
    assert 2 * sum(macs(spec)) == counter.get_total_flops()


def test_macs_of_mnih_by_layer():
    hand = [
        20 * 20 * 32 * 64,
        9 * 9 * 64 * 32 * 16,
        7 * 7 * 64 * 64 * 9,
        7 * 7 * 64 * 512,
        512 * PONG_ACTIONS,
    ]
    assert macs(SINGLE) == hand
    assert macs(STACK) == [4 * hand[0], *hand[1:]]
    assert macs(SINGLE)[0] / 1e6 == pytest.approx(0.819, abs=5e-4)
    assert sum(macs(SINGLE)) / 1e6 == pytest.approx(6.888, abs=5e-4)


@pytest.mark.parametrize("name", sorted(IMAGE_NETWORKS))
def test_weights_are_read_at_every_timestep(name):
    spec = IMAGE_NETWORKS[name]((3, 32, 32), 10)
    weights = sum(p.numel() for p in AnalogNetwork(spec).parameters() if p.dim() > 1)
    assert memory_accesses(spec, 1) == weights
    between = memory_accesses(spec, 4) - 4 * weights
    assert between == 3 * sum(torch.Size(shape).numel() for shape in spec.shapes())


def test_memory_accesses_of_vgg16_equal_paper():
    """Checks the ratio in [IIR] "Inference Efficiency"."""
    spec = IMAGE_NETWORKS["vgg16"]((3, 32, 32), 10)
    ratio = memory_accesses(spec, 5) / memory_accesses(spec, 1)
    assert ratio == pytest.approx(5.03, abs=5e-3)


@pytest.mark.parametrize(("rate", "ratio"), [(0.08, 7.53), (0.42, 5.23), (2.92, 1.61)])
@pytest.mark.parametrize("own_layer", [False, True])
def test_ratio_at_average_rates_equals_papers(rate, ratio, own_layer):
    """Checks [IIR] section 5 and A.5.2: 7.55, 5.22 and 1.75 for T1, T5 and T100 on one frame.

    An average rate is the same in every layer, so the indexing makes no difference.
    """
    result = energy(SINGLE, [rate] * 4, own_layer=own_layer)
    assert result.ratio == pytest.approx(ratio, abs=5e-3)


def test_four_frames_limit_the_ratio():
    silent = energy(STACK, [0.0] * 4)
    assert silent.ratio == pytest.approx(sum(macs(STACK)) / macs(STACK)[0])
    assert silent.ratio == pytest.approx(2.85, abs=5e-3)
    assert energy(STACK, [0.01] * 4).ratio < silent.ratio


@pytest.mark.parametrize(("costs", "mac", "ac"), [(FLOAT32, 4.6, 0.9), (INT32, 3.2, 0.1)])
def test_energy_by_hand(costs, mac, ac):
    spec = NetworkSpec((1, 5, 5), (Conv(2, 3, 2), Dense(3)), 4)
    first, second, head = 9 * 2 * 4, 8 * 3, 3 * 4
    result = energy(spec, [0.5, 0.25], costs)
    assert result.analog == pytest.approx((first + second + head) * mac)
    assert result.spiking == pytest.approx(first * mac + (second * 0.5 + head * 0.25) * ac)
    assert result.ratio == pytest.approx(result.analog / result.spiking)


def test_own_layer_counts_spikes_of_the_layer():
    """Layer l counts by its own rate; the head, which does not fire, by the rate before it."""
    rates = [0.5, 0.25, 0.125, 0.75]
    mac, ac = FLOAT32
    counts = macs(SINGLE)
    entering = sum(n * r for n, r in zip(counts[1:], rates, strict=True))
    own = sum(n * r for n, r in zip(counts[1:4], rates[1:], strict=True)) + counts[4] * rates[3]
    base = counts[0] * mac
    assert energy(SINGLE, rates).spiking == pytest.approx(base + entering * ac)
    assert energy(SINGLE, rates, own_layer=True).spiking == pytest.approx(base + own * ac)


@pytest.mark.parametrize("count", [3, 5])
def test_wrong_number_of_rates_is_rejected(count):
    with pytest.raises(ValueError, match="spike rates for 4 hidden layers"):
        energy(SINGLE, [0.1] * count)


def test_input_spikes_count_as_accumulates():
    rates = [0.1, 0.2, 0.3, 0.4]
    first = macs(SINGLE)[0]
    direct = energy(SINGLE, rates)
    spiking = energy(SINGLE, rates, input_rate=20.0)
    mac, ac = FLOAT32
    assert spiking.analog == direct.analog
    assert spiking.spiking == pytest.approx(direct.spiking - first * mac + first * 20.0 * ac)


def test_operations_and_spikes_by_hand():
    spec = NetworkSpec((1, 5, 5), (Conv(2, 3, 2), Dense(3)), 4)
    first, second, head = 9 * 2 * 4, 8 * 3, 3 * 4
    assert operations(spec, [0.5, 0.25]) == (first, second * 0.5 + head * 0.25)
    poisson = operations(spec, [0.5, 0.25], input_rate=3.0)
    assert poisson == (0, first * 3 + second * 0.5 + head * 0.25)
    assert spikes(spec, [0.5, 0.25]) == (8 * 0.5 + 3 * 0.25, 11)
