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

from snn_rl.utils.errors import did_you_mean
from snn_rl.utils.plugins import is_reference, load_object

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
SURROGATES: dict[str, Surrogate] = {
    "linear": linear,
    "exponential": exponential,
    "boxcar": boxcar,
    "stdb": SpikeTime(),
}


@dataclass(frozen=True)
class _ImportedDerivative:
    """A derivative named as `module:function`, imported when its first gradient is computed.

    A network file names its surrogate, and loading the file for inference must not run code of
    the named module.
    """

    reference: str

    @cached_property
    def function(self) -> Derivative:
        derivative: Derivative = load_object(self.reference)
        if not callable(derivative):
            raise ValueError(f"surrogate {self.reference!r} is not a function of a tensor")
        return derivative

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z)


def register_surrogate(name: str, derivative: Surrogate) -> None:
    """Adds a surrogate gradient under a name that every setting and option accepts.

    Args:
        name: Name of the surrogate, without a colon.
        derivative: ds/dz as a function of z = u / v_threshold - 1, elementwise on tensors.

    Raises:
        ValueError: The name contains a colon or belongs to another surrogate.
    """
    if is_reference(name) or SURROGATES.get(name, derivative) != derivative:
        raise ValueError(f"surrogate {name!r}: the name is taken or contains a colon")
    SURROGATES[name] = derivative


def get_surrogate(name: str) -> Surrogate:
    """Returns the surrogate of this name.

    Args:
        name: Key of `SURROGATES`, or `module:function`.

    Raises:
        ValueError: No surrogate has this name.
    """
    if is_reference(name):
        return _ImportedDerivative(name)
    if name not in SURROGATES:
        raise ValueError(
            f"surrogate must be one of {', '.join(SURROGATES)}, or module:function, not {name}"
            f"{did_you_mean(name, SURROGATES)}"
        )
    return SURROGATES[name]


def check_surrogate(name: str) -> None:
    """Checks that a surrogate exists and returns a gradient for every entry of a tensor.

    Raises:
        ValueError: The name is unknown, cannot be imported, or is not such a function.
    """
    surrogate = get_surrogate(name)
    if not isinstance(surrogate, _ImportedDerivative):
        return
    z = torch.linspace(-2.0, 2.0, 5)
    try:
        slope = surrogate(z)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"surrogate {name!r} cannot be applied to a tensor: {error}") from error
    if not isinstance(slope, Tensor) or slope.shape != z.shape:
        raise ValueError(f"surrogate {name!r} must return a tensor of its argument's shape")


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
