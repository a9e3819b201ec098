"""Spike functions: a hard threshold forward, a surrogate gradient backward.

A surrogate gradient is a function ds/dz of the normalized distance z = u / v_threshold - 1, so that
its constants suit layers whose thresholds differ by orders of magnitude. `SpikeTime` is the
exception: its ds/du depends on the time since the last spike.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from snn_rl.utils.plugins import Registry

Derivative = Callable[[Tensor], Tensor]


def linear(z: Tensor, gamma: float = 0.3) -> Tensor:
    """Returns the piecewise linear ds/dz = gamma * max(0, 1 - |z|).

    Source: [IIR] eq. 12 and algorithm 2. The paper writes ds/du. This function follows the
    authors' code, which uses ds/dz. The two differ by a factor of v_threshold.
    """
    return gamma * (1.0 - z.abs()).clamp(min=0.0)


def exponential(z: Tensor, alpha: float = 0.3, beta: float = 1.0) -> Tensor:
    """Returns the exponential ds/dz = alpha * exp(-beta * |z|).

    Source: [STDB] eq. 14, where the argument is |u - v_threshold|.
    """
    return alpha * torch.exp(-beta * z.abs())


def boxcar(z: Tensor) -> Tensor:
    """Returns the boxcar ds/dz = 1 for |z| <= 1, which is 0 <= u <= 2 * v_threshold.

    Source: [ULL] III-B, with v_threshold = alpha * mu. For unit spikes, the paper's d(v * s)/du = 1
    becomes ds/du = 1 / v and hence ds/dz = 1. For spikes of amplitude beta * v, the paper also sets
    the derivative to 1. Here, the derivative is beta, because the next layer's weights contain the
    factor beta.
    """
    return (z.abs() <= 1.0).to(z.dtype)


# Timesteps since the last spike of a neuron that has never fired; also the last index of the table
NEVER = 4095


@dataclass(frozen=True)
class SpikeTime:
    """Spike-time surrogate ds/du = alpha * exp(-beta * dt).

    dt is the time since the last spike. It is 0 at a spike and infinite before the first one, where
    the gradient is 0. The derivative with respect to the threshold is the negative of ds/du.

    Source: [STDB] eq. 11 and 12, Fig. 1 and algorithm 3, with the lookup table of section 2.2. The
    paper measures u in units of the preceding layer's spikes, whereas this package uses the units
    of the analog network. The gradients therefore differ by a constant factor per layer, which Adam
    cancels.

    Attributes:
        alpha: Derivative at the spike.
        beta: Decay per timestep.
    """

    alpha: float = 0.3
    beta: float = 0.01

    @cached_property
    def table(self) -> Tensor:
        """ds/du for every dt from 0 to NEVER, float64 [NEVER + 1]."""
        values = [self.alpha * math.exp(-self.beta * dt) for dt in range(NEVER)]
        return torch.tensor([*values, 0.0], dtype=torch.float64)

    def slopes(self, since: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns ds/du in the given dtype, for integers dt from 0 to NEVER."""
        return self.table.to(since.device, dtype)[since.int()]


Surrogate = Derivative | SpikeTime
SURROGATES: Registry[Surrogate] = Registry(
    "surrogate",
    {"linear": linear, "exponential": exponential, "boxcar": boxcar, "stdb": SpikeTime()},
)


def register_surrogate(name: str, derivative: Surrogate) -> None:
    """Adds a surrogate gradient under a name that `iir.surrogate` and `SpikingOptions` accept.

    Args:
        name: New name, without a colon.
        derivative: Elementwise function ds/dz of z = u / v_threshold - 1.

    Raises:
        ValueError: The name contains a colon or is registered already.
    """
    SURROGATES.register(name, derivative)


def get_surrogate(name: str) -> Surrogate:
    """Returns the surrogate gradient of this name.

    Args:
        name: Key of `SURROGATES`, or `module:function`. The function is not imported
            until the first gradient is computed, so that loading a network file for inference runs
            no code of the module that the file names.

    Raises:
        ValueError: The name is unknown.
    """
    SURROGATES.check(name)
    return SURROGATES[name] if name in SURROGATES else partial(_imported, name)


def check_surrogate(name: str) -> None:
    """Raises a ValueError if a surrogate gradient cannot be imported or applied to a tensor."""
    surrogate = get_surrogate(name)
    if not isinstance(surrogate, SpikeTime):
        surrogate(torch.linspace(-2.0, 2.0, 5))


def _imported(reference: str, z: Tensor) -> Tensor:
    derivative = SURROGATES.find(reference)
    slope = derivative(z) if callable(derivative) else None
    if not isinstance(slope, Tensor) or slope.shape != z.shape:
        raise ValueError(f"surrogate={reference}: must map a tensor to a tensor of its shape")
    return slope


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
    """Returns 1 where the membrane potential is strictly above the threshold, otherwise 0.

    Args:
        u: Membrane potential, any shape.
        v_threshold: Scalar tensor, > 0.
        derivative: ds/dz as a function of z = u / v_threshold - 1.

    Returns:
        Spikes in the shape and dtype of `u`, differentiable in `u` and `v_threshold`.
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
    """Returns the spikes of `spike` with the spike-time gradient, and the timesteps since the last.

    `since` contains the number of timesteps from each neuron's last spike to the previous timestep
    (int16, same shape as `u`).
    """
    spikes, now = _TimedSpike.apply(  # type: ignore[no-untyped-call]
        u, v_threshold, since, surrogate
    )
    return spikes, now
