"""Spike functions: a hard threshold forward, a surrogate derivative backward.

All derivatives here but one are ds/dz in the normalised distance z = u / v_threshold - 1, so that
one choice of constants serves layers whose thresholds differ by orders of magnitude. The one is
`SpikeTime`: ds/du, in the time since the last spike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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

# Timesteps since a spike that never was; also the size of the lookup table
NEVER = 4095


@dataclass(frozen=True)
class SpikeTime:
    """The spike-time surrogate ds/du = alpha * exp(-beta * dt), dt the time since the last spike.

    dt is 0 where the neuron fires and counts up until it fires again; before its first spike dt is
    infinite and there is no gradient. The threshold's derivative is the negative of it.

    Source: [STDB] eq. 11 and 12, Fig. 1 and algorithm 3 (the spike of this timestep counts; last
    spike "at negative infinity time" at first), from a lookup table, as section 2.2 proposes. In
    the paper u is counted in spikes of the layer before, here in the analog network's units: the
    gradients of a layer's weights are the paper's times a constant that Adam does not see.

    Attributes:
        alpha: At the spike.
        beta: Decay per timestep.
    """

    alpha: float = 0.3
    beta: float = 0.01

    @cached_property
    def table(self) -> Tensor:
        """ds/du for every dt from 0 to NEVER, float64."""
        values = [self.alpha * math.exp(-self.beta * dt) for dt in range(NEVER)]
        return torch.tensor([*values, 0.0], dtype=torch.float64)

    def slopes(self, since: Tensor, dtype: torch.dtype) -> Tensor:
        """ds/du in this dtype, for dt in timesteps, whole numbers from 0 to NEVER."""
        return self.table.to(since.device, dtype)[since.int()]


Surrogate = Derivative | SpikeTime
TIMED: dict[str, SpikeTime] = {"stdb": SpikeTime()}


def named(name: str) -> Surrogate:
    """The surrogate of this name; `NAMES` has them all."""
    return TIMED[name] if name in TIMED else SURROGATES[name]


NAMES = (*SURROGATES, *TIMED)


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


class _TimedSpike(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, v_threshold: Tensor, since: Tensor, surrogate: SpikeTime
    ) -> tuple[Tensor, Tensor]:
        fired = u > v_threshold
        now = (since + 1).clamp(max=NEVER).masked_fill(fired, 0)
        ctx.save_for_backward(now)
        ctx.surrogate = surrogate
        ctx.shape = v_threshold.shape
        ctx.mark_non_differentiable(now)
        return fired.to(u.dtype), now

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (now,) = ctx.saved_tensors
        grad_u = grad_outputs[0] * ctx.surrogate.slopes(now, grad_outputs[0].dtype)
        grad_v = -grad_u.sum().reshape(ctx.shape) if ctx.needs_input_grad[1] else None
        return grad_u, grad_v, None, None


def timed_spike(
    u: Tensor, v_threshold: Tensor, since: Tensor, surrogate: SpikeTime
) -> tuple[Tensor, Tensor]:
    """`spike` with a derivative in the time since each neuron's last spike.

    Args:
        u: Membrane potential, any shape.
        v_threshold: Scalar tensor, positive.
        since: Timesteps from the last spike to the timestep before this one, int16, of u's shape.
        surrogate: The derivative.

    Returns:
        Spikes, differentiable in `u` and `v_threshold`, and the timesteps since the last of them.
    """
    spikes, now = _TimedSpike.apply(  # type: ignore[no-untyped-call]
        u, v_threshold, since, surrogate
    )
    return spikes, now
