"""Event-driven decisions of a T = 1 network on the integer grid, with NumPy and numba only.

The first layer's currents are updated by the pixels that have changed since the last image,
conv(x_t) = conv(x_{t-1}) + conv(x_t - x_{t-1}), and those of every other layer by the spikes that
have changed. All arithmetic is on integers, so spikes, Q-values, and actions are bit-identical to
those of the dense network, regardless of the previous images.

    python -m snn_rl.export env=PongNoFrameskip-v4 T=1 exact=true format=event output=pong.event

    engine = EventEngine(EventNetwork.load("pong.event"))
    action = engine.action(pixels)  # uint8, [channels, height, width]
    engine.operations.macs, engine.operations.acs  # operations of this decision

Neither PyTorch nor Stable-Baselines3 is imported; examples/event_engine.py plays an episode.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from snn_rl.event.network import EventLayer, EventNetwork, Integers
from snn_rl.utils.errors import UserError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Operations:
    """Operations of one decision.

    Attributes:
        layers: Operations of every weight layer: multiply-accumulates by changed pixels in the
            first layer, accumulations by spikes in the others. Comparisons of pixels and with
            thresholds are not counted, as in the energy model of [IIR].
    """

    layers: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates."""
        return self.layers[0]

    @property
    def acs(self) -> int:
        """Number of accumulations."""
        return sum(self.layers[1:])


class EventEngine:
    """Event-driven engine that keeps the last image and the currents and spikes of all layers.

    Decisions depend on the image alone; the previous images only change how long a decision takes.

    Args:
        network: Network on the grid.
        incremental: True if every layer is updated by the spikes that have changed. Otherwise only
            the first layer is updated, and the others are summed up again from all spikes.
    """

    def __init__(self, network: EventNetwork, incremental: bool = True):
        self.network = network
        self.incremental = incremental
        kernels = _kernels()
        self._decide = kernels.decide
        self._layers = Geometry.all(network)
        rest: list[Integers] = []
        weights: list[Integers] = []
        table = np.zeros(len(network.layers), kernels.LAYER)
        reach: list[list[int]] = []
        weight = current = touched = 0
        for i, (layer, geometry) in enumerate(zip(network.layers, self._layers, strict=True)):
            rows, columns = geometry.rows(), geometry.columns(weight)
            table[i] = (
                *(*geometry.shape[1:], *geometry.out, geometry.stride, geometry.padding),
                *(geometry.row_step, geometry.channel_step),
                *(len(reach), len(reach) + len(rows), current, touched),
                layer.v_threshold or 0,
            )
            reach += rows + columns
            weights.append(geometry.in_order(layer.weight))
            bias = np.zeros(1, np.int32) if layer.bias is None else layer.bias
            rest.append(np.broadcast_to(bias, (*geometry.out[1:], geometry.out[0])).ravel())
            weight += len(weights[-1])
            current += len(rest[-1])
            touched += len(rest[-1]) // geometry.out[0]
        start = np.concatenate(rest).astype(np.int32)
        self._plan = (
            table,
            np.array(reach, np.int64),
            np.concatenate(weights).astype(np.int16),  # half the memory traffic of int32
            start,
        )
        # The state after a black image, with every neuron still to be compared
        currents, self._spikes = start.copy(), np.zeros(current, np.uint8)
        self._operations = np.zeros(len(table), np.int64)
        seen = np.zeros(int(np.prod(network.input_shape)), np.uint8)
        compare = np.ones(touched, np.uint8)
        self._memory = (seen, currents, self._spikes, compare, self._operations)
        self._head = currents[-len(network.layers[-1].weight) :]
        self._unit = np.float32(network.layers[-1].unit)

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """Returns the Q-values of an image, [outputs].

        Args:
            pixels: Image, uint8 [channels, height, width].

        Raises:
            ValueError: The image has the wrong type or shape.
        """
        if pixels.dtype != np.uint8 or pixels.shape != self.network.input_shape:
            raise ValueError(
                f"an image must be uint8 {self.network.input_shape}, not {pixels.dtype} "
                f"{pixels.shape}"
            )
        self._decide(pixels.reshape(-1), self._plan, self._memory, self.incremental)
        return self._head.astype(np.float32) * self._unit

    def action(self, pixels: Pixels) -> int:
        """Returns the greedy action; among equal Q-values the first."""
        return int(self(pixels).argmax())

    @property
    def operations(self) -> Operations:
        """Operations of the last decision."""
        return Operations(tuple(self._operations.tolist()))

    @property
    def spikes(self) -> list[Pixels]:
        """Spikes (0 or 1) of each hidden layer, [channels, height, width] or [units]."""
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


@dataclass(frozen=True)
class Geometry:
    """A weight layer as a convolution; a dense layer has a kernel of the size of its input.

    Attributes:
        shape: Shape of the input, (channels, height, width).
        out: Shape of the output, (channels, height, width).
        kernel: Size of the kernel, (height, width).
        stride: Stride in both directions.
        padding: Padding on all sides.
    """

    shape: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: int

    @classmethod
    def all(cls, network: EventNetwork) -> "list[Geometry]":
        """Returns the weight layers of a network."""
        shapes = [network.input_shape, *network.shapes]
        return [cls.of(*each) for each in zip(network.layers, shapes, shapes[1:], strict=False)]

    @classmethod
    def of(cls, layer: EventLayer, shape: tuple[int, ...], out: tuple[int, ...]) -> "Geometry":
        """Returns a weight layer with the shapes of its input and output."""
        shape, out = (*shape, 1, 1)[:3], (*out, 1, 1)[:3]
        if layer.weight.ndim == 2:
            return cls(shape, out, shape[1:], 1, 0)
        return cls(shape, out, layer.weight.shape[2:], layer.stride, layer.padding)

    @property
    def slots(self) -> int:
        """Maximum number of outputs in a row that an input reaches."""
        return -(-self.kernel[1] // self.stride)

    @property
    def channel_step(self) -> int:
        """Number of weights of an input in a kernel row."""
        return self.slots * self.out[0]

    @property
    def row_step(self) -> int:
        """Number of weights of a kernel row."""
        return self.stride * self.shape[0] * self.channel_step

    def rows(self) -> list[list[int]]:
        """Returns the output rows that each input row reaches, [first, end, 0]."""
        return [[*self._reached(y, 0), 0] for y in range(self.shape[1])]

    def columns(self, start: int) -> list[list[int]]:
        """Returns the output columns of each input column, [first, end, start of the weights].

        Args:
            start: Start of the layer's weights.
        """
        found = []
        for x in range(self.shape[2]):
            left, right = self._reached(x, 1)
            last, rest = divmod(x + self.padding, self.stride)
            slot = rest * self.shape[0] * self.slots + self.slots - 1 - last + left
            found.append([left, right, start + slot * self.out[0]])
        return found

    def _reached(self, i: int, axis: int) -> tuple[int, int]:
        """Returns the outputs along an axis whose kernels cover input i, as (first, end)."""
        i += self.padding
        first = max(0, -(-(i - self.kernel[axis] + 1) // self.stride))
        return first, max(first, min(self.out[axis + 1] - 1, i // self.stride) + 1)

    def in_order(self, weight: Integers) -> Integers:
        """Returns the weights in the order in which an event reads them, flat.

        An input at column x reaches neighboring outputs of a row through the kernel columns rest,
        rest + stride, ... from right to left, where rest is x modulo the stride. Their weights are
        contiguous: [kernel row, rest, input channel, output column, output channel]. Columns that
        the kernel lacks are zero.
        """
        height, width = self.kernel
        shape = (self.out[0], self.shape[0], height)
        full = np.zeros((*shape, self.slots * self.stride), np.int32)
        full[..., :width] = weight.reshape(*shape, width)
        parts = full.reshape(*shape, self.slots, self.stride)[:, :, :, ::-1]
        return parts.transpose(2, 4, 1, 3, 0).ravel()
