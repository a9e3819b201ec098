"""Figures 2 to 4 of [ULL]: conversion without training, resources, and energy."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from snn_rl.chain.stages import ANN
from snn_rl.core.conversion.thresholds import ALPHA_BETA, CLIP, PERCENTILE
from snn_rl.core.energy import INT32, energy, macs, operations
from snn_rl.papers.image_figures import (
    ACCURACY,
    ANN_LABEL,
    INFERENCE,
    INFERENCE_MEMORY,
    MEMORY_NOTE,
    SPIKES,
    TIME_NOTE,
    TRAINING,
    TRAINING_MEMORY,
    Filled,
    ImageFigure,
    Panels,
    Printed,
    Values,
    Wanted,
    layer_panel,
    resources,
    scored,
    spikes_by_layer,
)
from snn_rl.papers.image_results import ImageNetwork, Measured
from snn_rl.reports import figures

SEARCHED = "alpha-beta search"
OPERATIONS, ENERGY = "operations (M)", "compute energy (µJ)"
T2, T3, HYBRID, OPTIMAL = "T2, [ULL]", "T3, [ULL]", "T5, hybrid", "T16, converted"

# the ANN that all of it begins with, as preset=ull has it
_ANALOG = {"clip": True, "batch_norm": False, "pooling": "max", "pixels": "standard"}
_CONVERTED = {"iir.encoding": "direct", "iir.threshold_scale": 1.0, "iir.thresholds_from": None}
_PRESET = "preset=ull"
_START = "dataset=cifar10 net=vgg16 T=2 preset=ull"


def _conversion(label: str, look: str, folder: str, *words: str, **thresholds: Any) -> Wanted:
    settings = {f"iir.{key}": value for key, value in thresholds.items()}
    return Wanted(
        label,
        look,
        r"T\d+-converted",
        {**_CONVERTED, **settings},
        (
            *("-m", _PRESET, "stages=none", "T=1,2,3,4,5,8,16"),
            *(f"{key}={value}" for key, value in settings.items()),
            *words,
        ),
        folder,
    )


_CONVERSIONS = (
    _conversion("trained clip µ", "T3", "clip", thresholds=CLIP),
    _conversion(
        "maximum pre-activation",
        "T1",
        "maximum",
        "iir.conversion_timesteps=16",  # at T = 1 and such thresholds nothing reaches layer 2
        thresholds=PERCENTILE,
        percentile=100.0,
    ),
    _conversion(SEARCHED, "T5", "alpha-beta", thresholds=ALPHA_BETA),
)


def _trained(timesteps: int, label: str) -> Wanted:
    return Wanted(
        label,
        f"T{timesteps}",
        f"T{timesteps}-direct",
        {"iir.encoding": "direct", "iir.thresholds": ALPHA_BETA},
        (_PRESET, "direct=true", f"T={timesteps}"),
        "alpha-beta",
    )


_TRAINED = (
    _trained(2, T2),
    _trained(3, T3),
    Wanted(
        HYBRID,
        "T5",
        "T5(-direct)?",
        {
            "iir.encoding": "direct",
            "iir.thresholds": PERCENTILE,
            "iir.train_threshold": True,
            "source": ANN,
        },
        (
            *(_PRESET, "direct=true", "T=5", f"iir.thresholds={PERCENTILE}"),
            *("iir.percentile=90", "iir.percentile_over=positive"),
        ),
        "hybrid",
    ),
)
_AT_16 = Wanted(
    OPTIMAL,
    "T16-converted",
    "T16-converted",
    {**_CONVERTED, "iir.thresholds": CLIP},
    (_PRESET, "stages=none", "T=16", f"iir.thresholds={CLIP}"),
    "clip",
)


def _of_clipped(
    wanted: Sequence[Wanted], network: ImageNetwork
) -> list[tuple[str, Sequence[Wanted]]]:
    return [("", wanted)] if network.analogs[0].has(_ANALOG) else []


# figure 2


def _accuracy_panels(filled: Filled) -> Panels:
    lines: dict[str, dict[int, float]] = {}
    for label, timesteps in filled.runs:
        accuracy = filled.mean(label, ACCURACY, timesteps)
        if label != ANN_LABEL and accuracy is not None:
            lines.setdefault(label, {})[timesteps] = accuracy
    analog = filled.mean(ANN_LABEL, ACCURACY)
    draw = partial(
        figures.timestep_lines,
        lines=lines,
        score=ACCURACY,
        reference=None if analog is None else (ANN_LABEL, analog),
    )
    return {"conversion": draw}


# figure 3


def _resource_panels(filled: Filled) -> Panels:
    return {
        "time": _pair(filled, (TRAINING, INFERENCE), "ms per image"),
        "memory": _pair(filled, (TRAINING_MEMORY, INFERENCE_MEMORY), "MiB"),
    }


def _pair(filled: Filled, quantities: Sequence[str], unit: str) -> figures.Drawing | None:
    bars = filled.bars(quantities)
    draw = partial(
        figures.grouped_bars,
        groups=["training", "inference"],
        bars=bars,
        unit=unit,
        numbers=True,
    )
    return draw if bars else None


# figure 4


def _inference(entry: Measured) -> Values:
    """Spikes, operations and energy of one image; of the ANN the dense ones."""
    rates = entry.metrics.spike_rates
    if entry.stage == ANN:
        count, picojoule = float(sum(macs(entry.spec))), energy(entry.spec, rates, INT32).analog
    else:
        count = sum(operations(entry.spec, rates))
        picojoule = energy(entry.spec, rates, INT32).spiking
    return {**spikes_by_layer(entry), OPERATIONS: count / 1e6, ENERGY: picojoule / 1e6}


def _inference_panels(filled: Filled) -> Panels:
    whole: Mapping[str, tuple[str, bool]] = {
        "operations": (OPERATIONS, False),
        "compute energy": (ENERGY, True),
    }
    return {
        "spikes": layer_panel(filled),
        **{
            title: partial(
                figures.grouped_bars,
                groups=[""],
                bars=filled.bars([quantity]),
                unit=f"{quantity[:-1]} / image)",
                log=log,
                numbers=True,
            )
            for title, (quantity, log) in whole.items()
        },
    }


def _searched(timesteps: int, published: str) -> Printed:
    return Printed(
        f"accuracy, T{timesteps} by the alpha-beta search (%)",
        published,
        lambda filled: filled.mean(SEARCHED, ACCURACY, timesteps),
    )


def _ratio(what: str, published: str, quantity: str, over: str, under: str = T2) -> Printed:
    return Printed(
        f"{what}, {over} / {under}",
        published,
        lambda filled: filled.ratio(quantity, over, under),
    )


_BOTH = "(mean of CIFAR-10 and CIFAR-100)"
_SOURCES = (
    "The ANN is the same for all of them, with clipped ReLUs, max pooling and without batch-norm.",
    f"*{HYBRID}* stands for [ULL]'s reference [7]: direct encoding, thresholds from a percentile "
    "of the input currents, trained with the weights. There the ANN's ReLUs are not clipped.",
)

FIGURES: dict[int, ImageFigure] = {
    2: ImageFigure(
        "Accuracy against the number of timesteps where an ANN is converted without any training, "
        "with thresholds from the trained clips of its ReLUs and from the maximum pre-activation "
        "(its reference [15]); VGG and ResNet networks on CIFAR-10.",
        partial(_of_clipped, _CONVERSIONS),
        scored,
        _accuracy_panels,
        columns=2,
        printed=(
            Printed(
                "accuracy, ANN (%)",
                "90.76 and 91.10 (VGG11), 93.26 (VGG16), 93.07 (ResNet20)",
                lambda filled: filled.mean(ANN_LABEL, ACCURACY),
            ),
            _searched(2, "65.82 (VGG11), 69.58 (VGG16), 61.96 (ResNet20)"),
            _searched(3, "78.76 (VGG11), 85.06 (VGG16), 73.57 (ResNet20)"),
        ),
        notes=(
            "Of this figure the paper prints no accuracy, and nothing is read off its plot; those "
            "above are of its table 1, CIFAR-10. The alpha-beta search is its own conversion, "
            "which its figure does not show: without training it needs 12 timesteps for what its "
            "reference [15] needs 16 for (IV-B).",
            "Our conversions have no bias shift of half a threshold / T, which the paper describes "
            "for [15] and leaves out itself (III-B). Our maximum pre-activation is that of the "
            "currents with the layers in front already spiking, at one of "
            "`iir.conversion_timesteps`: whole spikes meet there, and it is larger than the ANN's, "
            "which [15] takes.",
        ),
        start=_START,
    ),
    3: ImageFigure(
        "(a) Time per epoch and (b) memory of training and inference: the ANN, the spiking "
        "networks with 2 and 3 timesteps, and the hybrid training of its reference [7] with 5; "
        "VGG16 on CIFAR-10 and CIFAR-100.",
        partial(_of_clipped, _TRAINED),
        resources,
        _resource_panels,
        columns=2,
        printed=(
            _ratio("training time", f"2.38 {_BOTH}", TRAINING, HYBRID),
            _ratio("inference time", f"2.33 {_BOTH}", INFERENCE, HYBRID),
            _ratio("training memory", "1.44", TRAINING_MEMORY, HYBRID),
            _ratio("inference memory", '"almost identical"', INFERENCE_MEMORY, HYBRID),
        ),
        notes=(
            *_SOURCES,
            TIME_NOTE,
            f"{MEMORY_NOTE} Both depend on the size of the batches, which is the same in the paper "
            "(2080 Ti GPU).",
        ),
        start=_START,
    ),
    4: ImageFigure(
        "(a) Spikes per neuron and image of every layer, (b) operations and (c) compute energy of "
        "one image: the ANN, the spiking networks with 2 and 3 timesteps, the hybrid training of "
        "its reference [7] with 5, and the conversion of its reference [15] with 16; VGG16 on "
        "CIFAR-10 and CIFAR-100.",
        partial(_of_clipped, (*_TRAINED, _AT_16)),
        _inference,
        _inference_panels,
        columns=3,
        printed=(
            _ratio("spikes", f"1.53 {_BOTH}", SPIKES, HYBRID),
            _ratio("spikes", f"4.22 {_BOTH}", SPIKES, OPTIMAL),
            _ratio("energy", "103.5 (CIFAR-10), 159.2 (CIFAR-100)", ENERGY, ANN_LABEL),
            _ratio("energy", "1.27 (CIFAR-10), 1.52 (CIFAR-100)", ENERGY, HYBRID),
            _ratio("energy", "5.18 (CIFAR-10), 4.72 (CIFAR-100)", ENERGY, OPTIMAL),
        ),
        notes=(
            *_SOURCES,
            f"*{OPTIMAL}* stands for [ULL]'s reference [15], with the trained clips as thresholds "
            "and without its bias shift.",
            "Spikes: summed over timesteps, per neuron; over all hidden neurons in the ratios.",
            "Operations: of the ANN the multiply-accumulates of all layers; of a spiking network "
            "those of the first layer, once, and behind it an accumulate per synapse and arriving "
            "spike, pooled layers at their rate in front of the pooling, as the paper has it: "
            "behind max-pooling up to four times as many arrive. Energy (section VI-B, INT32): "
            "3.2 pJ per multiply-accumulate, 0.1 pJ per accumulate. The paper prints the ANN's as "
            "a sum from layer 2 at the cost of an accumulate, a misprint: no ratio could be a "
            "hundred then. Here it runs from layer 1, at that of a multiply-accumulate.",
        ),
        start=_START,
    ),
}
