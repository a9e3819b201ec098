"""The figures of a paper about image classification, drawn from the runs that lie in a folder.

What is common to them: which runs fill a figure, the page that shows them beside the numbers that
the paper prints, and what is missing, with the commands that make it. What each of them shows
stands in a module of its own, for every paper.
"""

import csv
import io
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from statistics import mean
from typing import Any

from snn_rl.chain.records import costs
from snn_rl.chain.stages import ANN
from snn_rl.configs.schema import Config
from snn_rl.core.energy import spikes
from snn_rl.files.atomic import write_text
from snn_rl.papers.image_results import (
    ImageNetwork,
    Measured,
    best,
    networks_of,
    read_measured,
    run_table,
)
from snn_rl.papers.recorded_commands import stage_command
from snn_rl.papers.titles import TITLES
from snn_rl.reports import figures
from snn_rl.reports.markdown import bullets, table
from snn_rl.utils.errors import UserError

README, PICTURE, VALUES = "README.md", "figure.png", "values.csv"
ANN_LABEL = "ANN"  # label of what every figure shows beside its spiking networks

# quantities that several figures show
ACCURACY = "accuracy (%)"
EPOCHS, BATCH = "epochs", "batch size"
TRAINING, INFERENCE = "training (ms / image)", "inference (ms / image)"
TRAINING_MEMORY, INFERENCE_MEMORY = "training (MiB)", "inference (MiB)"
STAGE_TIME = "training of the stage (min)"
SPIKES = "spikes / neuron"

# how these are meant
TIME_NOTE = (
    "Times are per image, an epoch's divided by its images, with the reading of the images. They "
    "are those of the machine that the runs were made on, and of whatever else ran there."
)
MEMORY_NOTE = (
    "Memory is the most in use: of the GPU, or of the whole process where there is none, with the "
    "libraries and the training images in it."
)

Key = tuple[str, int]  # label and T
Values = Mapping[str, float | None]  # by quantity; None: not known, or there is none


@dataclass(frozen=True)
class Wanted:
    """What one line, or one bar of every group, shows.

    Attributes:
        label: Its name in the figure.
        look: Stage whose colour and hatch it has.
        stage: Pattern of the names of its stages.
        settings: That these were made with.
        words: Of the command that makes them.
        folder: What the folder of that command's run is called, behind the name of the ANN's.
        like: A stage whose command has the other words; None: the ANN.
    """

    label: str
    look: str
    stage: str
    settings: Mapping[str, Any]
    words: tuple[str, ...]
    folder: str
    like: Measured | None = None


@dataclass(frozen=True)
class Filled:
    """One network in a figure, with the runs that fill it.

    Attributes:
        name: Of the network, and what of it is shown.
        network: Its ANNs and stages.
        wanted: All that is to be shown beside the ANN.
        runs: What there is, by label and T, the ANN first.
        values: The quantities of each of these runs.
    """

    name: str
    network: ImageNetwork
    wanted: Sequence[Wanted]
    runs: Mapping[Key, Sequence[Measured]]
    values: Mapping[Key, Sequence[Values]]

    def mean(self, label: str, quantity: str, timesteps: int | None = None) -> float | None:
        """Over the runs that have it, of any T or of one; None if none has."""
        known = [
            value
            for (name, steps), each in self.values.items()
            if name == label and timesteps in (None, steps)
            for value in (values.get(quantity) for values in each)
            if value is not None
        ]
        return mean(known) if known else None

    def ratio(self, quantity: str, over: str, under: str) -> float | None:
        """Of the means of two labels; None if one is not known."""
        above, below = self.mean(over, quantity), self.mean(under, quantity)
        return above / below if above is not None and below else None

    def bars(self, quantities: Sequence[str]) -> list[figures.Bars]:
        """The runs of every label that has one of these quantities."""
        looks = {ANN_LABEL: ANN, **{wanted.label: wanted.look for wanted in self.wanted}}
        found = []
        for label, look in looks.items():
            each = [v for key, values in self.values.items() if key[0] == label for v in values]
            heights = [[_or_nan(values.get(q)) for q in quantities] for values in each]
            if not all(map(math.isnan, chain.from_iterable(heights))):
                found.append(figures.Bars(label, look, heights))
        return found


Panels = Mapping[str, figures.Drawing | None]  # by title; None: its numbers are not there


@dataclass(frozen=True)
class Printed:
    """A number that the paper prints, and ours.

    Attributes:
        what: It is.
        published: As the paper has it.
        ours: None where runs are missing.
    """

    what: str
    published: str
    ours: Callable[[Filled], float | None]


@dataclass(frozen=True)
class ImageFigure:
    """A figure of a paper.

    Attributes:
        shows: What it shows in the paper.
        wanted: What is to be shown of a network, besides its ANN: for every part of the figure
            what is added to the network's name, and what is in it.
        values: The quantities of a run.
        panels: Of one part; the letters are put in front, in this order.
        columns: Panels beside one another, at most.
        printed: The numbers that the paper prints.
        notes: How the numbers are meant, and where our runs differ from the paper's.
        start: Words of a command that makes a first run.
    """

    shows: str
    wanted: Callable[[ImageNetwork], Sequence[tuple[str, Sequence[Wanted]]]]
    values: Callable[[Measured], Values]
    panels: Callable[[Filled], Panels]
    columns: int
    printed: Sequence[Printed]
    notes: Sequence[str]
    start: str


def write_figure(
    paper: str, number: int, figure: ImageFigure, folder: Path
) -> tuple[Path, list[str]]:
    """Draws a figure from the runs in a folder into paper/<paper>-figure<number> there.

    Args:
        paper: Key of `TITLES`.
        number: Of the figure.
        figure: What it shows.
        folder: Holds <name>/seed<k>, as classification lays them out.

    Returns:
        The path of the written README.md, and what was left out: a line each.

    Raises:
        UserError: There is nothing to draw, or a file of a run is damaged.
    """
    measured = read_measured(folder)
    parts = [
        filled
        for network in networks_of(measured)
        for suffix, wanted in figure.wanted(network)
        if (filled := _filled(network, suffix, wanted, figure.values)) is not None
    ]
    if not parts:
        words = [figure.start, *([] if _usual(folder) else [f"runs={shlex.quote(str(folder))}"])]
        raise UserError(
            f"no run in {folder} has what figure={number} of paper={paper} shows; this makes a "
            f"first one: python -m snn_rl.classify {' '.join(words)}"
        )
    parts = _numbered(parts)
    drawn: dict[str, figures.Drawing] = {}
    missing: list[str] = []
    taken = {(entry.directory, entry.stage) for entry in measured}
    for filled in parts:
        missing += [*_without_run(filled, folder, taken), *_unknown_training(filled)]
        panels = figure.panels(filled)
        for letter, (title, draw) in zip("abcdef", panels.items(), strict=False):
            head = f"({letter}) {title}" if len(panels) > 1 else title
            if draw is not None:
                drawn[f"{head}: {filled.name}"] = draw
            else:
                missing.append(f"{filled.name}: the panel {head}, for want of its numbers")
    target = folder / "paper" / f"{paper}-figure{number}"
    if drawn:
        figures.save(figures.grid(drawn, figure.columns), target / PICTURE)
    used = _used(parts)
    text = [
        f"# Figure {number} of [{paper.upper()}], from our runs",
        f"![{' | '.join(drawn)}]({PICTURE})" if drawn else "No panel can be drawn.",
        f"[{paper.upper()}]: *{TITLES[paper]}*. Its figure {number}: {figure.shows}",
        "## Beside the paper",
        _printed_table(figure.printed, parts),
        bullets(figure.notes),
        "## Numbers",
        *(_number_section(filled, used) for filled in parts),
        "Means over the runs whose numbers, of the table below, stand in brackets; of each run: "
        f"[{VALUES}]({VALUES}). –: there is none, or it is not known.",
        "## Runs",
        run_table(used, target),
        *(["## Left out", bullets(missing)] if missing else []),
    ]
    write_text(target / VALUES, _csv(parts, folder))
    write_text(target / README, "\n\n".join(text) + "\n")
    return target / README, missing


def scored(entry: Measured) -> dict[str, float | None]:
    """How well it classifies, and what."""
    return {ACCURACY: entry.accuracy, "test images": entry.images}


def spikes_by_layer(entry: Measured) -> dict[str, float | None]:
    """Spikes per neuron and image, over all hidden neurons and of every hidden layer.

    Of an ANN they are None.
    """
    layers = entry.spec.names()[:-1]
    if entry.stage == ANN:
        return dict.fromkeys([SPIKES, *map(layer_spikes, layers)])
    rates = entry.metrics.spike_rates
    total, neurons = spikes(entry.spec, rates)
    each = zip(map(layer_spikes, layers), rates, strict=True)
    return {SPIKES: total / neurons, **dict(each)}


def layer_spikes(layer: str) -> str:
    """Name of the quantity: spikes per neuron of one layer."""
    return f"{layer}: spikes"


def layer_panel(filled: Filled) -> figures.Drawing:
    """Draws the spikes per neuron of every hidden layer."""
    first = next(iter(filled.runs.values()))[0]
    layers = first.spec.names()[:-1]
    bars = filled.bars([layer_spikes(layer) for layer in layers])
    return lambda axes: figures.grouped_bars(axes, layers, bars, "spikes per neuron and image")


def resources(entry: Measured) -> dict[str, float | None]:
    """What a stage took: time per image, memory, and its training as a whole."""
    took = costs(entry.notes, entry.metrics)
    own = "fit" if entry.stage == ANN else "iir"
    return {
        EPOCHS: entry.epochs or None,
        BATCH: entry.settings.get(f"{own}.batch_size"),
        TRAINING: _times(took.training, 1000),
        INFERENCE: _times(took.inference, 1000),
        TRAINING_MEMORY: _times(took.training_memory, 2**-20),
        INFERENCE_MEMORY: _times(took.inference_memory, 2**-20),
        STAGE_TIME: _times(entry.notes.wall_s, 1 / 60),
    }


def _without_run(filled: Filled, folder: Path, taken: set[tuple[Path, str]]) -> list[str]:
    """What no run shows: lines, with the commands that make it.

    Args:
        filled: The part of the figure.
        folder: Of the runs.
        taken: Directories and their stages, or patterns of these; those of the commands are added.
    """
    lines = []
    analog = filled.network.analogs[0]
    for wanted in filled.wanted:
        if any(label == wanted.label for label, _ in filled.runs):
            continue
        directory = _free_directory(analog, wanted, folder, taken)
        taken.add((directory, wanted.stage))
        command = stage_command(analog, wanted.like or analog, wanted.words, directory)
        lines.append(f"{filled.name}: {wanted.label}, no run; this makes one: {command}")
    return lines


def _free_directory(
    analog: Measured, wanted: Wanted, folder: Path, taken: set[tuple[Path, str]]
) -> Path:
    """A directory for a run beside the ANN's, with a number if another has the first one.

    A stage that lies there would be one with other settings, and the command refused.
    """
    # the ANN's run lies in the folder itself, or in a folder of that, see `read_measured`
    name = f"{analog.directory.relative_to(folder).parts[0]}-{wanted.folder}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    directories = (folder / each / f"seed{analog.settings['seed']}" for each in names)
    return next(
        directory
        for directory in directories
        if not any(
            path == directory and (stage == wanted.stage or re.fullmatch(wanted.stage, stage))
            for path, stage in taken
        )
    )


def _unknown_training(filled: Filled) -> list[str]:
    """What trained without noting it: lines, where the figure shows it."""
    labels = dict.fromkeys(
        label for (label, _), each in filled.values.items() if any(TRAINING in v for v in each)
    )
    return [
        f"{filled.name}: training of {label}, not known (an imported ANN, whose own run is not "
        "here, or a run by an older version); train it anew"
        for label in labels
        if filled.mean(label, TRAINING) is None
    ]


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _filled(
    network: ImageNetwork,
    suffix: str,
    wanted: Sequence[Wanted],
    values: Callable[[Measured], Values],
) -> Filled | None:
    """A part of the figure with its runs; None if there is nothing but the ANN."""
    found: dict[Key, Sequence[Measured]] = {}
    for each in wanted:
        fitting = [
            entry
            for entry in network.stages
            if re.fullmatch(each.stage, entry.stage) and entry.has(each.settings)
        ]
        for timesteps in sorted({entry.timesteps for entry in fitting}):
            alike = [entry for entry in fitting if entry.timesteps == timesteps]
            found[each.label, timesteps] = best(alike)
    if not found:
        return None
    found = {(ANN_LABEL, 0): network.analogs, **found}
    taken = {key: [values(entry) for entry in entries] for key, entries in found.items()}
    return Filled(network.name + suffix, network, wanted, found, taken)


def _numbered(parts: Sequence[Filled]) -> list[Filled]:
    """With numbers behind a name that several of them have."""
    names = [filled.name for filled in parts]
    counts = [names[:i].count(name) for i, name in enumerate(names, start=1)]
    return [
        replace(filled, name=f"{filled.name} ({count})" if count > 1 else filled.name)
        for filled, count in zip(parts, counts, strict=True)
    ]


def _usual(folder: Path) -> bool:
    return folder == Path(Config.runs)


def _used(parts: Sequence[Filled]) -> list[Measured]:
    """Every run once, in the order in which they are shown."""
    used: list[Measured] = []
    for entry in chain.from_iterable(e for filled in parts for e in filled.runs.values()):
        if entry not in used:
            used.append(entry)
    return used


def _printed_table(printed: Sequence[Printed], parts: Sequence[Filled]) -> str:
    rows = [
        [entry.what, entry.published, *(_number(entry.ours(filled)) for filled in parts)]
        for entry in printed
    ]
    return table(["", "paper", *(f"ours, {filled.name}" for filled in parts)], rows)


def _number_section(filled: Filled, used: Sequence[Measured]) -> str:
    quantities = list(
        dict.fromkeys(chain.from_iterable(v for g in filled.values.values() for v in g))
    )
    rows = []
    for (label, timesteps), entries in filled.runs.items():
        numbers = ", ".join(str(used.index(entry) + 1) for entry in entries)
        row = [label, str(timesteps or "–"), f"[{numbers}]"]
        row += [_number(filled.mean(label, quantity, timesteps)) for quantity in quantities]
        rows.append(row)
    return f"### {filled.name}\n\n" + table(["", "T", "runs", *quantities], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _csv(parts: Sequence[Filled], folder: Path) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "label", "run", "stage", "T", "quantity", "value"])
    for filled in parts:
        for key, entries in filled.runs.items():
            for entry, values in zip(entries, filled.values[key], strict=True):
                run = entry.directory.relative_to(folder).as_posix()
                row = [filled.name, key[0], run, entry.stage, key[1] or ""]
                writer.writerows([*row, q, v] for q, v in values.items() if v is not None)
    return text.getvalue()
