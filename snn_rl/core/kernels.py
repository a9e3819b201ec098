"""Loops of `snn_rl.core.compiled`, compiled by numba; imported only if numba is installed.

Arrays are float32, or uint16 with the bits of bfloat16, which are the upper half of a float32.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from snn_rl.utils.compiling import compiled

Array = NDArray[np.float32] | NDArray[np.uint16]

# Neurons simulated together, so that all their timesteps fit in a core's first-level cache
BLOCK = 1024
LINEAR, EXPONENTIAL, BOXCAR = 0, 1, 2

# without fastmath, so that membranes and spikes equal those of the plain neuron bit by bit
_compiled: Any = compiled()


def _wide(x: Any) -> Any:
    """Returns a value of an array as float32."""
    raise NotImplementedError


@overload(_wide)
def _overload_wide(x: Any) -> Any:
    def same(x: Any) -> Any:
        return x

    def shifted(x: Any) -> Any:
        return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)

    return shifted if x == types.uint16 else same


def _narrow(x: Any, like: Any) -> Any:
    """Returns a float32 in the type of the array `like`, rounded to nearest, ties to even."""
    raise NotImplementedError


@overload(_narrow)
def _overload_narrow(x: Any, like: Any) -> Any:
    def same(x: Any, like: Any) -> Any:
        return x

    def rounded(x: Any, like: Any) -> Any:
        bits = np.float32(x).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        up = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)
        # rounding up could turn the bits of a NaN into those of a number
        return np.uint16(0x7FC0) if x != x else np.uint16(up >> np.uint32(16))

    return rounded if like.dtype == types.uint16 else same


@_compiled  # type: ignore[untyped-decorator]
def forward(
    current: Array, v: np.float32, leak: np.float32, spikes: Array, part: tuple[int, int]
) -> None:
    """Fills spikes [T, M] from a current [T or 1, M], for a range of neurons."""
    first, last = part
    steps = len(spikes)
    one, zero = _narrow(np.float32(1), spikes), _narrow(np.float32(0), spikes)
    u = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        count = min(BLOCK, last - start)
        for t in range(steps):
            now = current[min(t, len(current) - 1), start : start + count]
            out = spikes[t, start : start + count]
            if t == 0:
                for i in range(count):
                    u[i] = _wide(now[i])
            else:
                for i in range(count):
                    u[i] = leak * u[i] + _wide(now[i])
            for i in range(count):
                out[i] = one if u[i] > v else zero
            if t + 1 < steps:
                for i in range(count):
                    u[i] = u[i] - v if u[i] > v else u[i]


@_compiled  # type: ignore[untyped-decorator]
def backward(
    current: Array,
    v: np.float32,
    leak: np.float32,
    kind: int,
    grad_spikes: Array,
    grad: Array,
    part: tuple[int, int],
) -> tuple[float, float]:
    """Fills the current's gradient [T, M]; returns the gradients of the threshold and the leak.

    The spikes' gradient and the current have T rows, or one row for all timesteps. Membranes are
    recomputed, which is faster than reading them. Sums are kept per position in a block, so that
    they are vectorized and do not depend on the vector length.
    """
    first, last = part
    steps = len(grad)
    one, zero = np.float32(1), np.float32(0)
    inverse = one / v
    u = np.empty((steps, BLOCK), np.float32)
    z = np.empty(BLOCK, np.float32)
    after = np.empty(BLOCK, np.float32)  # gradient of the membrane of the next timestep
    by_spike = np.zeros(BLOCK, np.float32)
    by_reset = np.zeros(BLOCK, np.float32)
    by_leak = np.zeros(BLOCK, np.float32)
    grad_v, grad_leak = 0.0, 0.0
    for start in range(first, last, BLOCK):
        count = min(BLOCK, last - start)
        for t in range(steps):
            now = current[min(t, len(current) - 1), start : start + count]
            if t == 0:
                for i in range(count):
                    u[t, i] = _wide(now[i])
            else:
                before, x = u[t - 1], u[t]
                for i in range(count):
                    b = before[i]
                    s = v if b > v else zero
                    x[i] = leak * (b - s) + _wide(now[i])
        for t in range(steps - 1, -1, -1):
            incoming = grad_spikes[min(t, len(grad_spikes) - 1), start : start + count]
            out = grad[t, start : start + count]
            x = u[t]
            # the compiler vectorizes only short loops over few arrays
            for i in range(count):
                z[i] = abs(x[i] / v - one)
            if kind == LINEAR:
                for i in range(count):
                    w = one - z[i]
                    z[i] = np.float32(0.3) * (w if w > zero else zero)
            elif kind == EXPONENTIAL:
                for i in range(count):
                    z[i] = np.float32(0.3) * np.exp(-z[i])
            else:
                for i in range(count):
                    z[i] = one if z[i] <= one else zero
            for i in range(count):
                z[i] = _wide(incoming[i]) * z[i] * inverse
            for i in range(count):
                by_spike[i] += z[i] * x[i]
            if t + 1 < steps:
                for i in range(count):
                    a, b = after[i], x[i]
                    s = one if b > v else zero
                    by_reset[i] += a * s
                for i in range(count):
                    a, b = after[i], x[i]
                    s = v if b > v else zero
                    by_leak[i] += a * (b - s)
                for i in range(count):
                    z[i] += leak * after[i]
            for i in range(count):
                out[i] = _narrow(z[i], out)
            if t > 0:
                after[:count] = z[:count]
    for i in range(BLOCK):
        grad_v -= by_spike[i] * inverse + leak * by_reset[i]
        grad_leak += by_leak[i]
    return grad_v, grad_leak
