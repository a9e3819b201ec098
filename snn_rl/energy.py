"""Operations and energy of one decision, analog against spiking ([IIR] eq. 4 and A.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from snn_rl.networks import Conv, NetworkSpec

# Energy per operation in pJ (45 nm CMOS, Horowitz 2014, as [IIR] and [ULL] quote it)
FLOAT32 = (4.6, 0.9)
INT32 = (3.2, 0.1)


@dataclass(frozen=True)
class Energy:
    """Energy of one decision.

    Attributes:
        analog: The ANN's dense multiply-accumulates, in pJ.
        spiking: The SNN's, in pJ: the first layer as multiply-accumulates, once, because direct
            encoding computes its current once; every other layer one accumulation per synapse and
            arriving spike.
    """

    analog: float
    spiking: float

    @property
    def ratio(self) -> float:
        """How many times less the spiking network needs."""
        return self.analog / self.spiking


def macs(spec: NetworkSpec) -> list[int]:
    """Multiply-accumulates of every weight layer, head included ([IIR] A.4)."""
    counts = []
    shape: tuple[int, ...] = spec.input_shape
    for layer, out in zip(spec.layers, spec.shapes(), strict=True):
        fan_in = (
            shape[0] * layer.kernel**2 if isinstance(layer, Conv) else torch.Size(shape).numel()
        )
        counts.append(fan_in * torch.Size(out).numel())
        shape = out
    counts.append(torch.Size(shape).numel() * spec.outputs)
    return counts


def energy(
    spec: NetworkSpec,
    spike_rates: Sequence[float],
    costs: tuple[float, float] = FLOAT32,
    own_layer: bool = False,
) -> Energy:
    """Energy of one decision under direct encoding.

    Args:
        spec: The network.
        spike_rates: Spikes per neuron and decision of every hidden layer, summed over timesteps.
        costs: (multiply-accumulate, accumulate) in pJ.
        own_layer: Count a layer's accumulations by its own spike rate, as the papers index them,
            instead of by the spikes that enter it. The head fires nothing; it keeps the spikes
            that enter it.
    """
    counts = macs(spec)
    mac, ac = costs
    entering = list(spike_rates)
    if own_layer:
        entering = [*spike_rates[1:], spike_rates[-1]]
    accumulations = sum(n * rate for n, rate in zip(counts[1:], entering, strict=True))
    return Energy(sum(counts) * mac, counts[0] * mac + accumulations * ac)


def skipping_energy(
    spec: NetworkSpec, nonzero: Sequence[float], costs: tuple[float, float] = FLOAT32
) -> float:
    """Energy in pJ of one decision of an ANN that skips its zeros.

    The first layer is dense, as in the spiking network; behind it there is a multiply-accumulate
    per synapse and non-zero activation.

    Args:
        spec: The network.
        nonzero: Fraction of every hidden layer's activations that are not zero.
        costs: (multiply-accumulate, accumulate) in pJ.
    """
    mac, _ = costs
    return energy(spec, nonzero, (mac, mac)).spiking
