"""What a layer stack is: its layers, their shapes, and what is connected to what."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from snn_rl.utils.plugins import load_object

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conv:
    """A square convolution followed by an activation."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Dense:
    """A fully connected layer followed by an activation."""

    units: int


@dataclass(frozen=True)
class AvgPool:
    """Average pooling without overlap; it has no neurons."""

    kernel: int = 2


@dataclass(frozen=True)
class MaxPool:
    """Max-pooling without overlap; it has no neurons, and of spikes it makes spikes."""

    kernel: int = 2


@dataclass(frozen=True)
class Dropout:
    """Where activity is dropped in training; how much of it, `Network.dropout` says."""


@dataclass(frozen=True)
class Block:
    """A basic residual block (He et al. 2016): two 3x3 convolutions and a shortcut around them.

    The shortcut joins in front of the second activation. It is the identity where the shape stays
    and a 1x1 convolution where it does not ([IIR] A.2.1, [STDB] section 4).
    """

    channels: int
    stride: int = 1


@dataclass(frozen=True)
class Shortcut:
    """The identity around a block; it has a scale, so that what a spike stands for can change."""


Layer = Conv | Dense | AvgPool | MaxPool | Dropout | Block
_KINDS: dict[str, type[Layer]] = {
    kind.__name__.lower(): kind for kind in (Conv, Dense, AvgPool, MaxPool, Dropout, Block)
}


@dataclass(frozen=True)
class Connection:
    """One weight layer: the synapses between two layers of neurons.

    Attributes:
        layer: What it computes.
        source: Index of the hidden layer whose activity enters it; None is the image.
        target: Index of the hidden layer that its current drives; the number of hidden layers is
            the head. The second convolution of a block and its shortcut drive the same one.
        input_shape: Behind the pooling between source and this.
        output_shape: Of the current.
    """

    layer: Conv | Dense | Shortcut
    source: int | None
    target: int
    input_shape: Shape
    output_shape: Shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one dense pass ([IIR] A.4)."""
        return self._fan_in * math.prod(self.output_shape)

    @property
    def weights(self) -> int:
        """How many there are, biases aside; the identity has none."""
        return 0 if isinstance(self.layer, Shortcut) else self._fan_in * self.output_shape[0]

    @property
    def _fan_in(self) -> int:
        if isinstance(self.layer, Conv):
            return self.input_shape[0] * self.layer.kernel**2
        return math.prod(self.input_shape) if isinstance(self.layer, Dense) else 1


@dataclass(frozen=True)
class NetworkSpec:
    """A layer stack: convolutions, blocks and pooling, dense layers, a head without activation.

    Attributes:
        input_shape: (channels, height, width) of one image.
        layers: From input to output, without the head.
        outputs: Units of the head (number of actions, or of classes).
        bias: Whether every layer, the head included, has a bias.
        batch_norm: Whether every convolution is followed by batch-norm, which takes the place of
            its bias. Only analog networks; conversion fuses it away.
        clip: Whether the ReLU of every hidden layer is clipped at a trainable threshold ([ULL]
            eq. 1). Only analog networks; the spiking threshold takes its place.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    outputs: int
    bias: bool = False
    batch_norm: bool = False
    clip: bool = False

    def to_dict(self) -> dict[str, Any]:
        """This description as plain JSON types."""
        return {
            "input_shape": list(self.input_shape),
            "layers": [{"kind": type(x).__name__.lower(), **asdict(x)} for x in self.layers],
            "outputs": self.outputs,
            "bias": self.bias,
            "batch_norm": self.batch_norm,
            "clip": self.clip,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NetworkSpec":
        """The inverse of `to_dict`.

        Raises:
            ValueError: `data` is not such a description.
        """
        try:
            layers = []
            for entry in data["layers"]:
                fields = {key: int(value) for key, value in entry.items() if key != "kind"}
                layers.append(_KINDS[entry["kind"]](**fields))
            channels, height, width = (int(n) for n in data["input_shape"])
            return cls(
                (channels, height, width),
                tuple(layers),
                int(data["outputs"]),
                bool(data["bias"]),
                bool(data.get("batch_norm", False)),
                bool(data.get("clip", False)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a network description ({error!r})") from error

    @property
    def is_plain(self) -> bool:
        """Whether it is convolutions and dense layers alone, each behind the one before."""
        return all(isinstance(layer, Conv | Dense | Dropout) for layer in self.layers)

    def connections(self) -> list[Connection]:
        """Every weight layer from input to output, the head last.

        A block has its two convolutions, then its shortcut.

        Raises:
            ValueError: An image is too small for the stack, or a convolution follows a dense layer.
        """
        shape: Shape = self.input_shape
        source: int | None = None
        found: list[Connection] = []
        neurons = 0
        for i, layer in enumerate(self.layers):
            sizes = {k: v for k, v in asdict(layer).items() if k != "padding"}
            if min([*sizes.values(), 1]) < 1 or asdict(layer).get("padding", 0) < 0:
                raise ValueError(f"layer {i}: every number in {layer} must be at least 1")
            if isinstance(layer, Dropout):
                continue
            if not isinstance(layer, Dense) and len(shape) != 3:
                name = "convolution" if isinstance(layer, Conv) else type(layer).__name__
                raise ValueError(f"layer {i} is a {name} behind a dense layer")
            if isinstance(layer, AvgPool | MaxPool):
                shape = self._pooled(shape, layer, i)
            elif isinstance(layer, Block):
                first = Conv(layer.channels, 3, layer.stride, 1)
                inner = self._driven(shape, first, i)
                found.append(Connection(first, source, neurons, shape, inner))
                second = Conv(layer.channels, 3, 1, 1)
                found.append(Connection(second, neurons, neurons + 1, inner, inner))
                around = Shortcut() if shape == inner else Conv(layer.channels, 1, layer.stride)
                found.append(Connection(around, source, neurons + 1, shape, inner))
                shape, source, neurons = inner, neurons + 1, neurons + 2
            else:
                out = self._driven(shape, layer, i)
                found.append(Connection(layer, source, neurons, shape, out))
                shape, source, neurons = out, neurons, neurons + 1
        found.append(Connection(Dense(self.outputs), source, neurons, shape, (self.outputs,)))
        return found

    def _driven(self, shape: Shape, layer: Conv | Dense, i: int) -> Shape:
        if isinstance(layer, Dense):
            return (layer.units,)
        reach = layer.kernel - 2 * layer.padding
        height, width = ((n - reach) // layer.stride + 1 for n in shape[1:])
        if min(height, width) < 1:
            raise ValueError(
                f"images of {self.input_shape} are too small for layer {i}, "
                f"a {layer.kernel}x{layer.kernel} convolution"
            )
        return (layer.channels, height, width)

    def _pooled(self, shape: Shape, layer: AvgPool | MaxPool, i: int) -> Shape:
        height, width = (n // layer.kernel for n in shape[1:])
        if min(height, width) < 1:
            raise ValueError(
                f"images of {self.input_shape} are too small for layer {i}, "
                f"{layer.kernel}x{layer.kernel} pooling"
            )
        return (shape[0], height, width)

    def shapes(self) -> list[Shape]:
        """Output shape of every hidden layer (of neurons), without the batch dimension.

        Raises:
            ValueError: See `connections`.
        """
        shapes = {c.target: c.output_shape for c in self.connections()[:-1]}
        return [shapes[i] for i in sorted(shapes)]

    def names(self) -> list[str]:
        """A short name for every hidden layer and the head: conv1, block1.1, fc1, ..., head."""
        counts = {"conv": 0, "block": 0, "fc": 0}
        names = []
        for layer in self.layers:
            if isinstance(layer, Conv | Block | Dense):
                kind = {Conv: "conv", Block: "block", Dense: "fc"}[type(layer)]
                counts[kind] += 1
                name = f"{kind}{counts[kind]}"
                names += [f"{name}.1", f"{name}.2"] if isinstance(layer, Block) else [name]
        return [*names, "head"]


def build_spec(
    name: str,
    builders: Mapping[str, Callable[..., NetworkSpec]],
    input_shape: tuple[int, int, int],
    outputs: int,
    **options: Any,
) -> NetworkSpec:
    """Calls a named builder and checks its result.

    Args:
        name: Key of `builders`, or `module:function`.
        builders: Registered builders by name.
        input_shape: (channels, height, width) of one image.
        outputs: Units of the head.
        options: Further keyword arguments of the builder.

    Raises:
        ValueError: The builder cannot be imported, or its result does not fit the arguments.
    """
    builder = builders[name] if name in builders else load_object(name)
    if not callable(builder):
        raise ValueError(f"{name} is not a function")
    spec = builder(input_shape, outputs, **options)
    if not isinstance(spec, NetworkSpec):
        raise ValueError(f"{name} must return a NetworkSpec, not a {type(spec).__name__}")
    if (tuple(spec.input_shape), spec.outputs) != (tuple(input_shape), outputs):
        raise ValueError(
            f"{name} must return a NetworkSpec with input_shape={input_shape} and "
            f"outputs={outputs}, not {spec.input_shape} and {spec.outputs}"
        )
    spec.shapes()
    return spec
