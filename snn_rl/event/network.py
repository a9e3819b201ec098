"""T = 1 networks on the integer grid as arrays of integers, and their files; without torch."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from snn_rl.files.archive import parse_json, read_bytes
from snn_rl.utils.errors import UserError

PIXEL = 255  # largest value of a pixel
_MAX_LAYERS = 1_000
_MAX_NEURONS = 2**24  # in total, including the pixels of an image
LIMIT = 2**24  # float32 represents all smaller integers, and Q-values are integers times `unit`
SCHEMA = 1
_META = "snn_rl.event"

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class EventLayer:
    """A weight layer in integers, see `snn_rl.core.conversion.integer_grid.GridLayer`.

    Attributes:
        name: Name of the layer: conv1, fc1, ..., head.
        unit: Value of the integer 1, a power of two.
        weight: Weights, [outputs, inputs] or [channels, inputs, kernel, kernel].
        bias: Biases, [outputs], or None.
        v_threshold: Threshold above which neurons fire; None for the head, which does not fire.
        stride: Stride of a convolution.
        padding: Padding of a convolution.
    """

    name: str
    unit: float
    weight: Integers
    bias: Integers | None = None
    v_threshold: int | None = None
    stride: int = 1
    padding: int = 0

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the outputs for inputs of a shape."""
        if self.weight.ndim == 2:
            return (len(self.weight),)
        reach = self.weight.shape[2] - 2 * self.padding
        height, width = ((n - reach) // self.stride + 1 for n in shape[1:])
        return (len(self.weight), height, width)

    def check(self, shape: tuple[int, ...], largest_input: int, is_head: bool) -> None:
        """Raises a ValueError that names the layer if it does not match its inputs or the grid."""
        weight, bias = self.weight, self.bias
        name = f"layer {self.name}"
        if not (np.isfinite(self.unit) and np.frexp(self.unit)[0] == 0.5):
            raise ValueError(f"{name}: unit must be a power of two, not {self.unit}")
        arrays = [weight] if bias is None else [weight, bias]
        if any(not np.issubdtype(array.dtype, np.signedinteger) for array in arrays):
            raise ValueError(f"{name}: weights and biases must be signed integers")
        if weight.size and not -(2**15) < weight.min() <= weight.max() < 2**15:
            raise ValueError(f"{name}: weights must have at most 16 bits")
        if bias is not None and bias.size and not -LIMIT < bias.min() <= bias.max() < LIMIT:
            raise ValueError(f"{name}: biases must have at most 25 bits")
        if (self.v_threshold is None) != is_head:
            raise ValueError(f"{name}: every layer except the head must have a threshold")
        if self.v_threshold is not None and not 0 <= self.v_threshold < LIMIT:
            raise ValueError(f"{name}: the threshold must be from 0 to {LIMIT - 1}")
        if weight.ndim == 4:
            fits = len(shape) == 3 and weight.shape[1] == shape[0] and not is_head
            fits = fits and weight.shape[2] == weight.shape[3] and min(weight.shape) > 0
            fits = fits and self.stride > 0 and 0 <= self.padding < weight.shape[2]
            fits = fits and min(shape[1:], default=0) >= weight.shape[2] - 2 * self.padding
        else:
            fits = weight.ndim == 2 and weight.shape[1] == np.prod(shape) and len(weight) > 0
        if not fits or (bias is not None and bias.shape != (len(weight),)):
            raise ValueError(f"{name}: weights {weight.shape} do not match inputs of {shape}")
        rows = np.abs(weight).reshape(len(weight), -1)
        sums = rows.sum(1, dtype=np.int64) * largest_input
        bound = (sums + (0 if bias is None else np.abs(bias.astype(np.int64)))).max()
        if not bound < LIMIT:
            raise ValueError(f"{name} is not on the grid: its sums may reach {bound} units")


@dataclass(frozen=True)
class EventNetwork:
    """A network on the grid: convolutions, dense layers and a head.

    Attributes:
        input_shape: (channels, height, width) of an image.
        layers: Layers from input to output, the head last.

    Raises:
        ValueError: A layer does not match its inputs, its sums may leave the grid, or the network
            is too large.
    """

    input_shape: tuple[int, int, int]
    layers: tuple[EventLayer, ...]

    def __post_init__(self) -> None:
        names = {layer.name for layer in self.layers}
        if not 1 <= len(names) == len(self.layers) <= _MAX_LAYERS:
            raise ValueError(f"a network must have 1 to {_MAX_LAYERS} layers with distinct names")
        if min(self.input_shape) < 1:
            raise ValueError("images must have at least one pixel")
        total = math.prod(self.input_shape)
        shape: tuple[int, ...] = self.input_shape
        for i, layer in enumerate(self.layers):
            layer.check(shape, 1 if i else PIXEL, i == len(self.layers) - 1)
            shape = layer.output_shape(shape)
            total += math.prod(shape)
            if total > _MAX_NEURONS:
                raise ValueError(f"the network has more than {_MAX_NEURONS:,} pixels and neurons")

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Output shapes of all layers, (channels, height, width) or (units,)."""
        found: list[tuple[int, ...]] = []
        for layer in self.layers:
            found.append(layer.output_shape(found[-1] if found else self.input_shape))
        return found

    @property
    def macs(self) -> list[int]:
        """Multiply-accumulates of one dense pass, for every layer."""
        places = (int(np.prod(shape[1:])) for shape in self.shapes)
        return [n * layer.weight.size for n, layer in zip(places, self.layers, strict=True)]

    def to_bytes(self) -> bytes:
        """Returns the network as a safetensors file with a description in JSON."""
        tensors: dict[str, NDArray[Any]] = {}
        layers = []
        for layer in self.layers:
            tensors[f"{layer.name}.weight"] = np.ascontiguousarray(layer.weight, np.int16)
            if layer.bias is not None:
                tensors[f"{layer.name}.bias"] = np.ascontiguousarray(layer.bias, np.int32)
            fields = ("name", "unit", "v_threshold", "stride", "padding")
            layers.append({field: getattr(layer, field) for field in fields})
        note = {"schema": SCHEMA, "input_shape": list(self.input_shape), "layers": layers}
        # A single metadata entry: safetensors writes several entries in random order.
        return save(tensors, {_META: json.dumps({**note, "sha256": _digest(note, tensors)})})

    @classmethod
    def load(cls, path: Path | str) -> "EventNetwork":
        """Reads a file that `snn_rl.export format=event` wrote."""
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
                f"{path} is not a network of the event-driven engine: write one with "
                "python -m snn_rl.export ... exact=true format=event"
            )
        meta = parse_json(text, str(path))
        if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
            raise UserError(f"{path} has another schema; this version reads schema {SCHEMA}")
        if meta.pop("sha256", None) != _digest(meta, tensors):
            raise UserError(f"{path} is damaged: its content does not match its checksum")
        try:
            channels, height, width = (int(n) for n in meta["input_shape"])
            layers = tuple(_layer(entry, tensors) for entry in meta["layers"])
            return cls((channels, height, width), layers)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{path} does not hold a network ({error})") from None


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
    """Returns the checksum of a note and of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(note).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
