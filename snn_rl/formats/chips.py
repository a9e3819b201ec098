"""Published limits of neuromorphic chips, and which of them a network exceeds.

All limits are necessary, and none is sufficient: routing tables and programs also need memory, and
only the vendor's compiler decides. No network was run on a chip.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from snn_rl.core.conversion.integer_grid import integers
from snn_rl.core.networks import Connection, Conv, SpikingNetwork
from snn_rl.formats.registry import check_plain
from snn_rl.utils.errors import UserError

_KI = 1024
_SMALLER = "train a smaller network, see the setting network"
_CLEAR = "clear the membranes before every decision"


@dataclass(frozen=True)
class Requirement:
    """A requirement of a network, and whether a chip meets it.

    Attributes:
        name: Name of the requirement.
        needed: Value that the network requires.
        offered: Value that the chip provides.
        remedy: Suggested change, or None if the chip meets the requirement.
        fatal: True if the network does not fit on the chip.
    """

    name: str
    needed: str
    offered: str
    remedy: str | None = None
    fatal: bool = False

    def __str__(self) -> str:
        mark = "NO" if self.fatal else "ok" if self.remedy is None else "note"
        line = f"{mark:<5}{self.name:<15}{self.needed}; chip: {self.offered}"
        return line if self.remedy is None else f"{line}\n{'':<20}-> {self.remedy}"


@dataclass(frozen=True)
class Chip:
    """A neuromorphic chip.

    Attributes:
        title: Name of the chip and of its vendor.
        requirements: Function that yields the requirements of a network.
    """

    title: str
    requirements: Callable[[SpikingNetwork], Iterator[Requirement]]


def examine(network: SpikingNetwork, chip: str) -> list[Requirement]:
    """Returns the requirements of a network on a chip.

    Args:
        network: Network with T = 1 and direct encoding, of convolutions and dense layers.
        chip: Key of `CHIPS`.

    Raises:
        UserError: The network is of another kind.
    """
    check_plain(network, f"a network for {CHIPS[chip].title}")
    if network.timesteps != 1:
        raise UserError(f"chip={chip} requires T=1, not T={network.timesteps}")
    return list(CHIPS[chip].requirements(network))


def _loihi2(network: SpikingNetwork) -> Iterator[Requirement]:
    """Yields the requirements on Loihi 2.

    Sources: Intel Labs, "Taking neuromorphic computing to the next level with Loihi 2", technology
    brief, 2021: 128 cores of at most 8,192 neurons, 120 million synapses, spikes of up to 32 bits,
    neurons in microcode. Lava (github.com/lava-nc/lava), weightutils.py: weights of 8 bits.
    """
    sizes = [math.prod(connection.output_shape) for connection in network.connections]
    yield Requirement("input", "pixels from 0 to 255", "spikes of up to 32 bits")
    yield Requirement("neuron model", "no memory with T=1", "programmable")
    yield _weight_bits(network, 8)
    yield _at_most("neurons", sum(sizes), 1_000_000)
    synapses, most = [c.macs for c in network.connections], 120_000_000
    cores = [
        max(math.ceil(size / 8192), math.ceil(number * 128 / most))
        for size, number in zip(sizes, synapses, strict=True)
    ]
    yield _at_most("cores", sum(cores), 128)
    yield _at_most("synapses", sum(synapses), most)


def _spinnaker2(network: SpikingNetwork) -> Iterator[Requirement]:
    """Yields the requirements on SpiNNaker2.

    Sources: Gonzalez et al., "SpiNNaker2: a large-scale neuromorphic system for event-based and
    asynchronous machine learning", 2024 (arXiv:2401.04491): 152 processors with 128 KiB each.
    tu-dresden.de/ing/elektrotechnik/iee/hpsn, SpiNNaker2 FAQ: products of 8 or 16 bits.
    """
    largest = _bits(network)
    size = sum(c.weights for c in network.connections) * (1 if largest <= 8 else 2)
    size += 4 * sum(math.prod(connection.output_shape) for connection in network.connections)
    yield Requirement("input", "pixels from 0 to 255", "any numbers")
    yield Requirement("neuron model", "no memory with T=1", "programmable")
    yield _weight_bits(network, 16)
    advice = _SMALLER if largest <= 8 else "exact=true bits=8 halves the weights"
    yield _at_most("memory", math.ceil(size / _KI), 152 * 128, "KiB", advice)


# Memory of weights and of neurons of each core of Speck, in words
_SPECK_CORES = tuple(
    (weights * _KI, neurons * _KI)
    for weights, neurons in [*[(16, 64)] * 3, *[(32, 32)] * 2, *[(64, 16)] * 2, *[(16, 16)] * 2]
)


def _speck(network: SpikingNetwork) -> Iterator[Requirement]:
    """Yields the requirements on Speck 2e and 2f.

    A dense layer is a convolution whose kernel covers its whole input.

    Source: github.com/synsense/sinabs 3.1, docs/speck/overview.md ("Chip Resources") and
    sinabs/validate_memory_speck.py: formulas of the memories.
    """
    yield Requirement(
        "input", "pixels from 0 to 255", "events", "send a pixel as a number of events"
    )
    yield Requirement(
        "neuron model",
        "compares once",
        "after every input",
        "retrain in sinabs, which has the chip's neurons",
    )
    yield Requirement("outputs", "Q-values", "spikes", "read the membranes of the last layer")
    yield _weight_bits(network, 8)
    layers = list(zip(network.spec.names(), network.connections, strict=True))
    yield _at_most("layers", len(layers), len(_SPECK_CORES))
    yield _worst("input size", [(n, max(_maps(c)[0])) for n, c in layers], 128)
    yield _worst("output size", [(n, max(_maps(c)[1])) for n, c in layers], 64)
    yield _worst("kernel size", [(n, max(_kernel(c))) for n, c in layers], 16)
    yield _worst("channels", [(n, c.output_shape[0]) for n, c in layers], 1024)
    yield _worst("padding", [(n, _conv(c).padding) for n, c in layers], 7)
    strides = sorted({_conv(c).stride for _, c in layers})
    fits = set(strides) <= {1, 2, 4, 8}
    yield _limit("strides", ", ".join(map(str, strides)), "1, 2, 4, 8", fits)
    weights = [(n, _speck_weights(c)) for n, c in layers]
    neurons = [(n, _speck_neurons(c)) for n, c in layers]
    name, largest = max(weights, key=lambda pair: pair[1])
    most = max(memory for memory, _ in _SPECK_CORES)
    connection = dict(layers)[name]
    channels = most // (largest // _power(connection.output_shape[0]))
    channels = _power(channels + 1) // 2  # the next lower power of two
    advice = f"at most {channels} channels or units in {name}" if channels else _SMALLER
    yield _worst("weight words", weights, most, advice)
    yield _worst("neuron words", neurons, max(memory for _, memory in _SPECK_CORES))
    needs = [(w, n) for (_, w), (_, n) in zip(weights, neurons, strict=True)]
    if not _assign(needs, _SPECK_CORES):
        yield Requirement("cores", "a core for each layer", "no assignment", _SMALLER, fatal=True)


def _xylo(network: SpikingNetwork) -> Iterator[Requirement]:
    """Yields the requirements on XyloAudio 3, the largest Xylo.

    Source: github.com/synsense/rockpool, docs/devices/xylo-overview.ipynb: table of the devices.
    """
    hidden = sum(math.prod(shape) for shape in network.spec.shapes())
    inputs = math.prod(network.spec.input_shape)
    yield Requirement(
        "input", "pixels from 0 to 255", "0 to 15 events", "no images on this chip", fatal=True
    )
    yield _at_most("inputs", inputs, 16, remedy="no images on this chip")
    yield Requirement("neuron model", "no memory with T=1", "membranes with memory", _CLEAR)
    yield _weight_bits(network, 8)
    yield _at_most("hidden neurons", hidden, 992)
    yield _at_most("outputs", network.spec.outputs, 32)
    layers = zip(network.spec.names(), network.connections, strict=True)
    yield _worst("fan-out", [(name, _fan_out(c)) for name, c in layers], 1024)


def _truenorth(network: SpikingNetwork) -> Iterator[Requirement]:
    """Yields the requirements on TrueNorth.

    Sources: Merolla et al., "A million spiking-neuron integrated circuit", Science 345, 2014: 4,096
    cores of 256 inputs and 256 neurons. Cassidy et al., "Cognitive computing building block",
    IJCNN 2013: a neuron has four weights, and the type of an input selects one.
    """
    layers = list(zip(network.spec.names(), network.connections, strict=True))
    neurons = sum(math.prod(c.output_shape) for _, c in layers)
    yield Requirement(
        "input", "pixels from 0 to 255", "spikes", "no gray images on this chip", fatal=True
    )
    yield Requirement("neuron model", "no memory with T=1", "membranes with memory", _CLEAR)
    yield _at_most("neurons", neurons, 4096 * 256)
    yield _worst("fan-in", [(name, c.macs // math.prod(c.output_shape)) for name, c in layers], 256)
    values = [(name, _distinct(network, i)) for i, (name, _) in enumerate(layers)]
    yield _worst("weight values", values, 4, "neurons with four weight values are needed")


CHIPS: dict[str, Chip] = {
    "loihi2": Chip("Intel Loihi 2", _loihi2),
    "speck": Chip("SynSense Speck 2", _speck),
    "spinnaker2": Chip("SpiNNaker2", _spinnaker2),
    "truenorth": Chip("IBM TrueNorth", _truenorth),
    "xylo": Chip("SynSense XyloAudio 3", _xylo),
}


def _limit(name: str, needed: str, offered: str, fits: bool, remedy: str = _SMALLER) -> Requirement:
    """Returns a requirement whose remedy applies only if the network does not fit."""
    return Requirement(name, needed, offered, None if fits else remedy, fatal=not fits)


def _at_most(
    name: str, needed: int, most: int, unit: str = "", remedy: str = _SMALLER
) -> Requirement:
    unit = f" {unit}" if unit else ""
    return _limit(name, f"{needed:,}{unit}", f"{most:,}{unit}", needed <= most, remedy)


def _worst(
    name: str, values: Sequence[tuple[str, int]], most: int, remedy: str = _SMALLER
) -> Requirement:
    """Returns the requirement of the layer with the largest value."""
    layer, largest = max(values, key=lambda pair: pair[1])
    return _limit(name, f"{largest:,} in {layer}", f"{most:,}", largest <= most, remedy)


def _bits(network: SpikingNetwork) -> int:
    """Returns the largest number of bits of a weight, including the sign; 32 for float32."""
    if not network.exact:
        return 32
    return max(int(layer.weight.abs().max()) for layer in integers(network)).bit_length() + 1


def _weight_bits(network: SpikingNetwork, most: int) -> Requirement:
    largest = _bits(network)
    needed = f"{largest} bits" if network.exact else "float32"
    remedy = f"exact=true bits={min(most, 12)}"
    return _limit("weights", needed, f"{most} bits", largest <= most, remedy)


def _distinct(network: SpikingNetwork, layer: int) -> int:
    """Returns the largest number of different weights of a neuron, except zero."""
    weight = [*network.synapses, network.head][layer].weight.detach().flatten(1)
    return max(int((row.unique() != 0).sum()) for row in weight)


def _conv(connection: Connection) -> Conv:
    """Returns a weight layer as a convolution."""
    if isinstance(connection.layer, Conv):
        return connection.layer
    return Conv(connection.output_shape[0], max(_maps(connection)[0]))


def _maps(connection: Connection) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the heights and widths of the input and of the output."""
    _, *before = (*connection.input_shape, 1, 1)[:3]
    _, *after = (*connection.output_shape, 1, 1)[:3]
    return (before[0], before[1]), (after[0], after[1])


def _kernel(connection: Connection) -> tuple[int, int]:
    """Returns the height and width of the kernel."""
    if isinstance(connection.layer, Conv):
        return connection.layer.kernel, connection.layer.kernel
    return _maps(connection)[0]


def _power(number: int) -> int:
    """Returns the smallest power of two that is not smaller than the number."""
    return 1 << (number - 1).bit_length()


def _speck_weights(connection: Connection) -> int:
    height, width = _kernel(connection)
    outputs = _power(connection.output_shape[0])
    return connection.input_shape[0] * _power(height * width) * outputs


def _speck_neurons(connection: Connection) -> int:
    height, width = _maps(connection)[1]
    return connection.output_shape[0] * _power(height) * _power(width)


def _assign(needs: Sequence[tuple[int, int]], cores: Sequence[tuple[int, int]]) -> bool:
    """Returns True if every layer can have a core of its own with enough memory."""
    if not needs or len(needs) > len(cores):
        return not needs
    (weights, neurons), *others = needs
    return any(
        weights <= core[0] and neurons <= core[1] and _assign(others, [*cores[:i], *cores[i + 1 :]])
        for i, core in enumerate(cores)
    )


def _fan_out(connection: Connection) -> int:
    """Returns the largest number of synapses of one input."""
    if isinstance(connection.layer, Conv):
        layer = connection.layer
        return layer.channels * math.ceil(layer.kernel / layer.stride) ** 2
    return connection.output_shape[0]
