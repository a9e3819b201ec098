"""Leaky integrate-and-fire neuron as a pure function and as a module with parameters."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from snn_rl.core.compiled import available, fused_lif
from snn_rl.core.surrogate import (
    NEVER,
    Derivative,
    SpikeTime,
    get_surrogate,
    linear,
    spike,
    timed_spike,
)

MIN_THRESHOLD = 1e-3


def lif(
    current: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    surrogate: Derivative = linear,
    state: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Simulates LIF neurons with soft reset (by subtraction) for all timesteps of a current.

        u_t = leak * (u_{t-1} - v_threshold * s_{t-1}) + I_t,    s_t = [u_t > v_threshold]

    The state is passed in and returned, never stored. In the reset, gradients flow through the
    threshold but not through the spike ([IIR] eq. 14).

    Source: [IIR] algorithm 2, eq. 13 to 15. The leak is applied after the reset, as in the
    algorithm and in the authors' code. [IIR] eq. 2, as printed, does not apply the leak to the
    reset.

    Args:
        current: Input current I, [T, N, ...].
        v_threshold: Scalar firing threshold, > 0.
        leak: Scalar in [0, 1]. A leak of 1 gives the integrate-and-fire neuron.
        surrogate: Surrogate gradient ds/dz, see `snn_rl.core.surrogate`.
        state: Membrane potential after the last reset, u - v_threshold * s, [N, ...]. If None,
            the membrane potential starts at zero and no state is returned. With T = 1, the neuron
            is then a single comparison and no state is allocated.
        keep: Mask [T, N] of ones and zeros. A zero marks the first timestep of an episode and
            resets the membrane potential to zero before that timestep. Requires a state.

    Returns:
        Spikes [T, N, ...] of zeros and ones, and the new state [N, ...] or None.
    """
    if len(current) == 1 and state is None:
        return spike(current, v_threshold, surrogate), None
    spikes, left = _integrate(
        current, v_threshold, leak, lambda u: spike(u, v_threshold, surrogate), state, keep
    )
    return spikes, left if state is not None else None


def _integrate(
    current: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    fire: Callable[[Tensor], Tensor],
    membrane: Tensor | None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    spikes = []
    # unbind: the backward pass of current[t] would allocate a zero tensor for all timesteps
    for t, now in enumerate(current.unbind(0)):
        if membrane is not None and keep is not None:
            membrane = membrane * keep[t].view(-1, *[1] * (membrane.dim() - 1))
        u = now if membrane is None else leak * membrane + now
        s = fire(u)
        spikes.append(s)
        membrane = u - v_threshold * s.detach()
    # cat: stack would lose the channels_last memory format, the fastest one for convolutions
    return torch.cat(spikes).unflatten(0, current.shape[:2]), membrane


class NeuronState(NamedTuple):
    """State of a layer of neurons between consecutive windows of timesteps.

    Attributes:
        membrane: Membrane potential after the last reset, u - v_threshold * s, [N, ...], or None
            for zero.
        since: Number of timesteps since the last spike, int16 [N, ...]. None if no neuron has fired
            yet or if the surrogate does not depend on spike times.
    """

    membrane: Tensor | None = None
    since: Tensor | None = None

    def detach(self) -> "NeuronState":
        """Returns the state detached from the graph, as in truncated BPTT ([STDB] section 2.2)."""
        return NeuronState(None if self.membrane is None else self.membrane.detach(), self.since)


def timed_lif(
    current: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    surrogate: SpikeTime,
    state: NeuronState | None = None,
) -> tuple[Tensor, NeuronState]:
    """Simulates the neurons of `lif` with the spike-time surrogate gradient.

    Source: [STDB] algorithm 3.

    Args:
        current: See `lif`.
        v_threshold: See `lif`.
        leak: See `lif`.
        surrogate: Surrogate gradient that depends on the time since the last spike.
        state: State after the previous timesteps. None stands for zero membrane potentials and no
            previous spikes.

    Returns:
        Spikes [T, N, ...] and the new state.
    """
    membrane, before = state or NeuronState()
    never = torch.full_like(current[0], NEVER, dtype=torch.int16)
    since = never if before is None else before

    def fire(u: Tensor) -> Tensor:
        nonlocal since
        spikes, since = timed_spike(u, v_threshold, since, surrogate)
        return spikes

    spikes, membrane = _integrate(current, v_threshold, leak, fire, membrane)
    return spikes, NeuronState(membrane, since)


class LIF(nn.Module):
    """A layer of LIF neurons with a trainable threshold and leak.

    Args:
        v_threshold: Initial threshold, > 0.
        leak: Initial leak in [0, 1].
        surrogate: Key of `snn_rl.core.surrogate.SURROGATES`, or `module:function`.
    """

    def __init__(self, v_threshold: float = 1.0, leak: float = 1.0, surrogate: str = "linear"):
        super().__init__()
        self.v_threshold = nn.Parameter(torch.tensor(float(v_threshold)))
        self.leak = nn.Parameter(torch.tensor(float(leak)))
        self.surrogate = get_surrogate(surrogate)

    def forward(
        self,
        current: Tensor,
        state: NeuronState | None = None,
        keep: Tensor | None = None,
        timesteps: int | None = None,
    ) -> tuple[Tensor, NeuronState | None]:
        """Simulates the neurons with this layer's parameters.

        Membrane potentials keep the parameters' precision under autocast. Without a state, the
        compiled `fused_lif` is used if it is available.

        Args:
            current: Input current [T, N, ...], or [1, N, ...] with `timesteps`.
            state: State after the previous timesteps. If None, membrane potentials start at zero
                and no state is returned.
            keep: See `lif`.
            timesteps: Number of timesteps for a constant current.

        Returns:
            Spikes [T, N, ...], and the new state or None.
        """
        surrogate = self.surrogate
        shape = (timesteps or len(current), *current.shape[1:])
        if not isinstance(surrogate, SpikeTime) and state is None and available(current, surrogate):
            expanded = current.expand(shape)
            return fused_lif(expanded, self.v_threshold, self.leak, surrogate), None
        current = current.to(self.v_threshold.dtype).expand(shape)
        if isinstance(surrogate, SpikeTime):
            spikes, after = timed_lif(current, self.v_threshold, self.leak, surrogate, state)
            return spikes, None if state is None else after
        if state is None:
            return lif(current, self.v_threshold, self.leak, surrogate)[0], None
        membrane = torch.zeros_like(current[0]) if state.membrane is None else state.membrane
        spikes, left = lif(current, self.v_threshold, self.leak, surrogate, membrane, keep)
        return spikes, NeuronState(left)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Projects the parameters into their valid ranges. Required after every optimizer step.

        A clamp in `forward` would have no gradient outside the range, so a parameter that left its
        range could never return.
        """
        self.v_threshold.clamp_(min=MIN_THRESHOLD)
        self.leak.clamp_(0.0, 1.0)
