"""[STDB]: spikes before and after training, cost of training, and a table of accuracies."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from snn_rl.chain import stages
from snn_rl.core.conversion.thresholds import PERCENTILE, UNITY
from snn_rl.papers import image_page as images
from snn_rl.papers.image_page import ANN_LABEL, ImageFigure, Panels, Part, Values, Wanted, Wants
from snn_rl.papers.page import FIGURE, MAKERS, TABLE
from snn_rl.papers.runs import CONVERSION, ImageNetwork, PaperSettings, ScoredStage, best
from snn_rl.papers.tables import AccuracyTable, accuracy_rows
from snn_rl.reports.panels import Bars, grouped_bars

CONVERTED, HYBRID, FROM_SCRATCH = "converted", "converted and trained", "from scratch"
# epochs of the ANN, of the network trained from scratch, and of the hybrid's spiking stage
# Source: [STDB] appendix B
PAPER_EPOCHS = {ANN_LABEL: 250, FROM_SCRATCH: 250, HYBRID: 20}

# The paper does not state the threshold scale: any scale at few timesteps, only 1 at 2,500.
_ANALOG = {"batch_norm": False, "pooling": "avg", "clip": False, "pixels": "symmetric"}
_CONVERTED = {
    **_ANALOG,
    "iir.encoding": "poisson",
    "iir.thresholds": PERCENTILE,
    "iir.percentile": 100.0,
    "iir.thresholds_from": None,
    "iir.block_thresholds": UNITY,
}
_UNSCALED = {**_CONVERTED, "iir.threshold_scale": 1.0}
_TRAINED = {**_CONVERTED, "iir.surrogate": "stdb", "iir.train_threshold": False}
_SCRATCH = {**_ANALOG, "iir.encoding": "poisson", "iir.surrogate": "stdb"}
# kind of the stages, their settings, and settings of the command that makes them
_RUNS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    CONVERTED: (stages.CONVERTED, _CONVERTED, "stages=none"),
    HYBRID: (stages.DIRECT, _TRAINED, "direct=true"),
    FROM_SCRATCH: (stages.SCRATCH, _SCRATCH, "scratch=true iir.distill=0"),
}
_START = "dataset=cifar10 net=vgg16 T=100 preset=stdb"
_PAPER = PaperSettings("stdb", nets=("vgg16",), datasets=("cifar10",))


def _stages(network: ImageNetwork, label: str) -> list[ScoredStage]:
    """Returns the stages of a label, with any T; none if the ANN is not of the paper's kind."""
    kind, settings, _ = _RUNS[label]
    fits = network.analogs[0].has(_ANALOG)
    return [e for e in network.stages if fits and e.stage.kind == kind and e.has(settings)]


def _wanted(label: str, like: ScoredStage, conversion: Mapping[str, Any] | None = None) -> Wanted:
    """Returns a label's runs with the T of a stage, and with a conversion."""
    kind, settings, words = _RUNS[label]
    T, settings = like.timesteps, {**settings, **(conversion or {})}
    return Wanted(label, f"T{T}-{kind}", settings, f"preset=stdb T={T} {words}", kind, like)


# figure 3


def _pairs(network: ImageNetwork) -> Wants:
    """Returns one part for every T and conversion: the converted and the trained network.

    Both use the same conversion ("iso conditions", [STDB] section 7).
    """
    groups: dict[tuple[Any, ...], list[ScoredStage]] = {}
    found = _stages(network, HYBRID) or _stages(network, CONVERTED)
    for entry in sorted(found, key=lambda entry: entry.timesteps):
        key = (entry.timesteps, *(repr(entry.settings.get(name)) for name in CONVERSION))
        groups.setdefault(key, []).append(entry)
    wants = []
    for like in (best(alike)[0] for alike in groups.values()):
        conversion = {key: like.settings.get(key) for key in CONVERSION}
        pair = [_wanted(label, like, conversion) for label in (CONVERTED, HYBRID)]
        wants.append((f", T = {like.timesteps}", pair))
    return wants


def _spikes(entry: ScoredStage) -> Values:
    return {**images.scored_values(entry), **images.spikes_by_layer(entry)}


def _spike_panels(part: Part) -> Panels:
    before, after = (part.mean(label, images.ACCURACY) for label in (CONVERTED, HYBRID))
    if before is None or after is None:
        return {"spikes": None}
    return {f"spikes ({before:.2f} %, {after:.2f} %)": images.layer_panel(part)}


MAKERS["stdb", FIGURE, 3] = ImageFigure(
    _PAPER,
    "Spikes per neuron of every layer over 100 timesteps, of the converted network and of the "
    "network trained by spike time; VGG16, 1,500 test images of CIFAR-10.",
    _pairs,
    _spikes,
    _spike_panels,
    columns=1,
    printed=[
        (f"accuracy, {CONVERTED} (%)", "89.20", images.accuracy(CONVERTED)),
        (f"accuracy, {HYBRID} (%)", "91.87", images.accuracy(HYBRID)),
        (
            f"spikes over all layers, {CONVERTED} / {HYBRID}",
            "1.5",
            lambda part: part.ratio(images.SPIKES, CONVERTED, HYBRID),
        ),
    ],
    notes=[
        "Both networks have the same timesteps, ANN and settings of the conversion (iso "
        "conditions, section 7). Their accuracies are in the title of the panel.",
        "Spikes: summed over the timesteps, per neuron and image; over all hidden neurons in "
        "the ratio. The spikes of the Poisson input are not included.",
    ],
    start=_START,
)


# figure 5

# Source: [STDB] appendix B. Name, unit, and the values of the spiking network and of the ANN
_COSTS = {
    images.TRAINING: ("one epoch of training", "min", 78, 0.57),
    images.INFERENCE: ("one epoch of inference", "min", 11.39, 0.05),
    images.TRAINING_MEMORY: ("memory of training", "GB", 9.36, 1.47),
    images.INFERENCE_MEMORY: ("memory of inference", "GB", 1.37, 1.15),
}
_PUBLISHED: list[float | None] = [spiking / analog for *_, spiking, analog in _COSTS.values()]
_GROUPS = (
    *("training,\nan epoch", "training,\nas run", "training,\npaper's\nepochs"),
    *("inference", "memory,\ntraining", "memory,\ninference"),
)


def _trainings(network: ImageNetwork) -> Wants:
    """Returns one part for every T: the network from scratch, and the converted and trained one."""
    at: dict[int, ScoredStage] = {}
    for entry in (*_stages(network, HYBRID), *_stages(network, FROM_SCRATCH)):
        at.setdefault(entry.timesteps, entry)
    return [
        (f", T = {T}", [_wanted(label, at[T]) for label in (FROM_SCRATCH, HYBRID)])
        for T in sorted(at)
    ]


def _with_ann(label: str, own: float | None) -> float | None:
    """Adds the ANN's training, which the hybrid needs, to a time in units of the ANN's training."""
    return own if own is None or label != HYBRID else 1 + own


def _as_run(part: Part, label: str) -> float | None:
    """Returns the time of all training that leads to a network, divided by the ANN's."""
    return _with_ann(label, part.ratio(images.STAGE_TIME, label, ANN_LABEL))


def _by_epochs(label: str, epoch: float | None) -> float | None:
    """Returns `_as_run` for the paper's numbers of epochs, from the ratio of one epoch's times."""
    epochs = PAPER_EPOCHS[label] / PAPER_EPOCHS[ANN_LABEL]
    return _with_ann(label, None if epoch is None else epochs * epoch)


def _cost_panels(part: Part) -> Panels:
    shown = [Bars(ANN_LABEL, stages.ANN, [[1.0] * len(_GROUPS)])]
    for label in (FROM_SCRATCH, HYBRID):
        epoch, *others = (part.ratio(quantity, label, ANN_LABEL) for quantity in _COSTS)
        heights = [epoch, _as_run(part, label), _by_epochs(label, epoch), *others]
        epoch, *others = _PUBLISHED
        published = [epoch, None, _by_epochs(label, epoch), *others]
        if any(height is not None for height in heights):
            shown.append(Bars(label, part.of(label)[0][0].name, [heights], published))
    options: dict[str, Any] = {"unit": "times the ANN's", "log": True, "numbers": True}
    draw = partial(grouped_bars, groups=_GROUPS, bars=shown, **options)
    return {"resources": draw if len(shown) > 1 else None}


def _over_analog(quantity: str, label: str) -> images.Printed:
    name, unit, spiking, analog = _COSTS[quantity]
    text = f"{spiking / analog:.4g} ({spiking} / {analog} {unit})"
    return f"{name}, {label} / ANN", text, lambda part: part.ratio(quantity, label, ANN_LABEL)


def _epochs_over_hybrid(part: Part) -> float | None:
    scratch, hybrid = (
        _by_epochs(label, part.ratio(images.TRAINING, label, ANN_LABEL))
        for label in (FROM_SCRATCH, HYBRID)
    )
    return images.quotient(scratch, hybrid)


MAKERS["stdb", FIGURE, 5] = ImageFigure(
    _PAPER,
    "Time and memory of training and inference, divided by the ANN's, on a logarithmic scale: "
    "the ANN, the spiking network trained from scratch, and the converted and trained network "
    "(hybrid); VGG16, CIFAR-10, 100 timesteps, batches of 32, one 2080 Ti GPU.",
    _trainings,
    images.resources,
    _cost_panels,
    columns=1,
    printed=[
        *(_over_analog(cost, label) for cost in _COSTS for label in (FROM_SCRATCH, HYBRID)),
        (
            f"training as run, {FROM_SCRATCH} / {HYBRID}",
            "–",
            lambda part: images.quotient(_as_run(part, FROM_SCRATCH), _as_run(part, HYBRID)),
        ),
        (
            f"training with the paper's epochs, {FROM_SCRATCH} / {HYBRID}",
            '"one order of magnitude"',
            _epochs_over_hybrid,
        ),
    ],
    notes=[
        "The paper's values are quotients of the numbers in appendix B, which are the same for "
        "all spiking networks.",
        "*As run*: time of all training that leads to a network, including the ANN's for the "
        "hybrid. The time depends on the epochs and images of our stages. *With the paper's "
        "epochs*: 250 for the ANN and from scratch, 250 + 20 for the hybrid, with our times "
        "per image and all images.",
        images.TIME_NOTE,
        images.MEMORY_NOTE,
    ],
    start=_START,
)


# table 1

_TABLE_1 = [
    ("vgg5", "cifar10", 75, (87.88, 87.64, 84.56, 86.91)),
    ("vgg9", "cifar10", 100, (91.45, 90.98, 87.31, 90.54)),
    ("vgg16", "cifar10", 100, (92.81, 92.48, 90.2, 91.13)),
    ("resnet8", "cifar10", 200, (91.35, 91.12, 89.5, 91.35)),
    ("resnet20", "cifar10", 250, (93.15, 92.94, 91.12, 92.22)),
    ("vgg11", "cifar100", 125, (71.21, 70.94, 65.52, 67.87)),
    ("resnet34", "imagenet", 250, (70.2, 65.1, 56.87, 61.48)),
    ("vgg16", "imagenet", 250, (69.35, 68.12, 62.73, 65.19)),
]

MAKERS["stdb", TABLE, 1] = AccuracyTable(
    PaperSettings("stdb"),
    "The ANN, its conversion at 2,500 timesteps, its conversion at T with scaled thresholds, "
    "and the network trained by spike time.",
    ["network", "data", "T", "ANN", "T2500", "converted", "trained"],
    accuracy_rows(
        _TABLE_1,
        {
            stages.ANN: _ANALOG,
            "T2500-converted": _UNSCALED,
            "T{}-converted": _CONVERTED,
            "T{}-direct": _TRAINED,
        },
    ),
)
