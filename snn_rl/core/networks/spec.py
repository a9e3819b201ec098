"""Descriptions of layer stacks: layers, shapes, and connections."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from snn_rl.utils.plugins import Registry

# Limits of a network description, which may come from an untrusted file
_MAX_LAYERS = 1_000
_MAX_PIXELS = 2**24  # of the input
_MAX_NEURONS = 2**26  # of a convolution or pooling

Shape = tuple[int, ...]
ImageShape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Conv:
    """Convolution with a square kernel and an activation."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Dense:
    """Fully connected layer with an activation."""

    units: int


@dataclass(frozen=True)
class AvgPool:
    """Non-overlapping average pooling, without neurons."""

    kernel: int = 2


@dataclass(frozen=True)
class MaxPool:
    """Non-overlapping max pooling, without neurons. Spikes stay spikes."""

    kernel: int = 2


@dataclass(frozen=True)
class Dropout:
    """Dropout during training with probability `Network.dropout`."""


@dataclass(frozen=True)
class Block:
    """Basic residual block (He et al. 2016): two 3x3 convolutions and a shortcut.

    The shortcut is added before the second activation. It is the identity if the shape stays the
    same, otherwise a 1x1 convolution ([IIR] A.2.1, [STDB] section 4).
    """

    channels: int
    stride: int = 1


@dataclass(frozen=True)
class Shortcut:
    """Identity shortcut of a block, with a scale used in conversion."""


Layer = Conv | Dense | AvgPool | MaxPool | Dropout | Block
_KINDS: dict[str, type[Layer]] = {
    kind.__name__.lower(): kind for kind in (Conv, Dense, AvgPool, MaxPool, Dropout, Block)
}


@dataclass(frozen=True)
class Connection:
    """Weight layer: the synapses between two layers of neurons.

    Attributes:
        layer: Kind of the weight layer.
        source: Index of the hidden layer that provides the input, or None for the image.
        target: Index of the hidden layer that receives the current. For the head, the number of
            hidden layers. A block's second convolution and its shortcut have the same target.
        input_shape: Shape of the input, after pooling.
        output_shape: Shape of the current.
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
        """Number of weights, excluding biases; 0 for the identity."""
        return 0 if isinstance(self.layer, Shortcut) else self._fan_in * self.output_shape[0]

    @property
    def _fan_in(self) -> int:
        if isinstance(self.layer, Conv):
            return self.input_shape[0] * self.layer.kernel**2
        return math.prod(self.input_shape) if isinstance(self.layer, Dense) else 1


@dataclass(frozen=True)
class NetworkSpec:
    """Layer stack, from which both analog and spiking networks are built.

    Attributes:
        input_shape: (channels, height, width) of one image.
        layers: Layers from input to output, without the head.
        outputs: Number of units of the linear head (actions or classes).
        bias: True if every layer, including the head, has a bias.
        batch_norm: True if batch normalization follows every convolution and replaces its bias.
            Analog networks only; conversion fuses it.
        clip: True if the ReLU of every hidden layer is clipped at a trainable threshold ([ULL]
            eq. 1). Analog networks only; the spiking threshold replaces it.
    """

    input_shape: ImageShape
    layers: tuple[Layer, ...]
    outputs: int
    bias: bool = False
    batch_norm: bool = False
    clip: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the description as JSON-compatible types."""
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
        """Builds a description from the result of `to_dict`.

        Raises:
            ValueError: `data` is not a valid description.
        """
        try:
            layers = []
            for entry in data["layers"]:
                fields = {key: int(value) for key, value in entry.items() if key != "kind"}
                layers.append(_KINDS[entry["kind"]](**fields))
            channels, height, width = (int(n) for n in data["input_shape"])
            spec = cls(
                (channels, height, width),
                tuple(layers),
                int(data["outputs"]),
                bool(data["bias"]),
                bool(data.get("batch_norm", False)),
                bool(data.get("clip", False)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a valid network description ({error!r})") from error
        spec.connections()
        return spec

    @property
    def is_plain(self) -> bool:
        """True if the stack consists of convolutions, dense layers, and dropout only."""
        return all(isinstance(layer, Conv | Dense | Dropout) for layer in self.layers)

    def connections(self) -> list[Connection]:
        """Returns all weight layers from input to output, including the head.

        A block contributes two convolutions, followed by its shortcut.

        Raises:
            ValueError: A size is invalid or too large, the images are too small for the stack, or a
                convolution or pooling follows a dense layer.
        """
        shape: Shape = self.input_shape
        if min(shape) < 1 or math.prod(shape) > _MAX_PIXELS or len(self.layers) > _MAX_LAYERS:
            raise ValueError(
                f"images of {shape} and {len(self.layers)} layers: at most {_MAX_PIXELS:,} pixels "
                f"and {_MAX_LAYERS:,} layers are supported"
            )
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
                raise ValueError(f"layer {i}: a {type(layer).__name__} cannot follow a dense layer")
            if isinstance(layer, AvgPool | MaxPool):
                pooled = Conv(shape[0], layer.kernel, layer.kernel)
                shape = self._output_shape(shape, pooled, i, "pooling")
            elif isinstance(layer, Block):
                first = Conv(layer.channels, 3, layer.stride, 1)
                inner = self._output_shape(shape, first, i)
                found.append(Connection(first, source, neurons, shape, inner))
                second = Conv(layer.channels, 3, 1, 1)
                found.append(Connection(second, neurons, neurons + 1, inner, inner))
                around = Shortcut() if shape == inner else Conv(layer.channels, 1, layer.stride)
                found.append(Connection(around, source, neurons + 1, shape, inner))
                shape, source, neurons = inner, neurons + 1, neurons + 2
            else:
                out = self._output_shape(shape, layer, i)
                found.append(Connection(layer, source, neurons, shape, out))
                shape, source, neurons = out, neurons, neurons + 1
        found.append(Connection(Dense(self.outputs), source, neurons, shape, (self.outputs,)))
        return found

    def _output_shape(
        self, shape: Shape, layer: Conv | Dense, i: int, kind: str = "convolution"
    ) -> Shape:
        if isinstance(layer, Dense):
            return (layer.units,)
        reach = layer.kernel - 2 * layer.padding
        height, width = ((n - reach) // layer.stride + 1 for n in shape[1:])
        if min(height, width) < 1:
            raise ValueError(
                f"images of {self.input_shape} are too small for layer {i}, "
                f"a {layer.kernel}x{layer.kernel} {kind}"
            )
        if layer.channels * height * width > _MAX_NEURONS:
            raise ValueError(f"layer {i} has more than {_MAX_NEURONS:,} neurons, the limit")
        return (layer.channels, height, width)

    def shapes(self) -> list[Shape]:
        """Returns the output shape of every hidden layer, without the batch dimension."""
        shapes = {c.target: c.output_shape for c in self.connections()[:-1]}
        return [shapes[i] for i in sorted(shapes)]

    def names(self) -> list[str]:
        """Returns short names of the hidden layers and the head: conv1, block1.1, fc1, head."""
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
    builders: Registry[Callable[..., NetworkSpec]],
    name: str,
    input_shape: ImageShape,
    outputs: int,
    **options: Any,
) -> NetworkSpec:
    """Calls a registered or imported builder with (input_shape, outputs, **options).

    Raises:
        ValueError: No builder has this name, or it does not return a valid `NetworkSpec` with
            the given input and outputs.
    """
    spec = builders.find(name)(input_shape, outputs, **options)
    ends = (tuple(spec.input_shape), spec.outputs) if isinstance(spec, NetworkSpec) else None
    try:
        if ends != (tuple(input_shape), outputs):
            raise ValueError(f"expected a NetworkSpec from {input_shape} to {outputs} outputs")
        spec.connections()
    except ValueError as error:
        raise ValueError(f"{builders.setting}={name}: {error}") from None
    return spec
