"""[ULL]: conversion without training, resources, energy, and a table of accuracies."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from snn_rl.chain.stages import ANN
from snn_rl.core.conversion.thresholds import ALPHA_BETA, CLIP, PERCENTILE, POSITIVE
from snn_rl.core.energy import INT32, energy, macs, operations
from snn_rl.papers import image_page as images
from snn_rl.papers.image_page import ANN_LABEL, ImageFigure, Panels, Part, Values, Wanted, Wants
from snn_rl.papers.page import FIGURE, MAKERS, TABLE
from snn_rl.papers.runs import ImageNetwork, PaperSettings, ScoredStage
from snn_rl.papers.tables import AccuracyTable, accuracy_rows
from snn_rl.reports.panels import Drawing, grouped_bars, timestep_lines

SEARCHED = "alpha-beta search"
OPERATIONS, ENERGY = "operations (M)", "compute energy (µJ)"
T2, T3, HYBRID, OPTIMAL = "T2, [ULL]", "T3, [ULL]", "T5, hybrid", "T16, converted"

# the ANN of all figures, as in preset=ull
_ANALOG = {"clip": True, "batch_norm": False, "pooling": "max", "pixels": "standard"}
_CONVERTED = {"iir.encoding": "direct", "iir.threshold_scale": 1.0, "iir.thresholds_from": None}
_SEARCH = {"iir.thresholds": ALPHA_BETA}
_CLIPS = {"iir.thresholds": CLIP}
_PERCENTILE = {"iir.thresholds": PERCENTILE}
_HYBRID = {**_PERCENTILE, "iir.percentile": 90.0, "iir.percentile_over": POSITIVE}
_START = "dataset=cifar10 net=vgg16 T=2 preset=ull"
_PAPER = PaperSettings("ull", nets=("vgg16",), datasets=("cifar10", "cifar100"))


def _conversion(label: str, folder: str, thresholds: Mapping[str, Any], *words: str) -> Wanted:
    """Returns the conversions at any T with some thresholds."""
    said = [*(f"{key}={value}" for key, value in thresholds.items()), *words]
    command = f"-m preset=ull stages=none T=1,2,3,4,5,8,16 {' '.join(said)}"
    return Wanted(label, r"T\d+-converted", {**_CONVERTED, **thresholds}, command, folder)


_CONVERSIONS = (
    _conversion("trained clip µ", "clip", _CLIPS),
    _conversion(
        "maximum pre-activation",
        "maximum",
        {**_PERCENTILE, "iir.percentile": 100.0},
        "iir.conversion_timesteps=16",  # at T = 1, no spike reaches layer 2 with these thresholds
    ),
    _conversion(SEARCHED, "alpha-beta", _SEARCH),
)
_TRAINED = {**_CONVERTED, **_SEARCH, "iir.train_threshold": True}
_T2, _T3 = (
    Wanted(label, f"T{T}-direct", _TRAINED, f"preset=ull direct=true T={T}", "alpha-beta")
    for T, label in ((2, T2), (3, T3))
)
_TOGETHER = {**_CONVERTED, **_HYBRID, "iir.train_threshold": True, "source": ANN}
_WORDS = " ".join(f"{key}={value}" for key, value in _HYBRID.items())
_T5 = Wanted(HYBRID, "T5(-direct)?", _TOGETHER, f"preset=ull direct=true T=5 {_WORDS}", "hybrid")
_AT_16 = f"preset=ull stages=none T=16 iir.thresholds={CLIP}"
_T16 = Wanted(OPTIMAL, "T16-converted", {**_CONVERTED, **_CLIPS}, _AT_16, "clip")


def _clipped(wanted: Sequence[Wanted], network: ImageNetwork) -> Wants:
    """Returns one part for a network with clipped ReLUs."""
    return [("", wanted)] if network.analogs[0].has(_ANALOG) else []


# figure 2


def _accuracy_panels(part: Part) -> Panels:
    lines: dict[str, dict[int, float]] = {}
    for label, T, *_ in part.runs:
        lines.setdefault(label, {})[T] = part.mean(label, images.ACCURACY, T) or 0.0
    reference = ANN_LABEL, lines.pop(ANN_LABEL)[0]
    draw = partial(timestep_lines, lines=lines, score=images.ACCURACY, reference=reference)
    return {"conversion": draw}


MAKERS["ull", FIGURE, 2] = ImageFigure(
    PaperSettings("ull", nets=("vgg16", "vgg11", "resnet20"), datasets=("cifar10",)),
    "Accuracy against the number of timesteps of an ANN that is converted without training, "
    "with thresholds from the trained clipping thresholds of its ReLUs and from the maximum "
    "pre-activation (its reference [15]); VGG and ResNet networks on CIFAR-10.",
    partial(_clipped, _CONVERSIONS),
    images.scored_values,
    _accuracy_panels,
    columns=2,
    printed=[
        (
            "accuracy, ANN (%)",
            "90.76 and 91.10 (VGG11), 93.26 (VGG16), 93.07 (ResNet20)",
            images.accuracy(ANN_LABEL),
        ),
        *(
            (f"accuracy, T{T} by the {SEARCHED} (%)", published, images.accuracy(SEARCHED, T))
            for T, published in (
                (2, "65.82 (VGG11), 69.58 (VGG16), 61.96 (ResNet20)"),
                (3, "78.76 (VGG11), 85.06 (VGG16), 73.57 (ResNet20)"),
            )
        ),
    ],
    notes=[
        "The paper prints no accuracy of this figure, and no number is read off its plot. The "
        "accuracies above are from its table 1, CIFAR-10. The alpha-beta search is the paper's "
        "own conversion, which this figure does not show. Without training, the search needs "
        "12 timesteps where its reference [15] needs 16 (IV-B).",
        "Our conversions have no bias shift of half a threshold / T, which the paper describes "
        "for [15] and does not use itself (III-B). Our maximum pre-activation is the maximum "
        "of the input currents with the layers before it already spiking, at one of "
        "`iir.conversion_timesteps`. Whole spikes coincide there, so this maximum is higher "
        "than the ANN's, which [15] uses.",
    ],
    start=_START,
)


# figures 3 and 4


def _ratio(name: str, published: str, quantity: str, over: str) -> images.Printed:
    return f"{name}, {over} / {T2}", published, lambda part: part.ratio(quantity, over, T2)


_BOTH = "(mean of CIFAR-10 and CIFAR-100)"
_SOURCES = (
    "All networks start from the same ANN, with clipped ReLUs, max pooling and no batch norm.",
    f"*{HYBRID}* stands for [ULL]'s reference [7]: direct encoding, thresholds from a percentile "
    "of the input currents, trained together with the weights. Its ANN has no clipped ReLUs.",
)


def _resource_panels(part: Part) -> Panels:
    def pair(unit: str, *quantities: str) -> Drawing | None:
        groups, bars = ["training", "inference"], part.bars(quantities)
        draw = partial(grouped_bars, groups=groups, bars=bars, unit=unit, numbers=True)
        return draw if bars else None

    return {
        "time": pair("ms per image", images.TRAINING, images.INFERENCE),
        "memory": pair("MiB", images.TRAINING_MEMORY, images.INFERENCE_MEMORY),
    }


MAKERS["ull", FIGURE, 3] = ImageFigure(
    _PAPER,
    "(a) Time per epoch and (b) memory of training and inference: the ANN, the spiking "
    "networks with 2 and 3 timesteps, and the hybrid training of its reference [7] with 5; "
    "VGG16 on CIFAR-10 and CIFAR-100.",
    partial(_clipped, (_T2, _T3, _T5)),
    images.resources,
    _resource_panels,
    columns=2,
    printed=[
        _ratio("training time", f"2.38 {_BOTH}", images.TRAINING, HYBRID),
        _ratio("inference time", f"2.33 {_BOTH}", images.INFERENCE, HYBRID),
        _ratio("training memory", "1.44", images.TRAINING_MEMORY, HYBRID),
        _ratio("inference memory", '"almost identical"', images.INFERENCE_MEMORY, HYBRID),
    ],
    notes=[
        *_SOURCES,
        images.TIME_NOTE,
        f"{images.MEMORY_NOTE} Time and memory depend on the batch size, which is the same in "
        "the paper (2080 Ti GPU).",
    ],
    start=_START,
)


def _inference(entry: ScoredStage) -> Values:
    """Returns the spikes, operations and energy of one image; the dense ones for an ANN."""
    rates = entry.score.spike_rates
    used = energy(entry.spec, rates, INT32)
    if entry.stage.analog:
        count, picojoules = float(sum(macs(entry.spec))), used.analog
    else:
        count, picojoules = sum(operations(entry.spec, rates)), used.spiking
    return {**images.spikes_by_layer(entry), OPERATIONS: count / 1e6, ENERGY: picojoules / 1e6}


def _inference_panels(part: Part) -> Panels:
    def whole(quantity: str, log: bool) -> Drawing:
        unit, bars = f"{quantity[:-1]} / image)", part.bars([quantity])
        return partial(grouped_bars, groups=[""], bars=bars, unit=unit, log=log, numbers=True)

    return {
        "spikes": images.layer_panel(part),
        "operations": whole(OPERATIONS, log=False),
        "compute energy": whole(ENERGY, log=True),
    }


MAKERS["ull", FIGURE, 4] = ImageFigure(
    _PAPER,
    "(a) Spikes per neuron and image of every layer, (b) operations and (c) compute energy of "
    "one image: the ANN, the spiking networks with 2 and 3 timesteps, the hybrid training of "
    "its reference [7] with 5, and the conversion of its reference [15] with 16; VGG16 on "
    "CIFAR-10 and CIFAR-100.",
    partial(_clipped, (_T2, _T3, _T5, _T16)),
    _inference,
    _inference_panels,
    columns=3,
    printed=[
        _ratio("spikes", f"1.53 {_BOTH}", images.SPIKES, HYBRID),
        _ratio("spikes", f"4.22 {_BOTH}", images.SPIKES, OPTIMAL),
        _ratio("energy", "103.5 (CIFAR-10), 159.2 (CIFAR-100)", ENERGY, ANN_LABEL),
        _ratio("energy", "1.27 (CIFAR-10), 1.52 (CIFAR-100)", ENERGY, HYBRID),
        _ratio("energy", "5.18 (CIFAR-10), 4.72 (CIFAR-100)", ENERGY, OPTIMAL),
    ],
    notes=[
        *_SOURCES,
        f"*{OPTIMAL}* stands for [ULL]'s reference [15], with the trained clipping thresholds "
        "and without its bias shift.",
        "Spikes: summed over the timesteps, per neuron; over all hidden neurons in the ratios.",
        "Operations: the multiply-accumulates of all layers for the ANN. A spiking network "
        "needs those of the first layer once, and in the other layers one accumulate per "
        "synapse and arriving spike. Pooled layers count at their rate before the pooling, as "
        "in the paper, although up to four times as many spikes arrive after max pooling. "
        "Energy (section VI-B, INT32): 3.2 pJ per multiply-accumulate, 0.1 pJ per accumulate. "
        "The paper prints the ANN's energy as a sum from layer 2 at the cost of an accumulate. "
        "This is a misprint, because no ratio could then reach 100. Here the sum starts at "
        "layer 1 and has the cost of a multiply-accumulate.",
    ],
    start=_START,
)


# table 1

_TABLE_1 = [
    ("vgg11", "cifar10", 2, (90.76, 65.82, 89.39)),
    ("vgg11", "cifar10", 3, (91.10, 78.76, 89.79)),
    ("vgg16", "cifar10", 2, (93.26, 69.58, 91.79)),
    ("vgg16", "cifar10", 3, (93.26, 85.06, 91.93)),
    ("resnet20", "cifar10", 2, (93.07, 61.96, 90.00)),
    ("resnet20", "cifar10", 3, (93.07, 73.57, 90.06)),
    ("vgg16", "cifar100", 2, (68.45, 19.57, 64.19)),
    ("vgg16", "cifar100", 3, (68.45, 36.84, 63.92)),
    ("resnet20", "cifar100", 2, (63.88, 19.85, 57.81)),
    ("resnet20", "cifar100", 3, (63.88, 31.43, 59.29)),
]

MAKERS["ull", TABLE, 1] = AccuracyTable(
    PaperSettings("ull"),
    "The ANN with clipped ReLUs, its conversion by the alpha-beta search, and the trained network.",
    ["network", "data", "T", "ANN", "converted", "trained"],
    accuracy_rows(
        _TABLE_1,
        {
            ANN: _ANALOG,
            "T{}-converted": {**_ANALOG, **_CONVERTED, **_SEARCH},
            "T{}-direct": {**_ANALOG, **_TRAINED},
        },
    ),
)
