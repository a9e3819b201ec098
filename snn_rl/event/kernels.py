"""Compiled loops of `snn_rl.event.engine`. The module can be imported only if numba is installed.

A dense layer is treated as a convolution whose kernel is as large as the input.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Table = NDArray[np.int64]

# Columns of `Plan.table`
FIELDS = (
    *("height", "width"),  # of the input
    *("out_height", "out_width", "out_channels"),
    *("stride", "padding"),
    *("row_step", "channel_step"),  # from a kernel row or an input channel to the next
    *("rows", "columns"),  # where the layer's entries begin in `reach`
    *("current", "touched"),  # where the layer's currents and positions begin
    "v_threshold",
)
_INDEX = {name: i for i, name in enumerate(FIELDS)}
_HEIGHT, _WIDTH = _INDEX["height"], _INDEX["width"]
_OUT_HEIGHT, _OUT_WIDTH = _INDEX["out_height"], _INDEX["out_width"]
_OUT_CHANNELS, _STRIDE, _PADDING = _INDEX["out_channels"], _INDEX["stride"], _INDEX["padding"]
_ROW_STEP, _CHANNEL_STEP = _INDEX["row_step"], _INDEX["channel_step"]
_ROWS, _COLUMNS = _INDEX["rows"], _INDEX["columns"]
_CURRENT, _TOUCHED, _V_THRESHOLD = _INDEX["current"], _INDEX["touched"], _INDEX["v_threshold"]
_WORD = 8  # pixels compared at once


# numba passes plain tuples faster than named ones.
# Prepared network:
#   table: [layers, FIELDS]
#   reach: For every row of a layer's input, the output rows that it reaches as [first, end, 0]; for
#       every column, [first, end, start of the weights]
#   weight: Weights of all layers, ordered by `snn_rl.event.engine`
#   rest: Currents of all layers without input, which are the biases
Plan = tuple[Table, Table, NDArray[np.int16], Integers]
# State between decisions:
#   seen: Pixels of the last image
#   current: Currents of all layers, [height, width, channels] each
#   spikes: Spikes of all layers, in the order of the currents
#   touched: 1 at each position whose currents have changed
#   operations: Multiply-accumulates (first layer) or accumulations of each layer in a decision
Memory = tuple[Bytes, Integers, Bytes, Bytes, Table]

_compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")
# A call takes as long as the additions of a few events.
_inlined: Any = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")


@_inlined  # type: ignore[untyped-decorator]
def _scatter(
    layer: Table,
    plan: Plan,
    memory: Memory,
    y: int,
    x: int,
    events: Integers,
    deltas: Integers,
) -> int:
    """Adds the weights of the events at one position of a layer's input to the layer's currents.

    Args:
        layer: Row of the table.
        plan: See `decide`.
        memory: See `decide`.
        y: Row of the position.
        x: Column of the position.
        events: Channels whose value has changed.
        deltas: Change of each value.

    Returns:
        Number of additions.
    """
    _, reach, weight, _ = plan
    _, current, _, touched, _ = memory
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
        for k in range(len(events)):
            start = line + events[k] * layer[_CHANNEL_STEP]
            row = weight[start : start + size]
            delta = deltas[k]
            for j in range(size):
                out[j] += delta * row[j]
    additions: int = len(events) * size * (bottom - top)
    return additions


@_compiled  # type: ignore[untyped-decorator]
def decide(pixels: Bytes, plan: Plan, memory: Memory, incremental: bool) -> None:
    """Updates the currents and spikes of all layers to an image.

    Args:
        pixels: Image, [channels * height * width].
        plan: Network.
        memory: State after the previous image, updated in place.
        incremental: Whether later layers are updated by the spikes that have changed, instead of
            being summed up again from all spikes.
    """
    table, _, _, rest = plan
    seen, current, spikes, touched, operations = memory
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
        changed[count] = words  # the pixels after the last whole word
        count += 1
    event, delta = events[:1], deltas[:1]
    for word in changed[:count]:
        start = word * _WORD
        now, before = pixels[start : start + _WORD], seen[start : start + _WORD]
        for i in range(len(now)):
            if now[i] != before[i]:
                # Unsigned division is faster: Python rounds signed quotients down.
                at = np.uint64(start + i)
                within = at % plane
                event[0], delta[0] = at // plane, np.int32(now[i]) - np.int32(before[i])
                before[i] = now[i]
                y, x = int(within // width), int(within % width)
                operations[0] += _scatter(first, plan, memory, y, x, event, delta)
    for i in range(len(table) - 1):
        layer, after = table[i], table[i + 1]
        out_width, channels = layer[_OUT_WIDTH], layer[_OUT_CHANNELS]
        v_threshold = np.int32(layer[_V_THRESHOLD])  # the type of the currents
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
                    after, plan, memory, y, x, events[:count], deltas[:count]
                )
