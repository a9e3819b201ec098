"""Operations and energy of one decision, analog against spiking ([IIR] eq. 4 and A.4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snn_rl.core.networks import NetworkSpec

# Energy per operation in pJ (45 nm CMOS, Horowitz 2014, as [IIR] and [ULL] quote it)
FLOAT32 = (4.6, 0.9)
INT32 = (3.2, 0.1)


@dataclass(frozen=True)
class Energy:
    """Energy of one decision.

    Attributes:
        analog: The ANN's dense multiply-accumulates, in pJ.
        spiking: The SNN's, in pJ: the first layer as multiply-accumulates, once, because direct
            encoding computes its current once, or as accumulations where the input is spikes;
            every other layer one accumulation per synapse and arriving spike. Pooled layers
            arrive at the rate that they have in front of the pooling, as in the papers: behind
            max-pooling, where one spike of four neurons is enough, that is up to 4 times too few.
    """

    analog: float
    spiking: float

    @property
    def ratio(self) -> float:
        """How many times less the spiking network needs."""
        return self.analog / self.spiking


def macs(spec: NetworkSpec) -> list[int]:
    """Multiply-accumulates of every weight layer, head included ([IIR] A.4)."""
    return [connection.macs for connection in spec.connections()]


def memory_accesses(spec: NetworkSpec, timesteps: int) -> int:
    """What one decision fetches: all weights at every timestep, all membranes between timesteps.

    With one timestep no membrane is kept, and it is what the ANN fetches. The first layer's current
    is counted as if it were computed at every timestep, as the paper counts it.

    Source: [IIR] "Inference Efficiency": 5.03 times fewer for VGG16 at T = 1 than at T = 5.

    Args:
        spec: The network.
        timesteps: T.
    """
    weights = sum(connection.weights for connection in spec.connections())
    neurons = sum(math.prod(shape) for shape in spec.shapes())
    return timesteps * weights + (timesteps - 1) * neurons


def spikes(spec: NetworkSpec, spike_rates: Sequence[float]) -> tuple[float, int]:
    """Spikes of all hidden neurons in one decision, and how many neurons these are.

    Args:
        spec: The network.
        spike_rates: Spikes per neuron and decision of every hidden layer, summed over timesteps.
    """
    sizes = [math.prod(shape) for shape in spec.shapes()]
    return sum(n * rate for n, rate in zip(sizes, spike_rates, strict=True)), sum(sizes)


def operations(
    spec: NetworkSpec,
    spike_rates: Sequence[float],
    own_layer: bool = False,
    input_rate: float | None = None,
) -> tuple[float, float]:
    """Multiply-accumulates and accumulates of one decision of a spiking network.

    Args:
        spec: The network.
        spike_rates: Spikes per neuron and decision of every hidden layer, summed over timesteps.
        own_layer: Count a layer's accumulations by its own spike rate, as the papers index them,
            instead of by the spikes that enter it. The head fires nothing; it keeps the spikes
            that enter it.
        input_rate: Spikes per input value and decision under Poisson encoding ([STDB] section 7
            counts spikes alone); None: direct encoding.
    """
    connections = spec.connections()
    if len(spike_rates) != connections[-1].target:
        raise ValueError(
            f"{len(spike_rates)} spike rates for {connections[-1].target} hidden layers"
        )
    first = sum(c.macs for c in connections if c.source is None)
    accumulations = 0.0
    for connection in connections:
        if connection.source is not None:
            fires = own_layer and connection.target < len(spike_rates)
            layer = connection.target if fires else connection.source
            accumulations += connection.macs * spike_rates[layer]
    if input_rate is None:
        return first, accumulations
    return 0.0, first * input_rate + accumulations


def energy(
    spec: NetworkSpec,
    spike_rates: Sequence[float],
    costs: tuple[float, float] = FLOAT32,
    own_layer: bool = False,
    input_rate: float | None = None,
) -> Energy:
    """Energy of one decision.

    Args:
        spec: The network.
        spike_rates: See `operations`.
        costs: (multiply-accumulate, accumulate) in pJ.
        own_layer: See `operations`.
        input_rate: See `operations`.
    """
    mac, ac = costs
    multiplied, accumulated = operations(spec, spike_rates, own_layer, input_rate)
    return Energy(sum(macs(spec)) * mac, multiplied * mac + accumulated * ac)


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
