"""Conversion: threshold search, the folded scale, refusals and warnings."""

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
    format_table,
    fuse_batch_norm,
    layer_table,
    spike_rates,
)
from snn_rl.core.conversion.thresholds import (
    clip_thresholds,
    find_scales,
    find_threshold,
    percentile,
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
    """A network with random weights, as PyTorch initialises them."""
    torch.manual_seed(seed)
    return AnalogNetwork(spec)


def images(n: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *SPEC.input_shape, generator=generator)


@pytest.mark.parametrize("size", [1, 2, 9, 64, 1001])
@pytest.mark.parametrize("q", [0.5, 12.5, 50.0, 90.0, 99.0, 100.0])
def test_percentile_is_numpy_s(size, q):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size))
    expected = np.percentile(values.numpy(), q, method="inverted_cdf")
    assert percentile(values, q).item() == expected


def test_percentile_takes_any_shape_and_more_than_torch_quantile_does():
    values = torch.arange(17_000_000, dtype=torch.float32).reshape(1000, -1)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values.flatten(), 0.9)
    # 24 bits hold every integer up to 16,777,216, far above the 90th percentile
    assert percentile(values, 90.0).item() == 0.9 * values.numel() - 1


@pytest.mark.parametrize("q", [50.0, 90.0, 100.0])
@pytest.mark.parametrize("over", ["positive", "all"])
def test_threshold_is_the_largest_of_the_timesteps_percentiles(q, over):
    current = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(1)) + 0.2
    found = []
    for step in current.numpy():
        values = step[step > 0] if over == "positive" else step.flatten()
        found.append(np.percentile(values, q, method="inverted_cdf"))
    assert find_threshold(current, q, over) == max(found)
    assert len(set(found)) == 4


def test_a_step_without_positive_entries_does_not_spoil_the_others():
    current = torch.tensor([[[-1.0, -2.0]], [[3.0, -1.0]], [[0.0, 0.0]]])
    assert find_threshold(current, 90.0) == 3.0


@pytest.mark.parametrize("over", ["positive", "all"])
@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_no_positive_threshold_is_refused(over, value):
    with pytest.raises(ConversionError, match="positive"):
        find_threshold(torch.full((2, 3, 4), value), 90.0, over)


def mostly_negative(layer: int) -> AnalogNetwork:
    """A network one of whose layers has fewer than a tenth of its currents above zero."""
    analog = network()
    with torch.no_grad():
        current = images()
        for synapse in analog.synapses[: layer + 1]:
            before = F.relu(current) if synapse is not analog.synapses[0] else current
            current = synapse(before.flatten(1) if isinstance(synapse, nn.Linear) else before)
        analog.synapses[layer].bias -= torch.quantile(current.flatten()[:100_000], 0.97)
    return analog


@pytest.mark.parametrize(("layer", "name"), [(0, "conv1"), (1, "conv2"), (2, "fc1")])
def test_a_negative_percentile_over_all_entries_is_refused_and_the_layer_named(layer, name):
    analog = mostly_negative(layer)
    with pytest.raises(ConversionError, match=f"layer {name}: .*90th percentile over all"):
        convert(analog, images(), SpikingOptions(3), ThresholdSearch(over="all"))
    assert convert(analog, images(), SpikingOptions(3)).neurons[layer].v_threshold > 0


def test_the_hundredth_percentile_is_threshold_balancing():
    """[STDB]: the largest input of a batch over all timesteps."""
    current = torch.randn(6, 5, 40, generator=torch.Generator().manual_seed(2))
    assert find_threshold(current, 100.0) == current.max().item()


@pytest.mark.parametrize("q", [90.0, 100.0])
@pytest.mark.parametrize("timesteps", [1, 4, 60])  # 60: in windows, from the start for each layer
def test_thresholds_are_searched_in_order_with_spiking_predecessors(timesteps, q):
    """A second implementation, step by step, with unit spikes scaled where they arrive."""
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
        # go on from the threshold that was stored, so that rounding cannot flip a spike twice
        scale = neuron.v_threshold.item()
        u = torch.zeros_like(currents[0])
        inputs = []
        for c in currents:
            u = u + c
            inputs.append((u > scale).float())
            u = u - scale * inputs[-1]


def test_the_search_can_look_at_other_timesteps_than_t():
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


def test_thresholds_behind_the_first_layer_depend_on_the_timesteps():
    one, five = (convert(network(), images(8), SpikingOptions(t)).neurons for t in (1, 5))
    assert one[0].v_threshold == five[0].v_threshold
    assert all(a.v_threshold != b.v_threshold for a, b in zip(one[1:], five[1:], strict=True))


def test_scale_is_folded_into_the_next_weights_and_never_into_a_bias():
    analog = network()
    spiking = convert(analog, images(), SpikingOptions(3))
    ours, theirs = [*spiking.synapses, spiking.head], [*analog.synapses, analog.head]
    scales = [1.0, *(neuron.v_threshold.item() for neuron in spiking.neurons)]
    for mine, other, scale in zip(ours, theirs, scales, strict=True):
        torch.testing.assert_close(mine.weight, other.weight * scale)
        assert torch.equal(mine.bias, other.bias)


def test_the_analog_network_is_left_untouched():
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
def test_the_result_can_be_trained_and_keeps_what_it_was_asked_for(timesteps):
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
    """How far a conversion decodes from the analog network.

    Returns:
        Every layer's mean error of spikes * threshold over its largest activation, its root mean
        square error over its root mean square activation, and the latter for the Q-values.
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
def test_more_timesteps_approach_the_analog_network_layer_by_layer(seed):
    """With the threshold at the largest activation nothing is clipped, and the error is ~ 1 / T.

    Every layer fires up to one spike late, so the error adds up from layer to layer.
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
def test_the_first_layer_s_error_is_below_one_spike(seed):
    """A constant current fires floor or ceil of its share less one: 0 <= a - v s / T <= v / T."""
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
def test_q_values_come_out_at_the_analog_network_s_scale(factor):
    """Whatever the scale of the weights: images, biases and so all currents grow with it."""
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
def test_an_unknown_module_is_refused(module):
    with pytest.raises(ConversionError, match=type(module).__name__):
        convert(module, images(), SpikingOptions(3))


def test_an_unknown_layer_inside_the_network_is_refused_by_name():
    pooled = network()
    pooled.synapses[1] = nn.MaxPool2d(3, 1)
    with pytest.raises(ConversionError, match=r"synapses\.1"):
        convert(pooled, images(), SpikingOptions(3))
    extended = network()
    extended.normalisation = nn.BatchNorm2d(8)
    with pytest.raises(ConversionError, match="normalisation"):
        convert(extended, images(), SpikingOptions(3))


@pytest.mark.parametrize("timesteps", [1, 6])
def test_table_counts_spikes_by_hand(timesteps):
    spiking, x = convert(network(), images(), SpikingOptions(timesteps)), images(16, seed=1)
    with torch.no_grad():
        _, layers = spiking.activity(x)
        rows = layer_table(spiking, x, [])
    assert [row.name for row in rows] == ["conv1", "conv2", "fc1"]
    for row, neuron, layer in zip(rows, spiking.neurons, layers, strict=True):
        counts = layer.numpy().sum(0)  # spikes of every image's every neuron
        assert row.v_threshold == neuron.v_threshold.item()
        assert row.spike_rate == pytest.approx(counts.sum() / counts.size)
        assert row.dead == pytest.approx((counts.max(0) == 0).mean())
    assert spike_rates(layers) == [row.spike_rate for row in rows]
    text = format_table(rows)
    assert len(text.splitlines()) == 4
    assert all(row.name in text and f"{row.v_threshold:.4f}" in text for row in rows)


def test_rates_of_the_analog_network_are_its_non_zero_fractions():
    analog, x = network(), images()
    with torch.no_grad():
        _, layers = analog.activity(x)
    expected = [np.count_nonzero(layer.numpy()) / layer.numel() for layer in layers]
    assert spike_rates(layers) == pytest.approx(expected)


def test_a_layer_that_never_fires_is_a_warning_with_its_name():
    spiking = convert(network(), images(), SpikingOptions(3))
    with torch.no_grad():
        spiking.neurons[1].v_threshold.fill_(1e9)
        spiking.synapses[2].bias.fill_(1.0)
        spiking.neurons[2].v_threshold.fill_(0.5)
    with pytest.warns(UserWarning, match="layer conv2 never fires: .*percentile") as caught:
        rows = layer_table(spiking, images(), [])
    assert len(caught) == 1
    assert [row.dead == 1.0 for row in rows] == [False, True, False]
    assert rows[1].spike_rate == 0.0


@pytest.mark.filterwarnings("error")
def test_a_lively_network_is_no_warning():
    assert all(
        row.dead < 1
        for row in layer_table(convert(network(), images(), SpikingOptions(3)), images(), [])
    )


DEEP = NetworkSpec(
    (2, 12, 12),
    (Conv(4, 3, 1, 1), AvgPool(2), Block(4), Block(6, 2), Dense(8)),
    3,
    batch_norm=True,
)


def trained_norms() -> AnalogNetwork:
    """A network whose batch-norms have seen images, in float64."""
    torch.manual_seed(3)
    network = AnalogNetwork(DEEP).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.train()
    for _ in range(5):
        network(torch.rand(16, 2, 12, 12, dtype=torch.float64))
    return network.eval()


def test_batch_norm_fuses_exactly():
    network, x = trained_norms(), torch.rand(4, 2, 12, 12, dtype=torch.float64)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused.double()(x), network(x), rtol=1e-6, atol=1e-6)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_block_s_shortcuts_carry_what_a_spike_stands_for():
    """At large T rates times thresholds approach the activations, behind identity and 1x1 alike."""
    network = trained_norms().float()
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
    with torch.no_grad():
        spiking.synapses[3].weight.fill_(0.5 * spiking.neurons[0].v_threshold)
    assert error(2) > 0.05


# --- clips, alpha and beta ([ULL]) ---------------------------------------------------------------

CLIPPED = NetworkSpec(
    (2, 12, 12),
    (Conv(6, 3, 1, 1), MaxPool(2), Block(6), Block(8, 2), Dense(16)),
    3,
    clip=True,
)


def clipped() -> AnalogNetwork:
    """Every layer is clipped where a few hundredths of its neurons are."""
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
    """Mean over time of what a neuron says: [ULL] eq. 5 with the amplitude of eq. 8.

    It fires strictly above its threshold, so that on the edge of a step the lower one holds.
    """
    return amplitude / timesteps * ((x * timesteps / top).ceil() - 1).clamp(0, timesteps)


@pytest.mark.parametrize("timesteps", [1, 2, 3])
@pytest.mark.parametrize("thresholds", ["clip", "alpha_beta"])
@torch.no_grad()
def test_one_layer_becomes_the_paper_s_staircase(thresholds, timesteps):
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
def test_amplitudes_reach_all_followers_through_max_pooling_and_shortcuts():
    """The network again with spikes scaled where they arrive, in the analog weights."""
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
def test_alpha_and_beta_keep_a_layer_s_mean_that_few_timesteps_lose():
    analog, x = clipped(), seen()
    mean = float(analog.activity(x)[1][0].mean())

    def said(thresholds: str) -> float:
        spiking = convert(analog, x, SpikingOptions(2), ThresholdSearch(method=thresholds))
        scaled = clip_thresholds(analog, x, 2, ThresholdSearch(thresholds))
        return float(spiking.activity(x)[1][0].mean()) * scaled[0][1]

    assert said("alpha_beta") == pytest.approx(mean, rel=0.05)
    assert said("clip") < 0.8 * mean


def test_the_clips_alone_are_thresholds_and_the_percentile_needs_none():
    analog, x = clipped(), seen()
    spiking = convert(analog, x, SpikingOptions(2), ThresholdSearch(method="clip"))
    assert [n.v_threshold.item() for n in spiking.neurons] == pytest.approx(analog.mu.tolist())
    searched = convert(analog, x, SpikingOptions(2))
    plain = AnalogNetwork(replace(CLIPPED, clip=False))
    plain.load_state_dict({k: v for k, v in analog.state_dict().items() if k != "mu"})
    assert torch.equal(searched(x), convert(plain, x, SpikingOptions(2))(x))
    assert not spiking.spec.clip


@pytest.mark.parametrize("thresholds", ["clip", "alpha_beta"])
def test_without_clips_there_is_nothing_to_take_thresholds_from(thresholds):
    with pytest.raises(ConversionError, match="no clips"):
        convert(network(), images(), SpikingOptions(2), ThresholdSearch(method=thresholds))


@pytest.mark.parametrize("over", ["positive", "all"])
def test_a_layer_without_activity_has_no_scales(over):
    analog = clipped()
    with torch.no_grad():
        analog.synapses[0].weight.abs_().neg_()
    with pytest.raises(ConversionError, match=r"layer conv1: no entry .* positive"):
        convert(analog, seen(), SpikingOptions(2), ThresholdSearch(over=over, method="alpha_beta"))


def test_clips_survive_the_fusion_of_batch_norm():
    torch.manual_seed(3)
    analog = AnalogNetwork(replace(DEEP, clip=True)).eval()
    analog.mu.data.fill_(0.05)
    x = torch.rand(4, 2, 12, 12)
    fused = fuse_batch_norm(analog)
    assert fused.spec.clip
    torch.testing.assert_close(fused(x), analog(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fused(x), AnalogNetwork(replace(DEEP, clip=True)).eval()(x))


RESIDUAL = NetworkSpec((2, 8, 8), (Conv(4, 3, 1, 1), AvgPool(2), Block(4), Block(6, 2)), 3)


def unit_spikes(
    analog: AnalogNetwork, thresholds: list[float], x: Tensor, timesteps: int
) -> list[list[Tensor]]:
    """[STDB]'s network: the analog weights as they are, spikes of 1, its thresholds.

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
def test_unity_in_blocks_and_scaled_thresholds_fire_as_with_unit_spikes(scale):
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
    expected = unit_spikes(analog, [stored, *[scale] * 4], x, 12)
    layers = spiking.activity(x)[1]
    for layer, train in zip(layers, expected, strict=True):
        assert 0.005 < layer.mean() < 0.995
        # the folded weights are rounded, so a membrane on the threshold may fall to either side
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


def test_thresholds_can_be_given():
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
