"""Conversion, against simulations with the weights of the analog network."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snn_rl.core.conversion import (
    ConversionError,
    ThresholdSearch,
    convert,
    fuse_batch_norm,
    spike_rates,
)
from snn_rl.core.conversion.thresholds import (
    clip_thresholds,
    find_scales,
    percentiles,
)
from snn_rl.core.networks import (
    AnalogNetwork,
    AvgPool,
    Block,
    Conv,
    Dense,
    MaxPool,
    NetworkSpec,
    SpikingOptions,
)

SPEC = NetworkSpec((2, 20, 20), (Conv(8, 4, 2), Conv(16, 3, 1), Dense(32)), 4, bias=True)


def network(seed: int = 0, spec: NetworkSpec = SPEC) -> AnalogNetwork:
    """Returns a network with PyTorch's initial weights."""
    torch.manual_seed(seed)
    return AnalogNetwork(spec)


def images(n: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *SPEC.input_shape, generator=generator)


def mostly_negative(layer: int) -> AnalogNetwork:
    """Returns a network in which 3 % of the currents of one layer are positive."""
    analog = network()
    with torch.no_grad():
        current = images()
        for synapse in analog.synapses[: layer + 1]:
            before = F.relu(current) if synapse is not analog.synapses[0] else current
            current = synapse(before.flatten(1) if isinstance(synapse, nn.Linear) else before)
        analog.synapses[layer].bias -= torch.quantile(current.flatten()[:100_000], 0.97)
    return analog


@pytest.mark.parametrize(("layer", "name"), [(0, "conv1"), (1, "conv2"), (2, "fc1")])
def test_negative_percentile_names_the_layer(layer, name):
    analog = mostly_negative(layer)
    with pytest.raises(ConversionError, match=f"layer {name}: .*90th percentile over all"):
        convert(analog, images(), SpikingOptions(3), ThresholdSearch(over="all"))
    assert convert(analog, images(), SpikingOptions(3)).neurons[layer].v_threshold > 0


@pytest.mark.parametrize("q", [90.0, 100.0])
@pytest.mark.parametrize("timesteps", [1, 4, 60])  # 60: in windows
def test_thresholds_are_found_with_spiking_predecessors(timesteps, q):
    """The second implementation steps through time and scales unit spikes at the next layer."""
    analog, x = network(), images(8)
    spiking = convert(analog, x, SpikingOptions(timesteps), ThresholdSearch(percentile=q))

    inputs = [x] * timesteps
    scale = 1.0
    for synapse, neuron in zip(analog.synapses, spiking.neurons, strict=True):
        with torch.no_grad():
            flat = [s.flatten(1) if isinstance(synapse, nn.Linear) else s for s in inputs]
            currents = [synapse(scale * s) for s in flat]
        best = max(
            np.percentile(c[c > 0].numpy(), q, method="inverted_cdf")
            for c in currents
            if (c > 0).any()
        )
        assert neuron.v_threshold.item() == pytest.approx(best, rel=1e-5)
        assert neuron.leak.item() == 1.0
        # continue with the stored threshold, so that its rounding has no effect on later layers
        scale = neuron.v_threshold.item()
        u = torch.zeros_like(currents[0])
        inputs = []
        for c in currents:
            u = u + c
            inputs.append((u > scale).float())
            u = u - scale * inputs[-1]


def test_search_timesteps_may_differ_from_t():
    few, many = (
        convert(network(), images(8), SpikingOptions(5)),
        convert(network(), images(8), SpikingOptions(50)),
    )
    limited = convert(network(), images(8), SpikingOptions(50), ThresholdSearch(timesteps=5))
    longer = convert(network(), images(8), SpikingOptions(5), ThresholdSearch(timesteps=50))
    assert (limited.timesteps, longer.timesteps) == (50, 5)
    found = [[n.v_threshold.item() for n in net.neurons] for net in (few, many, limited, longer)]
    assert found[2] == pytest.approx(found[0], rel=1e-6)
    assert found[3] == pytest.approx(found[1], rel=1e-6)
    assert found[2][1:] != pytest.approx(found[1][1:], rel=1e-3)


def test_thresholds_of_later_layers_depend_on_timesteps():
    one, five = (convert(network(), images(8), SpikingOptions(t)).neurons for t in (1, 5))
    assert one[0].v_threshold == five[0].v_threshold
    assert all(a.v_threshold != b.v_threshold for a, b in zip(one[1:], five[1:], strict=True))


def test_thresholds_are_folded_into_next_weights_but_not_biases():
    analog = network()
    spiking = convert(analog, images(), SpikingOptions(3))
    ours, theirs = [*spiking.synapses, spiking.head], [*analog.synapses, analog.head]
    scales = [1.0, *(neuron.v_threshold.item() for neuron in spiking.neurons)]
    for mine, other, scale in zip(ours, theirs, scales, strict=True):
        torch.testing.assert_close(mine.weight, other.weight * scale)
        assert torch.equal(mine.bias, other.bias)


def test_analog_network_is_unchanged():
    analog, x = network(), images()
    before, out = copy.deepcopy(analog.state_dict()), analog(x)
    spiking = convert(analog, x, SpikingOptions(3))
    with torch.no_grad():
        for parameter in spiking.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in analog.state_dict().items())
    assert torch.equal(analog(x), out)
    assert all(parameter.requires_grad for parameter in analog.parameters())


@pytest.mark.parametrize("timesteps", [1, 3])
def test_result_is_trainable_and_has_the_options(timesteps):
    spiking = convert(
        network(), images(), SpikingOptions(timesteps, surrogate="boxcar", encoding="poisson")
    )
    assert (spiking.timesteps, spiking.options.surrogate) == (timesteps, "boxcar")
    assert (spiking.options.encoding, spiking.spec) == ("poisson", SPEC)
    frozen = {name for name, p in spiking.named_parameters() if not p.requires_grad}
    assert frozen == ({f"neurons.{i}.leak" for i in range(3)} if timesteps == 1 else set())


def errors(
    analog: AnalogNetwork, timesteps: int, x: Tensor
) -> tuple[list[float], list[float], float]:
    """Measures how a conversion differs from the analog network.

    Returns:
        Mean error of spikes * threshold over the largest activation, by layer; root mean square
        error over the root mean square activation, by layer; and the same of the Q-values.
    """
    with torch.no_grad():
        q, activations = analog.activity(x)
        spiking = convert(analog, x, SpikingOptions(timesteps), ThresholdSearch(percentile=100.0))
        out, spikes = spiking.activity(x)
    of_largest, relative = [], []
    for neuron, s, a in zip(spiking.neurons, spikes, activations, strict=True):
        difference = s.mean(0) * neuron.v_threshold.item() - a[0]
        of_largest.append(float(difference.abs().mean() / a.max()))
        relative.append(float(difference.norm() / a.norm()))
    return of_largest, relative, float((out - q).norm() / q.norm())


@pytest.mark.parametrize("seed", range(3))
def test_error_decreases_with_timesteps(seed):
    """With the threshold at the largest activation, the error is proportional to 1 / T.

    Every layer fires up to one spike late, so the errors of the layers add up.
    """
    analog, x = network(seed), images()
    _, coarse, coarse_q = errors(analog, 10, x)
    of_largest, fine, fine_q = errors(analog, 100, x)
    assert max(of_largest) < 0.02
    for depth, (few, many) in enumerate(zip(coarse, fine, strict=True), 1):
        assert many < 0.04 * depth
        assert many < few / 4
    assert fine_q < 0.05
    assert fine_q < coarse_q / 4


@pytest.mark.parametrize("seed", range(3))
def test_error_of_first_layer_is_below_one_spike(seed):
    """For a constant current, 0 <= a - v * s / T <= v / T."""
    timesteps, x = 50, images()
    analog = network(seed)
    with torch.no_grad():
        _, activations = analog.activity(x)
        spiking = convert(analog, x, SpikingOptions(timesteps), ThresholdSearch(percentile=100.0))
        _, spikes = spiking.activity(x)
    v = spiking.neurons[0].v_threshold.item()
    short = activations[0][0] - v * spikes[0].mean(0)
    assert short.min() > -1e-5 * v
    assert short.max() < v / timesteps * (1 + 1e-3)


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_q_values_keep_the_scale_of_the_analog_network(factor):
    """Scales all weights, with biases that scale all currents alike."""
    analog, x = network(), images()
    with torch.no_grad():
        for layer in [*analog.synapses, analog.head]:
            layer.weight.mul_(factor)
            if layer is analog.synapses[0]:
                layer.bias.mul_(factor)
        analog.synapses[1].bias.mul_(factor**2)
        analog.synapses[2].bias.mul_(factor**3)
        analog.head.bias.mul_(factor**4)
        ratio = (
            convert(analog, x, SpikingOptions(50), ThresholdSearch(percentile=100.0))(x)
            .abs()
            .mean()
            / analog(x).abs().mean()
        )
    assert math.isclose(ratio, 1.0, abs_tol=0.1)


@pytest.mark.parametrize("module", [nn.Sequential(nn.Linear(4, 2)), nn.MaxPool2d(2)])
def test_other_modules_are_rejected(module):
    with pytest.raises(ConversionError, match=type(module).__name__):
        convert(module, images(), SpikingOptions(3))


def test_unknown_layers_are_rejected_by_name():
    pooled = network()
    pooled.synapses[1] = nn.MaxPool2d(3, 1)
    with pytest.raises(ConversionError, match=r"synapses\.1"):
        convert(pooled, images(), SpikingOptions(3))
    extended = network()
    extended.normalisation = nn.BatchNorm2d(8)
    with pytest.raises(ConversionError, match="normalisation"):
        convert(extended, images(), SpikingOptions(3))


@torch.no_grad()
def test_thresholds_are_folded_into_shortcuts(batch_norm_network):
    """At large T, rates times thresholds approach the activations after both kinds of shortcuts."""
    network = batch_norm_network.float()
    x = torch.rand(6, 2, 12, 12)
    spiking = convert(network, x, SpikingOptions(400), ThresholdSearch(percentile=100.0))
    activations = fuse_batch_norm(network).activity(x)[1]

    def error(layer: int) -> float:
        rate = spiking.activity(x)[1][layer].mean(0)
        return float(
            (rate * spiking.neurons[layer].v_threshold - activations[layer][0]).abs().max()
        )

    assert min(activations[layer].max() for layer in (2, 4)) > 0.25
    assert error(2) < 0.02
    assert error(4) < 0.02
    spiking.synapses[3].weight.fill_(0.5 * spiking.neurons[0].v_threshold)
    assert error(2) > 0.05


CLIPPED = NetworkSpec(
    (2, 12, 12),
    (Conv(6, 3, 1, 1), MaxPool(2), Block(6), Block(8, 2), Dense(16)),
    3,
    clip=True,
)


def clipped() -> AnalogNetwork:
    """Returns a network with each clip at the 95th percentile of the positive activity."""
    torch.manual_seed(5)
    network = AnalogNetwork(CLIPPED)
    with torch.no_grad():
        for i in range(len(network.mu)):
            activity = network.activity(seen())[1][i]
            network.mu[i] = torch.quantile(activity[activity > 0], 0.95)
    return network


def seen() -> Tensor:
    return torch.rand(16, 2, 12, 12, generator=torch.Generator().manual_seed(6))


def staircase(x: Tensor, top: float, amplitude: float, timesteps: int) -> Tensor:
    """Returns the mean output of a neuron: [ULL] eq. 5 with the amplitude of eq. 8.

    A neuron fires strictly above its threshold, so at the edge of a step the lower one counts.
    """
    return amplitude / timesteps * ((x * timesteps / top).ceil() - 1).clamp(0, timesteps)


@pytest.mark.parametrize("timesteps", [1, 2, 3])
@pytest.mark.parametrize("thresholds", ["clip", "alpha_beta"])
@torch.no_grad()
def test_converted_layer_is_staircase_of_paper(thresholds, timesteps):
    torch.manual_seed(1)
    spec = NetworkSpec((1, 4, 4), (Dense(40),), 3, clip=True)
    analog, x = AnalogNetwork(spec), torch.rand(20, 1, 4, 4)
    analog.mu.fill_(0.4)
    current = analog.synapses[0](x.flatten(1))
    top = amplitude = float(analog.mu)
    if thresholds == "alpha_beta":
        alpha, beta = find_scales(percentiles(current[current > 0]), top, timesteps)
        top, amplitude = alpha * top, alpha * beta * top
        assert alpha < 1 < beta
    spiking = convert(analog, x, SpikingOptions(timesteps), ThresholdSearch(method=thresholds))
    expected = analog.head(staircase(current, top, amplitude, timesteps))
    torch.testing.assert_close(spiking(x), expected)
    assert float(spiking.neurons[0].v_threshold) == pytest.approx(top)


@torch.no_grad()
def test_amplitudes_are_folded_through_pooling_and_shortcuts():
    """The simulation has the analog weights and spikes with amplitudes."""
    analog, x = clipped(), seen()
    spiking = convert(analog, x, SpikingOptions(2), ThresholdSearch(method="alpha_beta"))
    found = clip_thresholds(analog, x, 2, ThresholdSearch("alpha_beta"))
    assert all(threshold < amplitude for threshold, amplitude in found)
    rests: dict[int, Tensor] = {}

    def neuron(i: int, current: Tensor) -> Tensor:
        u = rests.get(i, 0) + current
        spikes = (u > spiking.neurons[i].v_threshold).float()
        rests[i] = u - spiking.neurons[i].v_threshold * spikes
        return found[i][1] * spikes

    total = torch.zeros(len(x), 3)
    synapses = analog.synapses
    for _ in range(2):
        first = F.max_pool2d(neuron(0, synapses[0](x)), 2)
        inner = neuron(1, synapses[1](first))
        block = neuron(2, synapses[2](inner) + first)
        inner = neuron(3, synapses[4](block))
        block = neuron(4, synapses[5](inner) + synapses[6](block))
        total += analog.head(neuron(5, synapses[7](block.flatten(1))))
    out, layers = spiking.activity(x)
    torch.testing.assert_close(out, total / 2, rtol=1e-4, atol=1e-5)
    assert all(0 < rate for rate in spike_rates(layers))
    thresholds = [neuron.v_threshold.item() for neuron in spiking.neurons]
    assert thresholds == pytest.approx([threshold for threshold, _ in found])


@torch.no_grad()
def test_alpha_beta_keeps_mean_activity_at_few_timesteps():
    analog, x = clipped(), seen()
    mean = float(analog.activity(x)[1][0].mean())

    def decoded(thresholds: str) -> float:
        spiking = convert(analog, x, SpikingOptions(2), ThresholdSearch(method=thresholds))
        scaled = clip_thresholds(analog, x, 2, ThresholdSearch(thresholds))
        return float(spiking.activity(x)[1][0].mean()) * scaled[0][1]

    assert decoded("alpha_beta") == pytest.approx(mean, rel=0.05)
    assert decoded("clip") < 0.8 * mean


def test_method_clip_takes_clips_and_percentile_ignores_them():
    analog, x = clipped(), seen()
    spiking = convert(analog, x, SpikingOptions(2), ThresholdSearch(method="clip"))
    assert [n.v_threshold.item() for n in spiking.neurons] == pytest.approx(analog.mu.tolist())
    searched = convert(analog, x, SpikingOptions(2))
    plain = AnalogNetwork(replace(CLIPPED, clip=False))
    plain.load_state_dict({k: v for k, v in analog.state_dict().items() if k != "mu"})
    assert torch.equal(searched(x), convert(plain, x, SpikingOptions(2))(x))
    assert not spiking.spec.clip


@pytest.mark.parametrize("thresholds", ["clip", "alpha_beta"])
def test_network_without_clips_is_rejected(thresholds):
    with pytest.raises(ConversionError, match="requires a network with clipped ReLUs"):
        convert(network(), images(), SpikingOptions(2), ThresholdSearch(method=thresholds))


@pytest.mark.parametrize("over", ["positive", "all"])
def test_layer_without_positive_current_is_rejected(over):
    analog = clipped()
    with torch.no_grad():
        analog.synapses[0].weight.abs_().neg_()
    with pytest.raises(ConversionError, match=r"layer conv1: no entry .* positive"):
        convert(analog, seen(), SpikingOptions(2), ThresholdSearch(over=over, method="alpha_beta"))


RESIDUAL = NetworkSpec((2, 8, 8), (Conv(4, 3, 1, 1), AvgPool(2), Block(4), Block(6, 2)), 3)


def unit_spikes(
    analog: AnalogNetwork, thresholds: list[float], x: Tensor, timesteps: int
) -> list[list[Tensor]]:
    """Simulates [STDB]'s network: analog weights, unit spikes, and given thresholds.

    Returns:
        Spikes of every hidden layer at every timestep.
    """
    first, a1, a2, _, b1, b2, around = analog.synapses
    rest: list[Tensor | float] = [0.0] * 5
    trains: list[list[Tensor]] = [[] for _ in range(5)]

    def fire(i: int, current: Tensor) -> Tensor:
        u = rest[i] + current
        s = (u > thresholds[i]).to(u.dtype)
        rest[i] = u - thresholds[i] * s
        trains[i].append(s)
        return s

    for _ in range(timesteps):
        s = F.avg_pool2d(fire(0, first(x)), 2)
        s = fire(2, a2(fire(1, a1(s))) + s)
        fire(4, b2(fire(3, b1(s))) + around(s))
    return trains


@pytest.mark.parametrize("scale", [1.0, 0.7])
@torch.no_grad()
def test_unity_blocks_and_scale_equal_unit_spikes(scale):
    """The factor scales the layers before the blocks; the thresholds of the blocks stay 1."""
    torch.manual_seed(0)
    analog = AnalogNetwork(RESIDUAL).double()
    for layer in analog.synapses:
        layer.weight.mul_(3.0 if isinstance(layer, nn.Conv2d) else 1.0)
    x = torch.rand(5, 2, 8, 8, dtype=torch.float64)
    spiking = convert(
        analog.float(),
        x.float(),
        SpikingOptions(12),
        ThresholdSearch(percentile=100.0, blocks="unity", scale=scale),
    ).double()
    analog.double()
    balanced = float(analog.synapses[0](x).max())
    assert spiking.neurons[0].v_threshold.item() == pytest.approx(scale * balanced, rel=1e-5)
    stored = spiking.neurons[0].v_threshold.item()
    expected = unit_spikes(analog, [stored, *[1.0] * 4], x, 12)
    layers = spiking.activity(x)[1]
    for layer, train in zip(layers, expected, strict=True):
        assert 0.005 < layer.mean() < 0.995
        # the folded weights are rounded, so spikes at the threshold may differ
        assert (layer != torch.stack(train)).double().mean() < 2e-3
    searched = convert(
        analog.float(),
        x.float(),
        SpikingOptions(12),
        ThresholdSearch(percentile=100.0, scale=scale),
    )
    assert any(
        abs(a.v_threshold.item() - b.v_threshold.item()) > 0.1
        for a, b in zip(searched.neurons[1:], spiking.neurons[1:], strict=True)
    )


def test_given_thresholds_are_used():
    analog, x = network(), images()
    found = convert(analog, x, SpikingOptions(1))
    thresholds = [2.0 * float(neuron.v_threshold) for neuron in found.neurons]
    spiking = convert(analog, x, SpikingOptions(1), ThresholdSearch(given=thresholds))
    assert [float(neuron.v_threshold) for neuron in spiking.neurons] == pytest.approx(thresholds)
    torch.testing.assert_close(
        spiking.head.weight, analog.head.weight * spiking.neurons[-1].v_threshold
    )
    with pytest.raises(ConversionError, match="2 thresholds were given for 3 hidden layers"):
        convert(analog, x, SpikingOptions(1), ThresholdSearch(given=thresholds[:2]))
