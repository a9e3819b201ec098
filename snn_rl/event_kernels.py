"""The loops of `snn_rl.event`, compiled by numba. Imported only where numba is installed."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]
Bytes = NDArray[np.uint8]

# The columns of `decide`'s table: a row of them describes a weight layer. A dense layer is a
# convolution whose kernel is as large as its input.
FIELDS = (
    *("height", "width", "channels"),  # of what enters it
    *("out_height", "out_width", "out_channels"),
    *("kernel_height", "kernel_width", "stride", "padding"),
    "weight",  # where its weights begin
    "current",  # where its currents begin, and its spikes
    "touched",  # where its positions begin
    "v_threshold",
)
_F = {name: i for i, name in enumerate(FIELDS)}
_HEIGHT, _WIDTH, _CHANNELS = _F["height"], _F["width"], _F["channels"]
_OUT_HEIGHT, _OUT_WIDTH, _OUT_CHANNELS = _F["out_height"], _F["out_width"], _F["out_channels"]
_KERNEL_HEIGHT, _KERNEL_WIDTH = _F["kernel_height"], _F["kernel_width"]
_STRIDE, _PADDING, _WEIGHT, _CURRENT = _F["stride"], _F["padding"], _F["weight"], _F["current"]
_TOUCHED, _V_THRESHOLD = _F["touched"], _F["v_threshold"]
_BLOCK = 64  # pixels that are compared at once

_compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


@_compiled  # type: ignore[untyped-decorator]
def _scatter(
    layer: NDArray[np.int64],
    weight: NDArray[Any],
    current: Integers,
    touched: Bytes,
    y: int,
    x: int,
    events: Integers,
    deltas: Integers,
    count: int,
) -> int:
    """Adds the weights of events at one place of the input to a layer's currents.

    Args:
        layer: Its row of the table.
        weight: Of all layers, see `snn_rl.event`.
        current: Of all layers.
        touched: Is set where currents change.
        y: Of the place.
        x: Of the place.
        events: Channels in which something happens there.
        deltas: By how much each one's value changes.
        count: Of events.

    Returns:
        Additions.
    """
    stride, padding = layer[_STRIDE], layer[_PADDING]
    out_width, out_channels = layer[_OUT_WIDTH], layer[_OUT_CHANNELS]
    kernel_width, channels = layer[_KERNEL_WIDTH], layer[_CHANNELS]
    slots = (kernel_width + stride - 1) // stride  # outputs that a row of the kernel reaches
    last_x, rest = (x + padding) // stride, (x + padding) % stride
    left = max(0, last_x - (kernel_width - 1 - rest) // stride)
    right = min(out_width - 1, last_x)
    top = max(0, (y + padding - layer[_KERNEL_HEIGHT] + stride) // stride)
    bottom = min(layer[_OUT_HEIGHT] - 1, (y + padding) // stride)
    size = (right - left + 1) * out_channels
    if rest >= kernel_width or size <= 0 or bottom < top:
        return 0
    for out_y in range(top, bottom + 1):
        place = out_y * out_width + left
        for i in range(right - left + 1):
            touched[layer[_TOUCHED] + place + i] = 1
        start = layer[_CURRENT] + place * out_channels
        out = current[start : start + size]
        line = (y + padding - out_y * stride) * stride + rest
        for k in range(count):
            start = (line * channels + events[k]) * slots + slots - 1 - last_x + left
            start = layer[_WEIGHT] + start * out_channels
            row = weight[start : start + size]
            delta = deltas[k]
            if delta == 1:
                for j in range(size):
                    out[j] += row[j]
            elif delta == -1:
                for j in range(size):
                    out[j] -= row[j]
            else:
                for j in range(size):
                    out[j] += delta * row[j]
    return count * size * (bottom - top + 1)


@_compiled  # type: ignore[untyped-decorator]
def decide(
    pixels: Bytes,
    seen: Bytes,
    table: NDArray[np.int64],
    weight: NDArray[Any],
    rest: Integers,
    current: Integers,
    spikes: Bytes,
    touched: Bytes,
    operations: NDArray[np.int64],
    incremental: bool,
) -> None:
    """Brings currents and spikes of all layers up to date with an image.

    Args:
        pixels: The image, [channels * height * width].
        seen: The image before, which becomes this one.
        table: [layers, FIELDS].
        weight: Of all layers, see `snn_rl.event`.
        rest: Currents of no input, which are the biases.
        current: Of all layers, [height, width, channels] each.
        spikes: Of all layers, as the currents.
        touched: Where currents have changed.
        operations: Is set to the multiply-accumulates (first layer) or accumulations of each layer.
        incremental: Later layers are updated by the spikes that have changed; otherwise they are
            summed up again from all spikes.
    """
    most = 1
    for i in range(len(table)):
        most = max(most, table[i, _OUT_CHANNELS])
    events, deltas = np.empty(most, np.int32), np.empty(most, np.int32)
    first = table[0]
    plane, width = first[_HEIGHT] * first[_WIDTH], first[_WIDTH]
    operations[:] = 0
    for start in range(0, len(pixels), _BLOCK):
        now, before = pixels[start : start + _BLOCK], seen[start : start + _BLOCK]
        differ = np.uint8(0)
        for i in range(len(now)):
            differ |= now[i] ^ before[i]
        if differ == 0:
            continue
        for i in range(len(now)):
            if now[i] != before[i]:
                channel, place = divmod(start + i, plane)
                events[0], deltas[0] = channel, np.int32(now[i]) - np.int32(before[i])
                before[i] = now[i]
                operations[0] += _scatter(
                    first, weight, current, touched, place // width, place % width, events, deltas, 1
                )
    for i in range(len(table) - 1):
        layer, after = table[i], table[i + 1]
        width, channels = layer[_OUT_WIDTH], layer[_OUT_CHANNELS]
        # what follows a dense layer takes its units as channels of one place
        if not incremental:
            begin = after[_CURRENT]
            size = after[_OUT_HEIGHT] * after[_OUT_WIDTH] * after[_OUT_CHANNELS]
            current[begin : begin + size] = rest[begin : begin + size]
        for place in range(layer[_OUT_HEIGHT] * width):
            if touched[layer[_TOUCHED] + place] == 0 and incremental:
                continue
            touched[layer[_TOUCHED] + place] = 0
            begin = layer[_CURRENT] + place * channels
            u, s = current[begin : begin + channels], spikes[begin : begin + channels]
            count = 0
            if incremental:
                differ = np.uint8(0)
                for j in range(channels):
                    differ |= np.uint8(u[j] > layer[_V_THRESHOLD]) ^ s[j]
                if differ == 0:
                    continue
                for j in range(channels):
                    events[count] = j
                    count += np.uint8(u[j] > layer[_V_THRESHOLD]) ^ s[j]
                for k in range(count):
                    j = events[k]
                    s[j] ^= np.uint8(1)
                    deltas[k] = 1 if s[j] else -1
            else:
                for j in range(channels):
                    s[j] = u[j] > layer[_V_THRESHOLD]
                    events[count] = j
                    deltas[count] = 1
                    count += s[j]
            if count:
                operations[i + 1] += _scatter(
                    *(after, weight, current, touched),
                    *(place // width, place % width, events, deltas, count),
                )
