"""Networks with one timestep on an integer grid, on which all engines compute the same bits.

A float32 sum depends on the order of its terms, and so does a spike near its threshold: another
batch size, memory layout or engine changes decisions. On the grid, all weights, biases and the
threshold of a layer are integers times a power of two, the layer's unit. The inputs of a layer are
pixels from 0 to 255, or spikes. Every partial sum is then an integer below 2^24 times the unit,
which float32 represents exactly.

Weights have up to 12 bits including the sign, which float16 and the TF32 of GPUs also represent
exactly. Large sums leave fewer bits, for example 11 for 256 pixels.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from snn_rl.core.networks import SpikingNetwork

PIXEL = 255  # largest pixel
LIMIT = 2**24  # float32 represents all integers below
BITS = 12


@dataclass(frozen=True)
class GridLayer:
    """A weight layer in integers: the float32 values divided by the layer's unit.

    Attributes:
        name: Name of the layer: conv1, fc1, ..., head.
        unit: Power of two.
        weight: int32, [outputs, inputs] or [channels, inputs, kernel, kernel].
        bias: int32, [outputs], or None.
        v_threshold: Threshold above which the neurons fire; None for the head.
        bound: Upper bound of all partial sums of inputs times weights, including the bias.
    """

    name: str
    unit: float
    weight: Tensor
    bias: Tensor | None
    v_threshold: int | None
    bound: int


@torch.no_grad()
def quantize(network: SpikingNetwork, bits: int = BITS, first_bits: int = BITS) -> SpikingNetwork:
    """Rounds a network with one timestep to the grid.

    The unit of a layer is the smallest power of two for which the weights fit in the given bits
    and the partial sums stay below 2^24. The division of the images by 255 is folded into the
    first weights. Thresholds are rounded down, which changes no spike because all sums are
    integers.

    Args:
        network: Network with T = 1, direct encoding, convolutions and dense layers only. It is
            left unchanged.
        bits: Maximum bits of a weight, including the sign.
        first_bits: Maximum bits of the first layer's weights, 8 for engines that multiply bytes.

    Returns:
        An exact network, which takes raw pixels.

    Raises:
        ValueError: The network is of another kind, or a weight is not finite.
    """
    if network.exact:
        raise ValueError("the network is on the grid already")
    exact = SpikingNetwork(network.spec, replace(network.options, exact=True))
    exact.load_state_dict(network.state_dict())
    for i, layer in enumerate([*exact.synapses, exact.head]):
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
    integers(exact)  # verifies the result
    return exact.to(network.head.weight.device)


@torch.no_grad()
def integers(network: SpikingNetwork) -> list[GridLayer]:
    """Returns the integers of every layer of an exact network.

    Args:
        network: Result of `quantize`, or an exact network from a file.

    Raises:
        ValueError: A layer is not on a grid on which float32 is exact.
    """
    if not network.exact:
        raise ValueError("the network is not on the grid: quantize it (exact=true) first")
    found = []
    layers = zip(network.spec.names(), [*network.synapses, network.head], strict=True)
    for i, (name, layer) in enumerate(layers):
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
        bias = None if bias is None else bias.int()
        found.append(GridLayer(name, unit, weight.int(), bias, v_threshold, int(bound)))
    return found


def _unit(weight: Tensor, bias: Tensor, largest_input: int, bits: int) -> float:
    """Returns the smallest unit for which the weights fit in the bits and the sums are exact."""
    if not bool(weight.isfinite().all()) or not bool(bias.isfinite().all()):
        raise ValueError("a weight is not finite")
    largest = max(float(weight.abs().max()), float(bias.abs().max()) / LIMIT)
    exponent = math.frexp(largest)[1] - bits  # at most the result
    while True:
        unit = 2.0**exponent
        weights = (weight / unit).round()
        fits = bool(weights.abs().max() < 2 ** (bits - 1))
        if fits and _bound(weights, (bias / unit).round(), largest_input) < LIMIT:
            return unit
        exponent += 1


def _bound(weight: Tensor, bias: Tensor | None, largest_input: int) -> float:
    """Returns the bound of all partial sums, in units; exact in float64."""
    sums = weight.abs().flatten(1).sum(1) * largest_input
    return float((sums if bias is None else sums + bias.abs()).max())


def _exponent(values: Tensor) -> int:
    """Returns the exponent of the largest power of two that divides all values, or 0 for zeros."""
    values = values.detach().double().cpu()
    if not bool(values.isfinite().all()):
        raise ValueError("a weight is not finite")
    mantissas, exponents = torch.frexp(values[values != 0])
    if mantissas.numel() == 0:
        return 0
    whole = (mantissas * 2**53).long()  # float64 has 53 bits
    trailing = (whole & -whole).double().log2().long()
    return int((exponents - 53 + trailing).min())
