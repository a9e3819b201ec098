"""The loops of `snn_rl.event.engine`, compiled by numba. Imported only where numba is installed."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Table = NDArray[np.int64]

# The columns of `decide`'s table: a row of them describes a weight layer. A dense layer is a
# convolution whose kernel is as large as its input.
FIELDS = (
    *("height", "width"),  # of what enters it
    *("out_height", "out_width", "out_channels"),
    *("stride", "padding"),
    *("row_step", "channel_step"),  # from one kernel row, and from one input channel, to the next
    *("rows", "columns"),  # where its own begin in `reach`
    *("current", "touched"),  # where its currents and spikes, and where its positions begin
    "v_threshold",
)
_INDEX = {name: i for i, name in enumerate(FIELDS)}
_HEIGHT, _WIDTH = _INDEX["height"], _INDEX["width"]
_OUT_HEIGHT, _OUT_WIDTH = _INDEX["out_height"], _INDEX["out_width"]
_OUT_CHANNELS, _STRIDE, _PADDING = _INDEX["out_channels"], _INDEX["stride"], _INDEX["padding"]
_ROW_STEP, _CHANNEL_STEP = _INDEX["row_step"], _INDEX["channel_step"]
_ROWS, _COLUMNS = _INDEX["rows"], _INDEX["columns"]
_CURRENT, _TOUCHED, _V_THRESHOLD = _INDEX["current"], _INDEX["touched"], _INDEX["v_threshold"]
_WORD = 8  # pixels that are compared at once

_compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")
# a call takes as long as the additions of a few events
_inlined: Any = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")


@_inlined  # type: ignore[untyped-decorator]
def _scatter(
    layer: Table,
    reach: Table,
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
        reach: See `decide`.
        weight: See `decide`.
        current: See `decide`.
        touched: See `decide`.
        y: Of the place.
        x: Of the place.
        events: Channels in which something happens there.
        deltas: By how much each one's value changes.
        count: Of events.

    Returns:
        Additions.
    """
    rows, columns = reach[layer[_ROWS] + y], reach[layer[_COLUMNS] + x]
    top, bottom = rows[0], rows[1]
    left, right, begin = columns[0], columns[1], columns[2]
    size = (right - left) * layer[_OUT_CHANNELS]
    for out_y in range(top, bottom):
        place = out_y * layer[_OUT_WIDTH] + left
        for i in range(right - left):
            touched[layer[_TOUCHED] + place + i] = 1
        start = layer[_CURRENT] + place * layer[_OUT_CHANNELS]
        out = current[start : start + size]
        line = begin + (y + layer[_PADDING] - out_y * layer[_STRIDE]) * layer[_ROW_STEP]
        for k in range(count):
            start = line + events[k] * layer[_CHANNEL_STEP]
            row = weight[start : start + size]
            delta = deltas[k]
            for j in range(size):
                out[j] += delta * row[j]
    additions: int = count * size * (bottom - top)
    return additions


@_compiled  # type: ignore[untyped-decorator]
def decide(
    pixels: Bytes,
    seen: Bytes,
    table: Table,
    reach: Table,
    weight: NDArray[Any],
    rest: Integers,
    current: Integers,
    spikes: Bytes,
    touched: Bytes,
    operations: Table,
    incremental: bool,
) -> None:
    """Brings currents and spikes of all layers up to date with an image.

    Args:
        pixels: The image, [channels * height * width].
        seen: The image before, which becomes this one.
        table: [layers, FIELDS].
        reach: For every row of a layer's input the output rows that it reaches, [first, beyond the
            last, 0], and for every column [first, beyond the last, where their weights begin].
        weight: Of all layers, see `snn_rl.event.engine`.
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
    changed = np.empty(len(pixels) // _WORD + 2, np.int32)
    first = table[0]
    width = np.uint64(first[_WIDTH])
    plane = np.uint64(first[_HEIGHT]) * width
    operations[:] = 0
    words = len(pixels) // _WORD
    now8, seen8 = pixels[: words * _WORD].view(np.uint64), seen[: words * _WORD].view(np.uint64)
    count = 0
    for word in range(words):
        changed[count] = word
        count += now8[word] != seen8[word]
    if words * _WORD < len(pixels):
        changed[count] = words  # the few pixels that are left
        count += 1
    for word in changed[:count]:
        start = word * _WORD
        now, before = pixels[start : start + _WORD], seen[start : start + _WORD]
        for i in range(len(now)):
            if now[i] != before[i]:
                # unsigned numbers: Python rounds signed ones down, which takes longer
                at = np.uint64(start + i)
                within = at % plane
                events[0], deltas[0] = at // plane, np.int32(now[i]) - np.int32(before[i])
                before[i] = now[i]
                y, x = int(within // width), int(within % width)
                operations[0] += _scatter(
                    first, reach, weight, current, touched, y, x, events, deltas, 1
                )
    for i in range(len(table) - 1):
        layer, after = table[i], table[i + 1]
        out_width, channels = layer[_OUT_WIDTH], layer[_OUT_CHANNELS]
        v_threshold = np.int32(layer[_V_THRESHOLD])  # as wide as what it is compared with
        if not incremental:
            begin = after[_CURRENT]
            size = after[_OUT_HEIGHT] * after[_OUT_WIDTH] * after[_OUT_CHANNELS]
            current[begin : begin + size] = rest[begin : begin + size]
        for place in range(layer[_OUT_HEIGHT] * out_width):
            if touched[layer[_TOUCHED] + place] == 0 and incremental:
                continue
            touched[layer[_TOUCHED] + place] = 0
            begin = layer[_CURRENT] + place * channels
            u, s = current[begin : begin + channels], spikes[begin : begin + channels]
            count = 0
            if incremental:
                for j in range(channels):
                    events[count] = j
                    count += np.uint8(u[j] > v_threshold) ^ s[j]
                for k in range(count):
                    j = events[k]
                    s[j] ^= np.uint8(1)
                    deltas[k] = 1 if s[j] else -1
            else:
                for j in range(channels):
                    s[j] = u[j] > v_threshold
                    events[count] = j
                    deltas[count] = 1
                    count += s[j]
            if count:
                y, x = place // out_width, place % out_width
                operations[i + 1] += _scatter(
                    after, reach, weight, current, touched, y, x, events, deltas, count
                )
