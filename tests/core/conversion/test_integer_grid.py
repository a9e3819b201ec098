"""The integer grid: rounding, bounds, and equal bits for every order of summation."""

import math

import pytest
import torch
from torch.nn import functional as F

from snn_rl.core.conversion.integer_grid import LIMIT, integers, quantize
from snn_rl.core.networks import AvgPool, Conv, Dense, NetworkSpec, SpikingNetwork, SpikingOptions
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec((3, 20, 24), (Conv(16, 5, 2), Conv(32, 3, 1, 1), Dense(64)), 5, bias=True)


def random_network(spec=SPEC, seed=0, scale=3.0):
    """Returns a network whose layers all fire, with weights that are not on the grid."""
    torch.manual_seed(seed)
    network = SpikingNetwork(spec, SpikingOptions(1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
        for i, neuron in enumerate(network.neurons):
            neuron.leak.fill_(1.0)
            neuron.v_threshold.fill_(0.3 + 0.1 * i + 1e-5 * math.pi)
    return network


def pixels(count, spec=SPEC, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *spec.input_shape), generator=generator).to(torch.uint8)


def in_float64(network, x):
    """Returns outputs and spikes, computed in float64, where all sums are exact."""
    layers, x = [], x.double()
    for layer, neuron in zip(network.synapses, network.neurons, strict=True):
        weight = layer.weight.double()
        bias = None if layer.bias is None else layer.bias.double()
        if isinstance(layer, torch.nn.Conv2d):
            current = F.conv2d(x, weight, bias, layer.stride, layer.padding)
        else:
            current = F.linear(x.flatten(1), weight, bias)
        x = (current > neuron.v_threshold.double()).double()
        layers.append(x)
    head = network.head
    bias = None if head.bias is None else head.bias.double()
    return F.linear(x.flatten(1), head.weight.double(), bias), layers


@pytest.mark.parametrize("bias", [False, True])
def test_weights_are_rounded_to_multiples_of_the_unit(bias):
    network = random_network(NetworkSpec(SPEC.input_shape, SPEC.layers, 5, bias))
    exact = quantize(network, first_bits=8)
    before, after = ([*n.synapses, n.head] for n in (network, exact))
    for i, (grid, old, new) in enumerate(zip(integers(exact), before, after, strict=True)):
        assert math.log2(grid.unit).is_integer()
        assert torch.equal(grid.weight * grid.unit, new.weight)
        largest = 2 ** ((12 if i else 8) - 1) - 1
        assert largest / 2 - 1 <= grid.weight.abs().max() <= largest
        aim = old.weight.double() / (1 if i else 255)
        assert (new.weight - aim).abs().max() <= grid.unit / 2
        if bias:
            assert torch.equal(grid.bias * grid.unit, new.bias)
            assert (new.bias - old.bias.double()).abs().max() <= grid.unit / 2
        else:
            assert grid.bias is None


def test_partial_sums_are_below_limit():
    for i, grid in enumerate(integers(quantize(random_network()))):
        most = 1 if i else 255
        for row, bias in zip(grid.weight.tolist(), grid.bias.tolist(), strict=True):
            flat = torch.tensor(row).flatten().tolist()
            assert most * sum(map(abs, flat)) + abs(bias) <= grid.bound < LIMIT
        assert grid.v_threshold is None or grid.v_threshold < LIMIT


def test_layer_with_many_inputs_gets_fewer_bits():
    spec = NetworkSpec((4, 84, 84), (Dense(3),), 2)
    network = SpikingNetwork(spec, SpikingOptions(1))
    with torch.no_grad():
        network.synapses[0].weight.fill_(0.7)
        network.head.weight[0] = 3.0e4
    first, _ = integers(quantize(network))
    # 28,224 pixels of 255 limit the weights to 2^24 / (28,224 * 255) = 2.3, hence to 2 units
    assert first.bound < LIMIT
    assert (first.weight * first.unit - 0.7 / 255).abs().max() <= first.unit / 2
    # with half of the unit the sums would be too large
    assert 28_224 * 255 * round(0.7 / 255 / (first.unit / 2)) >= LIMIT


def test_thresholds_are_rounded_down():
    network = random_network()
    exact = quantize(network)
    for grid, old in zip(integers(exact), network.neurons, strict=False):
        assert grid.v_threshold <= old.v_threshold.item() / grid.unit < grid.v_threshold + 1
    # no sum reaches this threshold
    network.neurons[1].v_threshold.data.fill_(1e9)
    assert integers(quantize(network))[1].v_threshold == LIMIT - 1


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_batches_and_layouts_equal_exact_arithmetic(batch, layout):
    exact = quantize(random_network()).to(memory_format=layout)
    frames = pixels(64)
    expected, spikes = in_float64(exact, frames)
    for layer in spikes:
        assert 0.01 < layer.mean() < 0.99
    for i, part in enumerate(frames.split(batch)):
        rows = slice(i * batch, (i + 1) * batch)
        images = exact.images(part).contiguous(memory_format=layout)
        outputs, layers = exact.activity(images)
        assert torch.equal(outputs.double(), expected[rows])
        for mine, right in zip(layers, spikes, strict=True):
            assert torch.equal(mine[0].double(), right[rows])


def test_quantized_network_is_close_to_original():
    network = random_network()
    exact, frames = quantize(network, first_bits=8), pixels(32)
    ours, theirs = exact.activity(exact.images(frames)), network.activity(network.images(frames))
    assert torch.equal(exact.images(frames), frames.float())
    # first layer with 8 bits; later layers differ more
    assert (ours[1][0] != theirs[1][0]).float().mean() < 0.01
    finer = quantize(network)
    error = (finer(finer.images(frames)) - theirs[0]).abs().mean()
    assert error < (ours[0] - theirs[0]).abs().mean()


def test_file_with_float16_weights_keeps_bits(tmp_path):
    exact, frames = quantize(random_network()), pixels(8)
    for dtype in (None, torch.float16):
        save_network(tmp_path / "net.safetensors", exact, dtype=dtype)
        loaded, _ = load_network(tmp_path / "net.safetensors")
        assert isinstance(loaded, SpikingNetwork) and loaded.exact
        assert torch.equal(loaded(loaded.images(frames)), exact(exact.images(frames)))
    size = (tmp_path / "net.safetensors").stat().st_size
    assert size < 2.2 * sum(parameter.numel() for parameter in exact.parameters())


def test_file_off_the_grid_is_rejected(tmp_path):
    exact = quantize(random_network())
    with torch.no_grad():
        exact.synapses[1].weight[0, 0, 0, 0] = math.pi
    with pytest.raises(ValueError, match="conv2 is not on the grid"):
        integers(exact)
    save_network(tmp_path / "net.safetensors", exact)
    with pytest.raises(UserError, match="conv2 is not on the grid"):
        load_network(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "network",
    [
        SpikingNetwork(SPEC, SpikingOptions(2)),
        SpikingNetwork(SPEC, SpikingOptions(1, encoding="poisson")),
        SpikingNetwork(SPEC, SpikingOptions(1, carry_state=True)),
        SpikingNetwork(NetworkSpec((3, 20, 24), (Conv(4, 3), AvgPool()), 2), SpikingOptions(1)),
    ],
    ids=["T2", "poisson", "carried", "pooling"],
)
def test_unsuitable_networks_are_rejected(network):
    with pytest.raises(ValueError, match="exact requires"):
        quantize(network)


def test_invalid_values_are_rejected():
    network = random_network()
    with pytest.raises(ValueError, match="not on the grid"):
        integers(network)
    with pytest.raises(ValueError, match="on the grid already"):
        quantize(quantize(network))
    network.neurons[0].v_threshold.data.fill_(math.inf)
    with pytest.raises(ValueError, match="threshold is not finite"):
        quantize(network)
    network.synapses[0].weight.data[0] = math.nan
    with pytest.raises(ValueError, match="weight is not finite"):
        quantize(network)
