"""The loops of `snn_rl.fused`, compiled by numba. Imported only where numba is installed."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Neurons worked through together; all their timesteps fit in a core's first-level cache
BLOCK = 1024
LINEAR, EXPONENTIAL, BOXCAR = 0, 1, 2

# without fastmath: membranes, and so spikes, stay those of the plain neuron, bit by bit
_compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


@_compiled  # type: ignore[untyped-decorator]
def forward(
    current: Array, v: np.float32, leak: np.float32, spikes: Array, first: int, last: int
) -> None:
    """Fills spikes [T, M] from a current [T or 1, M], for the neurons from first to last."""
    steps = len(spikes)
    one, zero = np.float32(1), np.float32(0)
    u = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        count = min(BLOCK, last - start)
        for t in range(steps):
            now = current[min(t, len(current) - 1), start : start + count]
            out = spikes[t, start : start + count]
            if t == 0:
                for i in range(count):
                    u[i] = now[i]
            else:
                for i in range(count):
                    u[i] = leak * u[i] + now[i]
            for i in range(count):
                out[i] = one if u[i] > v else zero
                u[i] = u[i] - v if u[i] > v else u[i]


@_compiled  # type: ignore[untyped-decorator]
def backward(
    current: Array,
    v: np.float32,
    leak: np.float32,
    kind: int,
    grad_spikes: Array,
    grad: Array,
    first: int,
    last: int,
) -> tuple[float, float]:
    """Fills the current's gradient [T, M], and returns those of the threshold and the leak.

    The spikes' gradient, as the current, has T rows or one that holds for every timestep.

    Membranes are computed again, which is faster than reading them. Sums are kept by place in
    a block, so that they can be vectorized and do not depend on how.
    """
    steps = len(grad)
    one, zero = np.float32(1), np.float32(0)
    inverse = one / v
    u = np.empty((steps, BLOCK), np.float32)
    z = np.empty(BLOCK, np.float32)
    after = np.empty(BLOCK, np.float32)  # of the timestep behind: the gradient of its membrane
    by_spike = np.zeros(BLOCK, np.float32)
    by_reset = np.zeros(BLOCK, np.float32)
    by_leak = np.zeros(BLOCK, np.float32)
    grad_v, grad_leak = 0.0, 0.0
    for start in range(first, last, BLOCK):
        count = min(BLOCK, last - start)
        for t in range(steps):
            now = current[min(t, len(current) - 1), start : start + count]
            if t == 0:
                u[t, :count] = now
            else:
                before, x = u[t - 1], u[t]
                for i in range(count):
                    b = before[i]
                    s = v if b > v else zero
                    x[i] = leak * (b - s) + now[i]
        for t in range(steps - 1, -1, -1):
            incoming = grad_spikes[min(t, len(grad_spikes) - 1), start : start + count]
            out = grad[t, start : start + count]
            x = u[t]
            # short loops over few arrays: the compiler gives up on vectorizing the others
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
                z[i] = incoming[i] * z[i] * inverse
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
                after[i] = z[i]
                out[i] = z[i]
    for i in range(BLOCK):
        grad_v -= by_spike[i] * inverse + leak * by_reset[i]
        grad_leak += by_leak[i]
    return grad_v, grad_leak
