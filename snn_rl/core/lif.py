"""The leaky integrate-and-fire neuron: one pure function and a module that holds its parameters."""

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
    """Integrates a current over its timesteps, fires, and resets by subtraction.

        u_t = leak * (u_{t-1} - v_threshold * s_{t-1}) + I_t,    s_t = [u_t > v_threshold]

    Source: [IIR] algorithm 2, eq. 13 to 15, with the leak applied after the reset as in that
    algorithm and in the authors' code ([IIR] eq. 2 as printed does not leak the reset). In the
    reset the spike is detached, the threshold is not ([IIR] eq. 14).

    State is passed, never stored: nothing needs a reset and nothing leaks from one row of a
    batch, or one call, into another.

    Args:
        current: Input current I, [T, N, ...].
        v_threshold: Scalar firing threshold, > 0.
        leak: Scalar in [0, 1]; 1 is the integrate-and-fire neuron.
        surrogate: ds/dz, see `snn_rl.core.surrogate`.
        state: What is left of the membrane, u - v_threshold * s, from the call before, [N, ...].
            None is an empty membrane that nobody will ask for: no state comes back, and with
            T = 1 none is ever allocated; the neuron is a single comparison.
        keep: [T, N] of ones and zeros; a zero empties the membrane before that timestep, because
            another episode begins there. Only with a state.

    Returns:
        Spikes [T, N, ...] of zeros and ones, and the new state [N, ...] (None if none came in).
    """
    steps = current.shape[0]
    if steps == 1 and state is None:
        return spike(current, v_threshold, surrogate), None
    rest = state
    spikes = []
    # unbind, not current[t]: the gradient of each of those would fill all timesteps with zeros
    for t, now in enumerate(current.unbind(0)):
        if rest is not None and keep is not None:
            rest = rest * keep[t].view(-1, *[1] * (rest.dim() - 1))
        u = now if rest is None else leak * rest + now
        s = spike(u, v_threshold, surrogate)
        spikes.append(s)
        rest = u - v_threshold * s.detach()
    # cat, not stack: it keeps the channels_last layout that the convolutions run fastest in
    out = torch.cat(spikes).unflatten(0, (steps, current.shape[1]))
    return out, rest if state is not None else None


class Memory(NamedTuple):
    """What neurons remember from one window of timesteps to the next.

    Attributes:
        rest: What is left of the membrane, u - v_threshold * s, [N, ...].
        since: Timesteps since the last spike, int16 [N, ...]; None where the surrogate does not
            ask for it.
    """

    rest: Tensor
    since: Tensor | None = None

    def detach(self) -> "Memory":
        """The same without its history, as truncated BPTT cuts it ([STDB] section 2.2)."""
        return Memory(self.rest.detach(), self.since)


def timed_lif(
    current: Tensor,
    v_threshold: Tensor,
    leak: Tensor,
    surrogate: SpikeTime,
    memory: Memory | None = None,
) -> tuple[Tensor, Memory]:
    """The neuron of `lif` with a surrogate gradient in the time since its last spike.

    Source: [STDB] algorithm 3.

    Args:
        current: See `lif`.
        v_threshold: See `lif`.
        leak: See `lif`.
        surrogate: ds/du by the time since the last spike.
        memory: From the window before; None: an empty membrane that has never fired.

    Returns:
        Spikes [T, N, ...], and the new memory.
    """
    rest = torch.zeros_like(current[0]) if memory is None else memory.rest
    since = None if memory is None else memory.since
    if since is None:
        since = torch.full_like(current[0], NEVER, dtype=torch.int16)
    spikes = []
    for step in current:
        u = leak * rest + step
        s, since = timed_spike(u, v_threshold, since, surrogate)
        spikes.append(s)
        rest = u - v_threshold * s.detach()
    # see `lif`
    return torch.cat(spikes).unflatten(0, current.shape[:2]), Memory(rest, since)


class LIF(nn.Module):
    """One layer of LIF neurons with a trainable threshold and leak.

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
        self, current: Tensor, state: Tensor | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`lif` with this layer's parameters: current [T, N, ...] to spikes [T, N, ...], state.

        From an empty membrane it is `snn_rl.core.compiled.fused_lif`, where that can be had.

        Raises:
            ValueError: The surrogate needs a `Memory`, and a state came in: see `window`.
        """
        if not isinstance(self.surrogate, SpikeTime):
            if state is None and available(current, self.surrogate):
                return fused_lif(current, self.v_threshold, self.leak, self.surrogate), None
            return lif(current, self.v_threshold, self.leak, self.surrogate, state, keep)
        if state is not None:
            raise ValueError("a state does not say when a neuron last fired: use `window`")
        return timed_lif(current, self.v_threshold, self.leak, self.surrogate)[0], None

    def prepared(self, current: Tensor) -> Tensor:
        """A current for `forward` from empty membranes: in the parameters' precision.

        Autocast rounds currents; membranes are not to be. The compiled neuron sees to that itself.
        """
        if not isinstance(self.surrogate, SpikeTime) and available(current, self.surrogate):
            return current
        return current.to(self.v_threshold.dtype)

    def window(self, current: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Some of the timesteps, and what the neurons take with them into the next ones.

        Args:
            current: [timesteps of the window, N, ...].
            memory: From the window before; None in the first.
        """
        if isinstance(self.surrogate, SpikeTime):
            return timed_lif(current, self.v_threshold, self.leak, self.surrogate, memory)
        state = torch.zeros_like(current[0]) if memory is None else memory.rest
        spikes, rest = lif(current, self.v_threshold, self.leak, self.surrogate, state)
        assert rest is not None
        return spikes, Memory(rest)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Puts the parameters back into their ranges; call it after every optimizer step.

        A projection, not a clamp in `forward`: that would have no gradient outside the range and
        a parameter that strayed could never come back.
        """
        self.v_threshold.clamp_(min=MIN_THRESHOLD)
        self.leak.clamp_(0.0, 1.0)
