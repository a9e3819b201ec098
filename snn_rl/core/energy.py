"""Operations and energy of one decision, analog and spiking ([IIR] eq. 4 and A.4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snn_rl.core.networks import NetworkSpec

# Energy of a multiply-accumulate and of an accumulate in pJ (45 nm CMOS, Horowitz 2014, as quoted
# in [IIR] and [ULL])
FLOAT32 = (4.6, 0.9)
INT32 = (3.2, 0.1)


@dataclass(frozen=True)
class Energy:
    """Energy of one decision in pJ.

    Attributes:
        analog: Energy of the ANN's dense multiply-accumulates.
        spiking: Energy of the SNN's operations, see `operations`.
    """

    analog: float
    spiking: float

    @property
    def ratio(self) -> float:
        """Energy of the ANN divided by the energy of the SNN."""
        return self.analog / self.spiking


def macs(spec: NetworkSpec) -> list[int]:
    """Returns the multiply-accumulates of every weight layer, including the head ([IIR] A.4)."""
    return [connection.macs for connection in spec.connections()]


def memory_accesses(spec: NetworkSpec, timesteps: int) -> int:
    """Returns the memory accesses of one decision.

    All weights are read at every timestep, and all membranes between timesteps. With one timestep
    no membrane is kept, and the number equals the ANN's. As in the paper, the first layer's
    weights count at every timestep.

    Source: [IIR] "Inference Efficiency": 5.03 times fewer for VGG16 at T = 1 than at T = 5.
    """
    weights = sum(connection.weights for connection in spec.connections())
    neurons = sum(math.prod(shape) for shape in spec.shapes())
    return timesteps * weights + (timesteps - 1) * neurons


def spikes(spec: NetworkSpec, spike_rates: Sequence[float]) -> tuple[float, int]:
    """Returns the spikes of all hidden neurons in one decision, and the number of these neurons.

    The arguments are those of `operations`.
    """
    sizes = [math.prod(shape) for shape in spec.shapes()]
    return sum(n * rate for n, rate in zip(sizes, spike_rates, strict=True)), sum(sizes)


def operations(
    spec: NetworkSpec,
    spike_rates: Sequence[float],
    own_layer: bool = False,
    input_rate: float | None = None,
) -> tuple[float, float]:
    """Returns the multiply-accumulates and the accumulates of one decision of an SNN.

    Under direct encoding the first layer counts once as multiply-accumulates. Every other layer
    needs one accumulate per synapse and arriving spike. As in the papers, pooled layers arrive at
    their rate before pooling, which underestimates the rate after max-pooling by up to 4 times.

    Args:
        spec: Layer stack.
        spike_rates: Spikes per neuron and decision of every hidden layer, summed over timesteps.
        own_layer: True if a layer's accumulates are counted by its own spike rate, as in the
            papers' notation, instead of by the spikes that enter the layer. The head, which does
            not fire, always counts the spikes that enter it.
        input_rate: Spikes per input value and decision under Poisson encoding, where the first
            layer counts as accumulates ([STDB] section 7). None for direct encoding.
    """
    connections = spec.connections()
    if len(spike_rates) != connections[-1].target:
        raise ValueError(
            f"{len(spike_rates)} spike rates for {connections[-1].target} hidden layers"
        )
    first = sum(c.macs for c in connections if c.source is None)
    accumulates = 0.0
    for connection in connections:
        if connection.source is not None:
            fires = own_layer and connection.target < len(spike_rates)
            layer = connection.target if fires else connection.source
            accumulates += connection.macs * spike_rates[layer]
    if input_rate is None:
        return first, accumulates
    return 0.0, first * input_rate + accumulates


def energy(
    spec: NetworkSpec,
    spike_rates: Sequence[float],
    costs: tuple[float, float] = FLOAT32,
    own_layer: bool = False,
    input_rate: float | None = None,
) -> Energy:
    """Returns the energy of one decision; see `operations` for the arguments.

    `costs` are the energies of a multiply-accumulate and of an accumulate in pJ.
    """
    mac, ac = costs
    multiplied, accumulated = operations(spec, spike_rates, own_layer, input_rate)
    return Energy(sum(macs(spec)) * mac, multiplied * mac + accumulated * ac)


def skipping_energy(
    spec: NetworkSpec, nonzero: Sequence[float], costs: tuple[float, float] = FLOAT32
) -> float:
    """Returns the energy in pJ of one decision of an ANN that skips zero activations.

    `nonzero` has the fraction of non-zero activations of every hidden layer. The first layer is
    dense, as in the SNN.
    """
    mac, _ = costs
    return energy(spec, nonzero, (mac, mac)).spiking
