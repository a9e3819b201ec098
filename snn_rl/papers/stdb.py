"""Figures 3 and 5 of [STDB]: spikes before and after training, and what training takes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from snn_rl.chain.stages import ANN, SCRATCH, Stage
from snn_rl.papers.image_figures import (
    ACCURACY,
    ANN_LABEL,
    INFERENCE,
    INFERENCE_MEMORY,
    MEMORY_NOTE,
    SPIKES,
    STAGE_TIME,
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
from snn_rl.papers.image_results import ImageNetwork, Measured, best
from snn_rl.reports import figures

CONVERTED, HYBRID, FROM_SCRATCH = "converted", "converted and trained", "from scratch"
# epochs of the ANN, of the network trained from scratch, and of the hybrid's spiking stage
# Source: [STDB] appendix B
PAPER_EPOCHS = {ANN_LABEL: 250, FROM_SCRATCH: 250, HYBRID: 20}

_ANALOG = {"clip": False, "batch_norm": False, "pixels": "symmetric"}
_POISSON = {"iir.encoding": "poisson"}
_TRAINED = {**_POISSON, "iir.surrogate": "stdb"}
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    CONVERTED: _POISSON,
    HYBRID: {**_TRAINED, "iir.train_threshold": False},  # those of the conversion
    FROM_SCRATCH: _TRAINED,
}
# what a conversion depends on, besides the ANN and T: "iso conditions" ([STDB] section 7)
_CONVERSION = (
    *("iir.thresholds", "iir.percentile", "iir.percentile_over", "iir.threshold_scale"),
    *("iir.block_thresholds", "iir.conversion_samples", "iir.conversion_timesteps"),
    *("iir.thresholds_from", "limit"),  # the samples are of the training images
)
_START = "dataset=cifar10 net=vgg16 T=100 preset=stdb"
_WORDS = {
    CONVERTED: ("stages=none",),
    HYBRID: ("direct=true",),
    FROM_SCRATCH: ("scratch=true", "iir.distill=0"),
}
_KINDS = {CONVERTED: "converted", HYBRID: "direct", FROM_SCRATCH: SCRATCH}


def _stages(network: ImageNetwork, label: str) -> list[Measured]:
    """The stages of a kind, of any T."""
    return [
        stage
        for stage in network.stages
        if Stage.parse(stage.stage).kind == _KINDS[label] and stage.has(_SETTINGS[label])
    ]


def _wanted(label: str, like: Measured, conversion: Mapping[str, Any] | None = None) -> Wanted:
    """A stage at the T, and with the conversion, of another."""
    name = f"T{like.timesteps}-{_KINDS[label]}"
    return Wanted(
        label,
        name,
        name,
        {**_SETTINGS[label], **(conversion or {})},
        ("preset=stdb", f"T={like.timesteps}", *_WORDS[label]),
        _KINDS[label],
        like,
    )


# figure 3


def _pairs(network: ImageNetwork) -> list[tuple[str, Sequence[Wanted]]]:
    """For every T, and every conversion at it: as it is, and trained."""
    if not network.analogs[0].has(_ANALOG):
        return []
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    stages = _stages(network, HYBRID) or _stages(network, CONVERTED)
    for stage in sorted(stages, key=lambda stage: stage.timesteps):
        key = (stage.timesteps, *(repr(stage.settings.get(name)) for name in _CONVERSION))
        groups.setdefault(key, []).append(stage)
    found: list[tuple[str, Sequence[Wanted]]] = []
    for alike in groups.values():
        like = best(alike)[0]
        conversion = {key: like.settings.get(key) for key in _CONVERSION}
        wanted = [_wanted(label, like, conversion) for label in (CONVERTED, HYBRID)]
        found.append((f", T = {like.timesteps}", wanted))
    return found


def _spikes(entry: Measured) -> Values:
    return {**scored(entry), **spikes_by_layer(entry)}


def _spike_panels(filled: Filled) -> Panels:
    scores = [filled.mean(label, ACCURACY) for label in (CONVERTED, HYBRID)]
    if None in scores:
        return {"spikes": None}
    before, after = scores
    return {f"spikes ({before:.2f} %, {after:.2f} %)": layer_panel(filled)}


# figure 5

_COSTS = (TRAINING, INFERENCE, TRAINING_MEMORY, INFERENCE_MEMORY)


def _trainings(network: ImageNetwork) -> list[tuple[str, Sequence[Wanted]]]:
    """For every T: trained from scratch, and converted and trained."""
    if not network.analogs[0].has(_ANALOG):
        return []
    at: dict[int, Measured] = {}
    for stage in (*_stages(network, HYBRID), *_stages(network, FROM_SCRATCH)):
        at.setdefault(stage.timesteps, stage)
    return [
        (f", T = {timesteps}", [_wanted(label, at[timesteps]) for label in (FROM_SCRATCH, HYBRID)])
        for timesteps in sorted(at)
    ]


def _as_run(filled: Filled, label: str) -> float | None:
    """Training of all that leads to a network, against the ANN's."""
    own = filled.ratio(STAGE_TIME, label, ANN_LABEL)
    return own if own is None or label != HYBRID else 1 + own


def _by_epochs(label: str, epoch: float | None) -> float | None:
    """The same with the paper's epochs.

    Args:
        label: Of the network.
        epoch: What one epoch takes, against one of the ANN's.
    """
    if epoch is None:
        return None
    own = PAPER_EPOCHS[label] * epoch / PAPER_EPOCHS[ANN_LABEL]
    return own if label != HYBRID else 1 + own


def _normalized(filled: Filled, label: str) -> list[float | None]:
    epoch, *others = (filled.ratio(quantity, label, ANN_LABEL) for quantity in _COSTS)
    return [epoch, _as_run(filled, label), _by_epochs(label, epoch), *others]


_GROUPS = (
    *("training,\nan epoch", "training,\nas run", "training,\npaper's\nepochs"),
    *("inference", "memory,\ntraining", "memory,\ninference"),
)
# Source: [STDB] appendix B, minutes and GB: spiking network, ANN
_PRINTED = {
    TRAINING: (78, 0.57),
    INFERENCE: (11.39, 0.05),
    TRAINING_MEMORY: (9.36, 1.47),
    INFERENCE_MEMORY: (1.37, 1.15),
}


def _printed(label: str) -> list[float | None]:
    epoch, *others = (spiking / analog for spiking, analog in _PRINTED.values())
    return [epoch, None, _by_epochs(label, epoch), *others]


def _cost_panels(filled: Filled) -> Panels:
    bars = []
    for label in (FROM_SCRATCH, HYBRID):
        heights = _normalized(filled, label)
        if any(height is not None for height in heights):
            look = next(wanted.look for wanted in filled.wanted if wanted.label == label)
            bars.append(figures.Bars(label, look, [heights], _printed(label)))
    if not bars:
        return {"resources": None}
    analog = figures.Bars(ANN_LABEL, ANN, [[1.0] * len(_GROUPS)])
    draw = partial(
        figures.grouped_bars,
        groups=_GROUPS,
        bars=[analog, *bars],
        unit="times the ANN's",
        log=True,
        numbers=True,
    )
    return {"resources": draw}


def _rows() -> list[Printed]:
    names = {
        TRAINING: ("one epoch of training", "min"),
        INFERENCE: ("one epoch of inference", "min"),
        TRAINING_MEMORY: ("memory of training", "GB"),
        INFERENCE_MEMORY: ("memory of inference", "GB"),
    }
    rows = []
    for quantity, (spiking, analog) in _PRINTED.items():
        name, unit = names[quantity]
        text = f"{spiking / analog:.4g} ({spiking} / {analog} {unit})"
        rows += [
            Printed(f"{name}, {label} / ANN", text, _over_analog(quantity, label))
            for label in (FROM_SCRATCH, HYBRID)
        ]
    return [
        *rows,
        Printed(
            f"training as run, {FROM_SCRATCH} / {HYBRID}",
            "–",
            lambda filled: _quotient(_as_run(filled, FROM_SCRATCH), _as_run(filled, HYBRID)),
        ),
        Printed(
            f"training with the paper's epochs, {FROM_SCRATCH} / {HYBRID}",
            '"one order of magnitude"',
            lambda filled: _quotient(
                *(
                    _by_epochs(label, filled.ratio(TRAINING, label, ANN_LABEL))
                    for label in (FROM_SCRATCH, HYBRID)
                )
            ),
        ),
    ]


def _over_analog(quantity: str, label: str) -> Callable[[Filled], float | None]:
    return lambda filled: filled.ratio(quantity, label, ANN_LABEL)


def _quotient(over: float | None, under: float | None) -> float | None:
    return None if over is None or not under else over / under


FIGURES: dict[int, ImageFigure] = {
    3: ImageFigure(
        "Spikes per neuron of every layer over 100 timesteps, of the converted network and of the "
        "one trained by spike time; VGG16, 1,500 test images of CIFAR-10.",
        _pairs,
        _spikes,
        _spike_panels,
        columns=1,
        printed=(
            Printed(
                f"accuracy, {CONVERTED} (%)",
                "89.20",
                lambda filled: filled.mean(CONVERTED, ACCURACY),
            ),
            Printed(
                f"accuracy, {HYBRID} (%)", "91.87", lambda filled: filled.mean(HYBRID, ACCURACY)
            ),
            Printed(
                f"spikes over all layers, {CONVERTED} / {HYBRID}",
                "1.5",
                lambda filled: filled.ratio(SPIKES, CONVERTED, HYBRID),
            ),
        ),
        notes=(
            "Both networks have the same timesteps, ANN and settings of the conversion (iso "
            "conditions, section 7); their accuracies stand above the panel.",
            "Spikes: summed over timesteps, per neuron and image; in the ratio over all hidden "
            "neurons. The spikes of the Poisson input are not in it.",
        ),
        start=_START,
    ),
    5: ImageFigure(
        "Time and memory of training and inference, normalized by the ANN's, on a logarithmic "
        "scale: the ANN, the spiking network trained from scratch, and the converted and trained "
        "one (hybrid); VGG16, CIFAR-10, 100 timesteps, batches of 32, one 2080 Ti GPU.",
        _trainings,
        resources,
        _cost_panels,
        columns=1,
        printed=_rows(),
        notes=(
            "The paper's values are quotients of what appendix B prints, for spiking networks "
            "however they were trained.",
            "*As run*: minutes of training of all that leads to a network, for the hybrid the "
            "ANN's as well; it depends on the epochs and images of our stages. *With the paper's "
            "epochs*: 250 for the ANN and from scratch, 250 + 20 for the hybrid, with our times "
            "per image and all images.",
            TIME_NOTE,
            MEMORY_NOTE,
        ),
        start=_START,
    ),
}
