"""Conversion of a trained analog network into a spiking one.

Layer by layer from the input: a threshold is searched on real data with the layers before it
already spiking, and the scale that a unit spike stands for is folded into the next layer's
weights, so that every current, and every bias, stays in the analog network's units.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from snn_rl.core.conversion.thresholds import find_scales, percentiles
from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.lif import Memory
from snn_rl.core.networks import (
    WINDOW,
    AnalogNetwork,
    Block,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    State,
)

POSITIVE, ALL = "positive", "all"
PERCENTILES_OVER = (POSITIVE, ALL)
SEARCH, UNITY = "search", "unity"
BLOCK_THRESHOLDS = (SEARCH, UNITY)

# How thresholds are found: searched behind spiking layers, or from the clips of the analog network
PERCENTILE, CLIP, ALPHA_BETA = "percentile", "clip", "alpha_beta"
CONVERSIONS = (PERCENTILE, CLIP, ALPHA_BETA)


class ConversionError(ValueError):
    """A network, or its data, that cannot be converted; the message names the layer."""


@dataclass(frozen=True)
class LayerReport:
    """What became of one hidden layer.

    Attributes:
        name: conv1, fc1, ...
        v_threshold: Its firing threshold, in the analog activation's units.
        spike_rate: Spikes per neuron and decision (summed over the timesteps).
        dead: Fraction of its neurons that never fired on the data.
    """

    name: str
    v_threshold: float
    spike_rate: float
    dead: float


def percentile(values: Tensor, q: float) -> Tensor:
    """The q-th percentile (nearest rank from above) of any number of values.

    Args:
        values: Any shape, at least one entry (torch.quantile refuses more than 16 M).
        q: In (0, 100].
    """
    flat = values.flatten()
    rank = max(1, min(flat.numel(), -int(-flat.numel() * q // 100)))
    return torch.kthvalue(flat, rank).values


def find_threshold(current: Iterable[Tensor], q: float = 90.0, over: str = POSITIVE) -> float:
    """The firing threshold of one layer: the largest of its timesteps' current percentiles.

    Source: [IIR] section 4 takes the 90th percentile over all entries (`over="all"`); 100 is the
    threshold balancing of [STDB]. A layer whose entries are mostly negative has a negative
    percentile over all of them, and no neuron can work with that: the default is the percentile
    over the positive entries.

    Args:
        current: Weighted input I, [T, N, ...], or [N, ...] of one timestep after the other.
        q: Percentile in (0, 100].
        over: "positive" or "all".

    Returns:
        The threshold, > 0.

    Raises:
        ConversionError: The result is not positive.
    """
    best = 0.0
    for step in current:
        values = step[step > 0] if over == POSITIVE else step
        if values.numel():
            best = max(best, float(percentile(values, q)))
    if not best > 0.0:
        why = (
            "no entry of its input current is positive"
            if over == POSITIVE
            else f"the {q:g}th percentile over all entries of its input current is not positive"
        )
        raise ConversionError(f"no threshold: {why}")
    return best


@torch.no_grad()
def fuse_batch_norm(analog: AnalogNetwork) -> AnalogNetwork:
    """The same function without batch-norm: its running statistics go into weights and biases.

    Source: [IIR] A.2.2, after Rueckauer et al. (2017).

    Args:
        analog: It is left as it is; without batch-norm it comes back itself.
    """
    if not analog.spec.batch_norm:
        return analog
    spec = replace(analog.spec, batch_norm=False, bias=True)
    fused = AnalogNetwork(spec).to(analog.head.weight)
    fused.dropout = analog.dropout
    if fused.mu is not None and analog.mu is not None:
        fused.mu.copy_(analog.mu)
    ours, theirs = [*fused.synapses, fused.head], [*analog.synapses, analog.head]
    for target, source in zip(ours, theirs, strict=True):
        state = _without_batch_norm(source).state_dict()
        if isinstance(target, nn.Conv2d | nn.Linear):
            assert target.bias is not None
            state.setdefault("bias", torch.zeros_like(target.bias))
        target.load_state_dict(state)
    return fused


def _without_batch_norm(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, nn.Sequential):
        return layer
    conv, norm = layer
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    # `eval` on copies: fusion uses the running statistics, and the caller's network may be training
    return fuse_conv_bn_eval(deepcopy(conv).eval(), deepcopy(norm).eval())


@torch.no_grad()
def clip_thresholds(
    analog: AnalogNetwork, timesteps: int, data: Tensor, scale: bool = True, over: str = POSITIVE
) -> list[tuple[float, float]]:
    """What every hidden layer's clip says of its spiking neurons.

    Source: [ULL] III-B, on the inputs that the layers have in the analog network.

    Args:
        analog: With clips and without batch-norm.
        timesteps: T of the spiking network.
        data: Images [N, channels, height, width], float.
        scale: False leaves out the search: alpha = beta = 1.
        over: Which inputs the percentiles of the search are taken over. "all" is the letter of
            [ULL]; of the default, "positive", no percentile is lost to what has no activity.

    Returns:
        Of every layer its threshold, alpha * mu, and what a spike stands for, beta times that.

    Raises:
        ConversionError: The network has no clips.
    """
    if analog.mu is None:
        raise ConversionError("the network has no clips (clip=true) to take thresholds from")
    clips = analog.mu.tolist()
    if not scale:
        return [(mu, mu) for mu in clips]
    found = []

    def fire(index: int, current: Tensor) -> Tensor:
        positive = current[current > 0]
        if not positive.numel():
            raise ConversionError(
                f"layer {analog.spec.names()[index]}: no entry of its input current is positive"
            )
        values = percentiles(positive if over == POSITIVE else current)
        alpha, beta = find_scales(values, clips[index], timesteps)
        found.append((alpha * clips[index], alpha * beta * clips[index]))
        return analog.fire(index, current)

    analog.propagate(data.unsqueeze(0), fire)
    return found


@torch.no_grad()
def convert(
    analog: nn.Module,
    timesteps: int,
    data: Tensor,
    q: float = 90.0,
    over: str = POSITIVE,
    surrogate: str = "linear",
    encoding: str = "direct",
    thresholds: str = PERCENTILE,
    search_timesteps: int = 0,
    block_thresholds: str = SEARCH,
    scale: float = 1.0,
    given: Sequence[float] | None = None,
) -> SpikingNetwork:
    """Turns a trained analog network into a spiking one with the same weights.

    A unit spike of layer l stands for v_l of the analog activation, so layer l + 1's weights
    (not its bias) are multiplied by v_l: currents stay in the analog units, biases are right when
    they are added at every timestep, and Q-values come out at the analog network's scale. With
    alpha and beta it stands for beta * v_l instead, and that is what is multiplied.

    Args:
        analog: The trained network; it is left as it is.
        timesteps: T of the result.
        data: Images [N, channels, height, width], float, as the network sees them in use.
        q: Percentile of the threshold search, see `find_threshold`.
        over: Which entries the percentile is taken over, see `find_threshold`.
        surrogate: Surrogate gradient of the result.
        encoding: Input encoding of the result.
        thresholds: "percentile" searches them layer by layer; "clip" and "alpha_beta" take them
            from the analog network's clips, see `clip_thresholds`.
        search_timesteps: That the threshold search looks at, more or fewer than T: few bound its
            time, and where T is small the largest input shows only later; 0: T.
        block_thresholds: "search" as everywhere, or "unity" inside residual blocks ([STDB] 4.2):
            a block's neurons fire at what one spike that enters the block stands for, which is 1
            where weights are not scaled.
        scale: Every threshold is multiplied by it after the search, and the weights are not: more
            spikes at few timesteps ([STDB] Table 1, "adjusted thresholds"). Activity grows by
            1 / scale from layer to layer, so it is meant for networks without biases.
        given: The thresholds themselves, one per hidden layer, in place of any search: those that
            another network was trained to ([IIR] section 5.3).

    Returns:
        The spiking network.

    Raises:
        ConversionError: The module is of an unknown kind, or a layer finds no positive threshold,
            or it has no clips to take one from.
    """
    if not isinstance(analog, AnalogNetwork):
        raise ConversionError(
            f"cannot convert a {type(analog).__name__}: build it as an AnalogNetwork from its spec"
        )
    analog = fuse_batch_norm(analog)
    spec = replace(analog.spec, clip=False)
    spiking = SpikingNetwork(spec, timesteps, surrogate, encoding).to(data.device)
    weights = {name: weight for name, weight in analog.state_dict().items() if name != "mu"}
    missing, unexpected = spiking.load_state_dict(weights, strict=False)
    strange = [key for key in missing if not key.startswith("neurons.")] + list(unexpected)
    if strange:
        raise ConversionError(f"weights that do not fit the description: {', '.join(strange)}")

    steps = search_timesteps or timesteps
    unity = _inside_blocks(spec) if block_thresholds == UNITY else set()
    names = spec.names()
    if given is not None and len(given) != len(spiking.neurons):
        raise ConversionError(
            f"{len(given)} thresholds were given for {len(spiking.neurons)} hidden layers"
        )
    clips = (
        None
        if thresholds == PERCENTILE
        else clip_thresholds(analog, timesteps, data, thresholds == ALPHA_BETA, over)
    )

    def settle(index: int, current: Iterable[Tensor]) -> None:
        if given is not None:
            v_threshold = amplitude = given[index]
        elif clips is not None:
            v_threshold, amplitude = clips[index]
        elif index in unity:
            v_threshold = amplitude = (
                float(spiking.neurons[index - 1].v_threshold) if index else 1.0
            )
        else:
            try:
                v_threshold = amplitude = find_threshold(current, q, over)
            except ConversionError as error:
                raise ConversionError(f"layer {names[index]}: {error}") from None
        spiking.neurons[index].v_threshold.fill_(v_threshold)
        for follower in spiking.followers(index):
            follower.weight.mul_(amplitude)  # type: ignore[operator]

    def fire(index: int, current: Tensor) -> Tensor:
        # under direct encoding the first layer's current comes once, and is the same at every t
        settle(index, current)
        return spiking.fire_window(index, current, steps, None)[0]

    if steps <= WINDOW:
        spiking.propagate(ENCODINGS[encoding](data, steps), fire)
    else:
        for index in range(len(spiking.neurons)):
            settle(index, _currents(spiking, data, index, steps))
    for neuron in spiking.neurons:
        neuron.v_threshold.mul_(scale)
    return spiking


def _inside_blocks(spec: NetworkSpec) -> set[int]:
    """The hidden layers of residual blocks; the layer in front of such a one has its index - 1."""
    found: set[int] = set()
    neurons = 0
    for layer in spec.layers:
        if isinstance(layer, Block):
            found |= {neurons, neurons + 1}
        neurons += 2 if isinstance(layer, Block) else isinstance(layer, Conv | Dense)
    return found


class _Reached(Exception):
    """Stops propagation at the layer whose current is wanted."""

    def __init__(self, current: Tensor):
        super().__init__()
        self.current = current


def _currents(spiking: SpikingNetwork, data: Tensor, index: int, steps: int) -> Iterator[Tensor]:
    """The current [N, ...] of a hidden layer at every timestep, in memory for a few of them.

    The layers in front of it spike; all of it is simulated from the start ([STDB] algorithm 1).
    """
    memories: list[Memory | None] = [None] * index

    def fire(layer: int, current: Tensor) -> Tensor:
        if layer == index:
            raise _Reached(current)
        spikes, memories[layer] = spiking.fire_window(layer, current, size, memories[layer])
        return spikes

    for start in range(0, steps, WINDOW):
        size = min(WINDOW, steps - start)
        try:
            spiking.propagate(ENCODINGS[spiking.encoding](data, size), fire)
        except _Reached as reached:
            yield from reached.current


def spike_rates(layers: Sequence[Tensor]) -> list[float]:
    """Spikes per neuron and decision of every hidden layer.

    For an analog network: the fraction of non-zero activations, which is what an engine that
    skips zeros has to work on.

    Args:
        layers: The layers' activity, each [T, N, ...], see `Network.activity`.
    """
    return [int(layer.count_nonzero()) / layer[0].numel() for layer in layers]


@torch.no_grad()
def layer_table(network: SpikingNetwork, data: Tensor, state: State) -> list[LayerReport]:
    """Threshold, spike rate and dead fraction of every hidden layer; warns about dead layers.

    Args:
        network: A spiking network.
        data: Images [N, channels, height, width].
        state: What the network remembers before these images, see `Network.initial_state`.
    """
    rows = []
    if state:
        counts = [layer.sum(0) for layer in network.step(data, state)[1]]
    else:
        counts = network.count(data)[1]
    for name, neuron, count in zip(network.spec.names(), network.neurons, counts, strict=False):
        rate = float(count.sum(dtype=torch.float64)) / count.numel()
        dead = float((count.amax(0) == 0).float().mean())
        rows.append(LayerReport(name, float(neuron.v_threshold), rate, dead))
        if dead == 1.0:
            warnings.warn(
                f"layer {name} never fires: lower the threshold percentile (iir.percentile), or "
                "check that the network before conversion is trained",
                stacklevel=2,
            )
    return rows


def format_table(rows: Sequence[LayerReport]) -> str:
    """The rows of `layer_table` as text."""
    lines = [f"{'layer':<8}{'threshold':>12}{'spike rate':>12}{'dead':>8}"]
    for row in rows:
        lines.append(
            f"{row.name:<8}{row.v_threshold:>12.4f}{row.spike_rate:>12.4f}{row.dead:>8.1%}"
        )
    return "\n".join(lines)
