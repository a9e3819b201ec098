"""Compiled loops of `snn_rl.event.engine`; importing this module requires numba."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.utils.compiling import compiled

Integers = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Table = NDArray[np.int64]
Layers = NDArray[np.void]

_WORD = 8  # pixels compared at once

# A weight layer. A dense layer is a convolution whose kernel is as large as the input.
LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("height", "width"),  # of the input
            *("out_channels", "out_height", "out_width"),
            *("stride", "padding"),
            *("row_step", "channel_step"),  # from a kernel row or an input channel to the next
            *("rows", "columns"),  # where the layer's entries begin in `reach`
            *("current", "touched"),  # where the layer's currents and positions begin
            "v_threshold",
        )
    ]
)

# numba passes plain tuples faster than named ones.
# Prepared network:
#   table: LAYER [layers]
#   reach: For every row of a layer's input, the output rows that it reaches as [first, end, 0]; for
#       every column, [first, end, start of the weights]
#   weight: Weights of all layers, ordered by `snn_rl.event.engine`
#   rest: Currents of all layers without input, which are the biases
Plan = tuple[Layers, Table, NDArray[np.int16], Integers]
# State between decisions:
#   seen: Pixels of the last image
#   current: Currents of all layers, [height, width, channels] each
#   spikes: Spikes of all layers, in the order of the currents
#   touched: 1 at each position whose currents have changed
#   operations: Multiply-accumulates (first layer) or accumulations of each layer in a decision
Memory = tuple[Bytes, Integers, Bytes, Bytes, Table]

_compiled: Any = compiled()
# A call takes as long as the additions of a few events.
_inlined: Any = compiled(inline="always")


@_inlined  # type: ignore[untyped-decorator]
def _scatter(
    layer: Any,
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
    rows, columns = reach[layer.rows + y], reach[layer.columns + x]
    top, bottom = rows[0], rows[1]
    left, right, begin = columns[0], columns[1], columns[2]
    size = (right - left) * layer.out_channels
    for out_y in range(top, bottom):
        place = out_y * layer.out_width + left
        for i in range(right - left):
            touched[layer.touched + place + i] = 1
        start = layer.current + place * layer.out_channels
        out = current[start : start + size]
        line = begin + (y + layer.padding - out_y * layer.stride) * layer.row_step
        for k in range(len(events)):
            start = line + events[k] * layer.channel_step
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
        incremental: True if later layers are updated by the spikes that have changed, instead of
            being summed up again from all spikes.
    """
    table, _, _, rest = plan
    seen, current, spikes, touched, operations = memory
    most = 1
    for i in range(len(table)):
        most = max(most, table[i].out_channels)
    events, deltas = np.empty(most, np.int32), np.empty(most, np.int32)
    changed = np.empty(len(pixels) // _WORD + 2, np.int32)
    first = table[0]
    width = np.uint64(first.width)
    plane = np.uint64(first.height) * width
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
        out_width, channels = layer.out_width, layer.out_channels
        v_threshold = np.int32(layer.v_threshold)  # the type of the currents
        if not incremental:
            begin = after.current
            size = after.out_height * after.out_width * after.out_channels
            current[begin : begin + size] = rest[begin : begin + size]
        for place in range(layer.out_height * out_width):
            if touched[layer.touched + place] == 0 and incremental:
                continue
            touched[layer.touched + place] = 0
            begin = layer.current + place * channels
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
