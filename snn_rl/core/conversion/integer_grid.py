"""A T = 1 network on an integer grid, which every engine computes to the same bits.

Float32 rounds a sum by the order of its terms, and a spike beside its threshold follows the
rounding: another batch size, memory layout or engine is another network. On the grid every weight
is an integer times a power of two, its layer's unit, and so is every threshold; what enters a layer
are pixels from 0 to 255 or spikes. Every partial sum of a layer is then an integer below 2^24 times
its unit, which float32 holds exactly, whatever the order.

Weights have up to 12 bits, sign included: a float16, and the tensor cores of a GPU (TF32), hold
those exactly too. The sums decide how many a layer gets: of 256 pixels, 11.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from snn_rl.core.networks import SpikingNetwork

PIXEL = 255  # the largest
LIMIT = 2**24  # the integers below it are float32's own
BITS = 12


@dataclass(frozen=True)
class GridLayer:
    """A weight layer in integers: what float32 holds, divided by the layer's unit.

    Attributes:
        name: conv1, fc1, ..., head.
        unit: A power of two.
        weight: int32, [outputs, inputs] or [channels, inputs, kernel, kernel].
        bias: int32, [outputs], or None.
        v_threshold: Its neurons fire above it; None: the head, which fires nothing.
        bound: No partial sum of inputs times weights, bias included, is larger than this.
    """

    name: str
    unit: float
    weight: Tensor
    bias: Tensor | None
    v_threshold: int | None
    bound: int


@torch.no_grad()
def quantize(network: SpikingNetwork, bits: int = BITS, first_bits: int = BITS) -> SpikingNetwork:
    """Rounds a T = 1 network to the grid.

    Every layer's unit is the smallest power of two at which its weights have no more than the given
    bits and its partial sums stay below 2^24. The images' division by 255 goes into the first
    weights. A threshold is rounded down, which changes nothing: no sum lies between two integers.

    Args:
        network: T = 1, direct encoding, convolutions and dense layers; it is left as it is.
        bits: Of weights, sign included, at most.
        first_bits: Of the first layer's (8 for engines that multiply bytes).

    Returns:
        A network that takes raw pixels, with `exact` set.

    Raises:
        ValueError: It is of another kind, or a weight is not finite.
    """
    if network.exact:
        raise ValueError("the network is on the grid already")
    exact = SpikingNetwork(network.spec, replace(network.options, exact=True))
    exact.load_state_dict(network.state_dict())
    layers: list[nn.Module] = [*exact.synapses, exact.head]
    for i, layer in enumerate(layers):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        weight = layer.weight.double() / (1 if i else PIXEL)
        bias = torch.zeros(1) if layer.bias is None else layer.bias.double()
        unit = _unit(weight, bias, PIXEL if i == 0 else 1, bits if i else first_bits)
        layer.weight.copy_((weight / unit).round() * unit)
        if layer.bias is not None:
            layer.bias.copy_((bias / unit).round() * unit)
        if i < len(exact.neurons):
            v_threshold = exact.neurons[i].v_threshold
            if not math.isfinite(v_threshold):
                raise ValueError("a threshold is not finite")
            steps = min(math.floor(float(v_threshold) / unit), LIMIT - 1)
            v_threshold.fill_(steps * unit)
    integers(exact)  # it is what it says
    return exact.to(network.head.weight.device)


@torch.no_grad()
def integers(network: SpikingNetwork) -> list[GridLayer]:
    """The integers of a network on the grid, layer by layer.

    Args:
        network: From `quantize`, or loaded.

    Raises:
        ValueError: It is not on a grid on which float32 is exact; the message says where.
    """
    if not network.exact:
        raise ValueError(
            "the network was not put on the grid: see snn_rl.core.conversion.integer_grid.quantize"
        )
    found = []
    for i, (name, layer) in enumerate(
        zip(network.spec.names(), [*network.synapses, network.head], strict=True)
    ):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        fires = i < len(network.neurons)
        values = [layer.weight]
        values += [] if layer.bias is None else [layer.bias]
        values += [network.neurons[i].v_threshold] if fires else []
        unit = 2.0 ** _exponent(torch.cat([value.detach().flatten() for value in values]))
        weight, *others = (value.detach().double().cpu() / unit for value in values)
        bias = None if layer.bias is None else others[0]
        bound = _bound(weight, bias, PIXEL if i == 0 else 1)
        v_threshold = int(others[-1]) if fires else None
        if not max(bound, v_threshold or 0) < LIMIT:
            raise ValueError(f"layer {name} is not on the grid: its sums may reach {bound:g} units")
        found.append(
            GridLayer(
                name,
                unit,
                weight.int(),
                None if bias is None else bias.int(),
                v_threshold,
                int(bound),
            )
        )
    return found


def _unit(weight: Tensor, bias: Tensor, largest_input: int, bits: int) -> float:
    """The smallest power of two at which the weights have these bits and the sums are exact."""
    if not bool(weight.isfinite().all()) or not bool(bias.isfinite().all()):
        raise ValueError("a weight is not finite")
    largest = max(float(weight.abs().max()), float(bias.abs().max()) / LIMIT)
    exponent = math.frexp(largest)[1] - bits  # the sought one, or a little less
    while True:
        unit = 2.0**exponent
        weights = (weight / unit).round()
        fits = bool(weights.abs().max() < 2 ** (bits - 1))
        if fits and _bound(weights, (bias / unit).round(), largest_input) < LIMIT:
            return unit
        exponent += 1


def _bound(weight: Tensor, bias: Tensor | None, largest_input: int) -> float:
    """Of every partial sum of one output, in the units of the arguments (float64: exact)."""
    sums = weight.abs().flatten(1).sum(1) * largest_input
    return float((sums if bias is None else sums + bias.abs()).max())


def _exponent(values: Tensor) -> int:
    """The largest power of two that divides all values; 0 if there are none but zeros.

    Raises:
        ValueError: A value is not finite.
    """
    values = values.detach().double().cpu()
    if not bool(values.isfinite().all()):
        raise ValueError("a weight is not finite")
    mantissas, exponents = torch.frexp(values[values != 0])
    if mantissas.numel() == 0:
        return 0
    whole = (mantissas * 2**53).long()  # of 53 bits, as a float64 has
    trailing = (whole & -whole).double().log2().long()
    return int((exponents - 53 + trailing).min())
