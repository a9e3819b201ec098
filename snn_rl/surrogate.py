"""Spike functions: a hard threshold forward, a surrogate derivative backward.

All derivatives here are ds/dz in the normalised distance z = u / v_threshold - 1, so that one
choice of constants serves layers whose thresholds differ by orders of magnitude.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Derivative = Callable[[Tensor], Tensor]


def linear(z: Tensor, gamma: float = 0.3) -> Tensor:
    """Piecewise linear ds/dz = gamma * max(0, 1 - |z|).

    Source: [IIR] eq. 12 and algorithm 2. Printed there as ds/du; the authors' code takes the
    derivative in z, a factor v_threshold apart, and so do we.
    """
    return gamma * (1.0 - z.abs()).clamp(min=0.0)


def exponential(z: Tensor, alpha: float = 0.3, beta: float = 1.0) -> Tensor:
    """Exponential ds/dz = alpha * exp(-beta * |z|).

    Source: the exponential surrogate that [STDB] compares with, there in |u - v_threshold|.
    """
    return alpha * torch.exp(-beta * z.abs())


def boxcar(z: Tensor) -> Tensor:
    """Boxcar ds/dz = 1 for |z| <= 1, which is 0 <= u <= 2 v_threshold.

    Source: [ULL] III-B, v_threshold being its alpha * mu. There d(v s)/du = 1 on spikes of
    amplitude v; on unit spikes that is ds/du = 1 / v, hence ds/dz = 1. (With its amplitude beta * v
    the paper still writes 1; here the beta in the next layer's weights makes it beta.)
    """
    return (z.abs() <= 1.0).to(z.dtype)


SURROGATES: dict[str, Derivative] = {
    "linear": linear,
    "exponential": exponential,
    "boxcar": boxcar,
}


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, v_threshold: Tensor, derivative: Derivative) -> Tensor:
        ctx.save_for_backward(u, v_threshold)
        ctx.derivative = derivative
        return (u > v_threshold).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        u, v_threshold = ctx.saved_tensors
        ratio = u / v_threshold
        # dz/du = 1 / v, dz/dv = -u / v^2
        grad_u = grad_outputs[0] * ctx.derivative(ratio - 1.0) / v_threshold
        return grad_u, -(grad_u * ratio).sum().reshape(v_threshold.shape), None


def spike(u: Tensor, v_threshold: Tensor, derivative: Derivative = linear) -> Tensor:
    """Fires where the membrane is strictly above the threshold.

    Args:
        u: Membrane potential, any shape.
        v_threshold: Scalar tensor, positive.
        derivative: ds/dz as a function of z = u / v_threshold - 1.

    Returns:
        Ones and zeros in the shape and dtype of `u`, differentiable in `u` and `v_threshold`.
    """
    spikes: Tensor = _Spike.apply(u, v_threshold, derivative)  # type: ignore[no-untyped-call]
    return spikes
