"""Layer-by-layer conversion of a trained analog network into a spiking network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from snn_rl.core.conversion.batch_norm import fuse_batch_norm
from snn_rl.core.conversion.thresholds import (
    PERCENTILE,
    UNITY,
    ConversionError,
    ThresholdSearch,
    clip_thresholds,
    find_threshold,
)
from snn_rl.core.encoding import ENCODINGS
from snn_rl.core.lif import NeuronState
from snn_rl.core.networks import WINDOW, AnalogNetwork, SpikingNetwork, SpikingOptions

_DEFAULT_SEARCH = ThresholdSearch()


@torch.no_grad()
def convert(
    analog: nn.Module,
    images: Tensor,
    options: SpikingOptions,
    search: ThresholdSearch = _DEFAULT_SEARCH,
) -> SpikingNetwork:
    """Converts a trained analog network into a spiking network with rescaled weights.

    The thresholds are determined on sample images, layer by layer from input to output, with
    the preceding layers already spiking. A spike of layer l represents an analog activation of
    v_l, so the weights (not the bias) of layer l + 1 are multiplied by v_l. Currents, biases, and
    outputs therefore keep the scale of the analog network. With scaling factors ([ULL]), a spike
    represents beta * v_l.

    Source: [IIR] section 4, [STDB] algorithm 1, [ULL] III-B.

    Args:
        analog: Trained `AnalogNetwork`, left unchanged. Batch normalization is fused first.
        images: Sample inputs of the network, [N, channels, height, width], float.
        options: Timesteps, surrogate, and encoding of the spiking network.
        search: Options of the threshold search.

    Returns:
        The spiking network, on the device of `images`.

    Raises:
        ConversionError: The module is not an `AnalogNetwork`, a layer has no positive threshold,
            or the search requires clipped ReLUs and the network has none.
    """
    if not isinstance(analog, AnalogNetwork):
        raise ConversionError(
            f"cannot convert a {type(analog).__name__}: build an AnalogNetwork from its NetworkSpec"
        )
    analog = fuse_batch_norm(analog)
    spiking = _with_weights_of(analog, options).to(images.device)
    fixed = _fixed_thresholds(analog, images, options.timesteps, search)
    names = spiking.spec.names()
    balanced = fixed is not None or search.blocks != UNITY
    unity = {i for i, name in enumerate(names) if not balanced and name.startswith("block")}
    timesteps = search.timesteps or options.timesteps

    def set_threshold(index: int, current: Iterable[Tensor]) -> None:
        if fixed is not None:
            v_threshold, amplitude = fixed[index]
        elif index in unity:
            # the threshold inside a block is the amplitude of the spikes that enter the block
            before = spiking.neurons[index - 1].v_threshold if index else 1.0
            v_threshold = amplitude = float(before)
        else:
            try:
                v_threshold = amplitude = find_threshold(current, search.percentile, search.over)
            except ConversionError as error:
                raise ConversionError(f"layer {names[index]}: {error}") from None
        spiking.neurons[index].v_threshold.fill_(v_threshold)
        for follower in spiking.followers(index):
            follower.weight.mul_(amplitude)  # type: ignore[operator]

    def fire(index: int, current: Tensor) -> Tensor:
        set_threshold(index, current)
        spikes: Tensor = spiking.neurons[index](current, timesteps=timesteps)[0]
        return spikes

    if timesteps <= WINDOW:
        spiking.propagate(ENCODINGS[options.encoding](images, timesteps), fire)
    else:
        for index in range(len(spiking.neurons)):
            set_threshold(index, _currents(spiking, images, index, timesteps))
    for index, neuron in enumerate(spiking.neurons):
        if index not in unity:
            neuron.v_threshold.mul_(search.scale)
    return spiking


def _with_weights_of(analog: AnalogNetwork, options: SpikingOptions) -> SpikingNetwork:
    spiking = SpikingNetwork(replace(analog.spec, clip=False), options)
    weights = {name: weight for name, weight in analog.state_dict().items() if name != "mu"}
    missing, unexpected = spiking.load_state_dict(weights, strict=False)
    wrong = [key for key in missing if not key.startswith("neurons.")] + list(unexpected)
    if wrong:
        raise ConversionError(f"weights that do not match the NetworkSpec: {', '.join(wrong)}")
    return spiking


def _fixed_thresholds(
    analog: AnalogNetwork, images: Tensor, timesteps: int, search: ThresholdSearch
) -> Sequence[tuple[float, float]] | None:
    """Returns (threshold, amplitude) of every hidden layer, or None for the percentile search."""
    if search.given is not None:
        layers = len(analog.spec.shapes())
        if len(search.given) != layers:
            raise ConversionError(
                f"{len(search.given)} thresholds were given for {layers} hidden layers"
            )
        return [(v_threshold, v_threshold) for v_threshold in search.given]
    if search.method == PERCENTILE:
        return None
    return clip_thresholds(analog, images, timesteps, search)


class _Reached(Exception):
    """Stops the propagation at the layer whose current is needed."""

    def __init__(self, current: Tensor):
        super().__init__()
        self.current = current


def _currents(
    spiking: SpikingNetwork, images: Tensor, index: int, timesteps: int
) -> Iterator[Tensor]:
    """Yields the current [N, ...] of a hidden layer at every timestep, in bounded memory.

    The preceding layers are already spiking. The simulation restarts for every layer ([STDB]
    algorithm 1).
    """
    states = [NeuronState()] * index

    def fire(layer: int, current: Tensor) -> Tensor:
        if layer == index:
            raise _Reached(current)
        spikes: Tensor
        spikes, states[layer] = spiking.neurons[layer](current, states[layer], timesteps=size)
        return spikes

    for start in range(0, timesteps, WINDOW):
        size = min(WINDOW, timesteps - start)
        try:
            spiking.propagate(ENCODINGS[spiking.options.encoding](images, size), fire)
        except _Reached as reached:
            yield from reached.current
