"""Event-driven decisions of a T = 1 network on the integer grid, by NumPy and numba alone.

What is silent costs nothing here: the first layer's currents are updated by the pixels that have
changed since the image before, conv(x_t) = conv(x_{t-1}) + conv(x_t - x_{t-1}), and every other
layer's by the spikes that have come or gone. On the integer grid all of that is integer
arithmetic, so that nothing drifts, and spikes, Q-values and actions are those of the dense network,
bit by bit, whatever came before.

    python -m snn_rl.export env=PongNoFrameskip-v4 T=1 exact=true format=event output=pong.event

    engine = EventEngine(EventNetwork.load("pong.event"))
    action = engine.action(pixels)  # uint8, [channels, height, width]
    engine.operations.macs, engine.operations.acs  # what that took

Neither PyTorch nor Stable-Baselines3 is imported; examples/event_engine.py plays a whole game.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from snn_rl.files.archive import parse_json, read_bytes
from snn_rl.utils.errors import UserError

PIXEL = 255  # the largest
LIMIT = 2**24  # float32 holds the integers below it, and a Q-value is one times a power of two
SCHEMA = 1
_META = "snn_rl.event.engine"

Integers = NDArray[np.int32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class EventLayer:
    """A weight layer in integers, see `snn_rl.core.conversion.integer_grid.GridLayer`.

    Attributes:
        name: conv1, fc1, ..., head.
        unit: What 1 stands for, a power of two.
        weight: [outputs, inputs] or [channels, inputs, kernel, kernel], whole numbers.
        bias: [outputs], or None.
        v_threshold: Its neurons fire above it; None: the head, which fires nothing.
        stride: Of a convolution.
        padding: Of a convolution.
    """

    name: str
    unit: float
    weight: Integers
    bias: Integers | None = None
    v_threshold: int | None = None
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class EventNetwork:
    """A network on the grid: convolutions, dense layers, a head.

    Attributes:
        input_shape: (channels, height, width) of an image.
        layers: From input to output, the head last.

    Raises:
        ValueError: The layers do not fit one another, or their sums may leave the grid.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[EventLayer, ...]

    def __post_init__(self) -> None:
        if not self.layers or min(self.input_shape) < 1:
            raise ValueError("a network has a head, and images of at least one pixel")
        shape: tuple[int, ...] = self.input_shape
        for layer in self.layers:
            last = layer is self.layers[-1]
            _check(layer, shape, last, PIXEL if layer is self.layers[0] else 1)
            shape = _output_shape(layer, shape)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of every layer's outputs, the head included: [channels, height, width] or [units]."""
        found: list[tuple[int, ...]] = []
        for layer in self.layers:
            found.append(_output_shape(layer, found[-1] if found else self.input_shape))
        return found

    @property
    def macs(self) -> list[int]:
        """Multiply-accumulates of one dense pass through every layer."""
        places = (int(np.prod(shape[1:])) for shape in self.shapes)
        return [n * layer.weight.size for n, layer in zip(places, self.layers, strict=True)]

    def to_bytes(self) -> bytes:
        """The network as a file: safetensors, with a description in JSON."""
        tensors: dict[str, NDArray[Any]] = {}
        layers = []
        for layer in self.layers:
            weight = np.ascontiguousarray(layer.weight, np.int16)
            tensors[f"{layer.name}.weight"] = weight
            if layer.bias is not None:
                tensors[f"{layer.name}.bias"] = np.ascontiguousarray(layer.bias, np.int32)
            layers.append(
                {
                    "name": layer.name,
                    "unit": layer.unit,
                    "v_threshold": layer.v_threshold,
                    "stride": layer.stride,
                    "padding": layer.padding,
                }
            )
        note = {"schema": SCHEMA, "input_shape": list(self.input_shape), "layers": layers}
        # one entry, because safetensors writes several in any order
        return save(tensors, {_META: json.dumps({**note, "sha256": _digest(note, tensors)})})

    @classmethod
    def load(cls, path: Path | str) -> "EventNetwork":
        """Reads what `snn_rl.export format=event` wrote.

        Raises:
            UserError: The file is missing, damaged, or of another kind.
        """
        path = Path(path)
        data = read_bytes(path)
        try:
            tensors = load(data)
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(_META)
        except (SafetensorError, OSError, ValueError, KeyError, OverflowError) as error:
            raise UserError(f"{path} is damaged or not a safetensors file ({error})") from None
        if text is None:
            raise UserError(
                f"{path} was not written for this engine: "
                "python -m snn_rl.export ... exact=true format=event does"
            )
        meta = parse_json(text, str(path))
        if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
            raise UserError(f"{path} has another schema; this version reads schema {SCHEMA}")
        if meta.pop("sha256", None) != _digest(meta, tensors):
            raise UserError(f"{path} is damaged: its content does not fit its checksum")
        try:
            channels, height, width = (int(n) for n in meta["input_shape"])
            layers = tuple(_layer(entry, tensors) for entry in meta["layers"])
            return cls((channels, height, width), layers)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path} does not hold a network ({error})") from None


@dataclass(frozen=True)
class Operations:
    """What one decision took.

    Attributes:
        layers: Of every weight layer: multiply-accumulates by changed pixels in the first one,
            accumulations by spikes in the others. Comparisons, of pixels and with thresholds,
            are in neither, as in the papers' model.
    """

    layers: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.layers[0]

    @property
    def acs(self) -> int:
        """Accumulations."""
        return sum(self.layers[1:])


class EventEngine:
    """Decides, image by image, and remembers the last image and its currents and spikes.

    Any image may follow any other: what comes out depends on the image alone, and how long it takes
    on how much of it is new.

    Args:
        network: On the grid.
        incremental: Update every layer by the spikes that have come or gone. Otherwise the first
            layer alone is updated; the others are summed up anew, from the neurons that fire.

    Raises:
        UserError: numba is not installed.
    """

    def __init__(self, network: EventNetwork, incremental: bool = True):
        self.network = network
        self.incremental = incremental
        kernels = _kernels()
        self._decide = kernels.decide
        shapes = [network.input_shape, *network.shapes]
        self._layers = [
            _Geometry.of(*each) for each in zip(network.layers, shapes, shapes[1:], strict=False)
        ]
        rest: list[Integers] = []
        weights: list[Integers] = []
        table: list[list[int]] = []
        reach: list[list[int]] = []
        weight = current = touched = 0
        for layer, geometry in zip(network.layers, self._layers, strict=True):
            rows, columns = geometry.rows(), geometry.columns(weight)
            fields = {
                **dict(zip(("height", "width"), geometry.shape[1:], strict=True)),
                **dict(zip(("out_channels", "out_height", "out_width"), geometry.out, strict=True)),
                "stride": geometry.stride,
                "padding": geometry.padding,
                "row_step": geometry.row_step,
                "channel_step": geometry.channel_step,
                "rows": len(reach),
                "columns": len(reach) + len(rows),
                "current": current,
                "touched": touched,
                "v_threshold": layer.v_threshold or 0,
            }
            table.append([fields[name] for name in kernels.FIELDS])
            reach += rows + columns
            weights.append(geometry.in_order(layer.weight))
            bias = np.zeros(1, np.int32) if layer.bias is None else layer.bias
            rest.append(np.broadcast_to(bias, (*geometry.out[1:], geometry.out[0])).ravel())
            weight += len(weights[-1])
            current += len(rest[-1])
            touched += len(rest[-1]) // geometry.out[0]
        self._table, self._reach = np.array(table, np.int64), np.array(reach, np.int64)
        self._weight = np.concatenate(weights).astype(np.int16)  # half the memory traffic
        self._rest = np.concatenate(rest).astype(np.int32)
        # as if a black image had been seen, and no neuron been asked yet
        self._current = self._rest.copy()
        self._seen = np.zeros(int(np.prod(network.input_shape)), np.uint8)
        self._spikes = np.zeros(current, np.uint8)
        self._touched = np.ones(touched, np.uint8)
        self._operations = np.zeros(len(table), np.int64)
        self._head = self._current[-len(network.layers[-1].weight) :]
        self._unit = np.float32(network.layers[-1].unit)

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """Q-values [outputs] of an image.

        Args:
            pixels: uint8, [channels, height, width].

        Raises:
            ValueError: It is of another type or shape.
        """
        if pixels.dtype != np.uint8 or pixels.shape != self.network.input_shape:
            raise ValueError(
                f"an image is uint8 {self.network.input_shape}, not {pixels.dtype} {pixels.shape}"
            )
        self._decide(
            pixels.reshape(-1),
            self._seen,
            self._table,
            self._reach,
            self._weight,
            self._rest,
            self._current,
            self._spikes,
            self._touched,
            self._operations,
            self.incremental,
        )
        return self._head.astype(np.float32) * self._unit

    def action(self, pixels: Pixels) -> int:
        """The greedy action; of equal Q-values the first."""
        return int(self(pixels).argmax())

    @property
    def operations(self) -> Operations:
        """What the last decision took."""
        return Operations(tuple(self._operations.tolist()))

    @property
    def spikes(self) -> list[Pixels]:
        """Of the last image, 0 or 1, by hidden layer: [channels, height, width] or [units]."""
        found, start = [], 0
        for shape, geometry in zip(self.network.shapes[:-1], self._layers, strict=False):
            size = int(np.prod(shape))
            channels, height, width = geometry.out
            flat = self._spikes[start : start + size].reshape(height, width, channels)
            found.append(flat.transpose(2, 0, 1).reshape(shape).copy())
            start += size
        return found


def _kernels() -> ModuleType:
    try:
        return importlib.import_module("snn_rl.event.kernels")
    except ImportError as error:
        raise UserError(
            f"the event-driven engine needs the package numba ({error}): pip install 'snn_rl[fast]'"
        ) from None


def _check(layer: EventLayer, shape: tuple[int, ...], last: bool, largest_input: int) -> None:
    """Refuses a layer that this input, with these largest values, does not fit.

    Raises:
        ValueError: It names the layer.
    """
    weight, bias = layer.weight, layer.bias
    name = f"layer {layer.name}"
    if not (np.isfinite(layer.unit) and np.frexp(layer.unit)[0] == 0.5):
        raise ValueError(f"{name}: its unit must be a power of two, not {layer.unit}")
    arrays = [weight] if bias is None else [weight, bias]
    if any(not np.issubdtype(array.dtype, np.signedinteger) for array in arrays):
        raise ValueError(f"{name}: weights and biases must be whole numbers")
    if weight.size and not np.abs(weight.astype(np.int64)).max() < 2**15:
        raise ValueError(f"{name}: its weights must have at most 16 bits")
    if (layer.v_threshold is None) != last:
        raise ValueError(f"{name}: every layer but the head has a threshold")
    if layer.v_threshold is not None and not abs(layer.v_threshold) < LIMIT:
        raise ValueError(f"{name}: its threshold must be below {LIMIT}")
    if weight.ndim == 4:
        fits = len(shape) == 3 and weight.shape[1] == shape[0] and not last
        fits = fits and weight.shape[2] == weight.shape[3] and min(weight.shape) > 0
        fits = fits and layer.stride > 0 and layer.padding >= 0
        reach = weight.shape[2] - 2 * layer.padding
        fits = fits and all(n >= reach for n in shape[1:])
    else:
        fits = weight.ndim == 2 and weight.shape[1] == np.prod(shape) and len(weight) > 0
    if bias is not None:
        fits = fits and bias.shape == (len(weight),)
    if not fits:
        raise ValueError(f"{name}: weights {weight.shape} do not fit an input of {shape}")
    sums = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1) * largest_input
    bound = (sums + (0 if bias is None else np.abs(bias.astype(np.int64)))).max()
    if not bound < LIMIT:
        raise ValueError(f"{name} is not on the grid: its sums may reach {bound} units")


def _output_shape(layer: EventLayer, shape: tuple[int, ...]) -> tuple[int, ...]:
    if layer.weight.ndim == 2:
        return (len(layer.weight),)
    reach = layer.weight.shape[2] - 2 * layer.padding
    height, width = ((n - reach) // layer.stride + 1 for n in shape[1:])
    return (len(layer.weight), height, width)


@dataclass(frozen=True)
class _Geometry:
    """A weight layer as a convolution; of a dense one the kernel is as large as the input.

    Attributes:
        shape: Of its input, (channels, height, width).
        out: Of its output, (channels, height, width).
        kernel: (height, width).
        stride: In both directions.
        padding: On all sides.
    """

    shape: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: int

    @classmethod
    def of(cls, layer: EventLayer, shape: tuple[int, ...], out: tuple[int, ...]) -> "_Geometry":
        shape, out = (*shape, 1, 1)[:3], (*out, 1, 1)[:3]
        if layer.weight.ndim == 2:
            return cls(shape, out, shape[1:], 1, 0)
        return cls(shape, out, layer.weight.shape[2:], layer.stride, layer.padding)

    @property
    def slots(self) -> int:
        """Outputs in a row that an input can reach."""
        return -(-self.kernel[1] // self.stride)

    @property
    def channel_step(self) -> int:
        """Weights that an input has in one kernel row."""
        return self.slots * self.out[0]

    @property
    def row_step(self) -> int:
        """Weights of a kernel row."""
        return self.stride * self.shape[0] * self.channel_step

    def rows(self) -> list[list[int]]:
        """For every row of the input the outputs' rows: [first, beyond the last, 0]."""
        return [[*self._reached(y, 0), 0] for y in range(self.shape[1])]

    def columns(self, start: int) -> list[list[int]]:
        """For every column [first, beyond the last, where their weights begin].

        Args:
            start: Where the layer's weights begin.
        """
        found = []
        for x in range(self.shape[2]):
            left, right = self._reached(x, 1)
            last, rest = divmod(x + self.padding, self.stride)
            slot = rest * self.shape[0] * self.slots + self.slots - 1 - last + left
            found.append([left, right, start + slot * self.out[0]])
        return found

    def _reached(self, i: int, axis: int) -> tuple[int, int]:
        """The outputs, along one axis, whose kernels hold input i: [first, beyond the last)."""
        i += self.padding
        first = max(0, -(-(i - self.kernel[axis] + 1) // self.stride))
        return first, max(first, min(self.out[axis + 1] - 1, i // self.stride) + 1)

    def in_order(self, weight: Integers) -> Integers:
        """The layer's weights in the order in which an event needs them, flat.

        An input at column x reaches, in one row of outputs, neighbouring ones: through the
        kernel's columns rest, rest + stride, ... from right to left, where rest is the remainder of
        x by the stride. Their weights stand side by side: [kernel row, rest, input channel, output
        column, output channel], zero where the kernel has no such column.
        """
        height, width = self.kernel
        shape = (self.out[0], self.shape[0], height)
        full = np.zeros((*shape, self.slots * self.stride), np.int32)
        full[..., :width] = weight.reshape(*shape, width)
        parts = full.reshape(*shape, self.slots, self.stride)[:, :, :, ::-1]
        return parts.transpose(2, 4, 1, 3, 0).ravel()


def _layer(entry: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> EventLayer:
    name, v_threshold = str(entry["name"]), entry["v_threshold"]
    return EventLayer(
        name,
        float(entry["unit"]),
        tensors[f"{name}.weight"],
        tensors.get(f"{name}.bias"),
        None if v_threshold is None else int(v_threshold),
        int(entry["stride"]),
        int(entry["padding"]),
    )


def _digest(note: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """Checksum of a description and of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(note).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
