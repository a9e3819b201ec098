"""Figures of image classification: their parts, the runs that fill them, and their pages.

A figure compares an ANN with spiking networks that start from this ANN. Every network and ANN has
its own part of the figure.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from statistics import mean
from typing import Any

from snn_rl.configs.schema import Config
from snn_rl.papers import runs
from snn_rl.papers.page import Page
from snn_rl.papers.runs import ImageNetwork, ScoredStage
from snn_rl.reports.markdown import bullets, csv_text, escape, number, table
from snn_rl.reports.panels import Bars, Drawing, grouped_bars
from snn_rl.utils.errors import UserError

DATA = "values.csv"
ANN_LABEL = "ANN"

# quantities that several figures show
ACCURACY = "accuracy (%)"
TRAINING, INFERENCE = "training (ms / image)", "inference (ms / image)"
TRAINING_MEMORY, INFERENCE_MEMORY = "training (MiB)", "inference (MiB)"
STAGE_TIME = "training of the stage (min)"
SPIKES = "spikes / neuron"

TIME_NOTE = (
    "Times are per image: the time of an epoch divided by its images, including reading them. They "
    "depend on the machine and on the load of other processes."
)
MEMORY_NOTE = (
    "Memory is the peak memory of the GPU, or on a CPU that of the whole process, including "
    "libraries and training images."
)

Values = Mapping[str, float | None]  # by quantity; None if unknown
Panels = Mapping[str, Drawing | None]  # by title; None if the numbers are missing


@dataclass(frozen=True)
class Wanted:
    """Runs that one line, or one bar of every group, shows."""

    label: str  # name in the figure
    stage: str  # pattern of the stages' names
    settings: Mapping[str, Any]  # settings of the stages
    words: str  # settings of the command that makes the stages
    folder: str  # suffix of the folder of the command's run, behind the name of the ANN's folder
    like: ScoredStage | None = None  # stage whose command gives the other words; None for the ANN


Wants = Sequence[tuple[str, Sequence[Wanted]]]  # suffix of a part's name, and the runs to show


@dataclass(frozen=True)
class Part:
    """Part of a figure about one network.

    `runs` has the label, T, stage and values of every run, starting with the runs of the ANN.
    """

    name: str
    network: ImageNetwork
    wanted: Sequence[Wanted]
    runs: Sequence[tuple[str, int, ScoredStage, Values]]

    def of(self, label: str, T: int | None = None) -> list[tuple[ScoredStage, Values]]:
        """Returns the runs of a label, with any T or with one."""
        return [(e, v) for name, t, e, v in self.runs if name == label and T in (None, t)]

    def labels(self) -> list[str]:
        """Returns the labels that have runs."""
        return list(dict.fromkeys(label for label, *_ in self.runs))

    def mean(self, label: str, quantity: str, T: int | None = None) -> float | None:
        """Returns the mean over the runs with this quantity; None if no run has it."""
        each = (values.get(quantity) for _, values in self.of(label, T))
        known = [value for value in each if value is not None]
        return mean(known) if known else None

    def ratio(self, quantity: str, over: str, under: str) -> float | None:
        """Returns the ratio of two labels' means; None if one of them is unknown."""
        return quotient(self.mean(over, quantity), self.mean(under, quantity))

    def bars(self, quantities: Sequence[str]) -> list[Bars]:
        """Returns the bars of every label that has one of the quantities."""
        return [
            Bars(label, self.of(label)[0][0].name, heights)
            for label in self.labels()
            if (heights := [[v.get(q) for q in quantities] for _, v in self.of(label)])
            if any(height is not None for run in heights for height in run)
        ]


Printed = tuple[str, str, Callable[[Part], float | None]]  # name, the paper's text, our number


@dataclass(frozen=True)
class ImageFigure:
    """Description of a figure."""

    paper: runs.PaperSettings
    shows: str  # content of the figure in the paper
    wanted: Callable[[ImageNetwork], Wants]  # parts of the figure about a network
    values: Callable[[ScoredStage], Values]
    panels: Callable[[Part], Panels]  # letters are put before their titles
    columns: int  # maximum number of panels per row
    printed: Sequence[Printed]  # numbers in the paper
    notes: Sequence[str]  # explanations of the numbers, and differences from the paper
    start: str  # words of a command that makes a first run

    def __call__(self, folder: Path) -> Page:
        """Makes the page from the runs in a folder."""
        scored = runs.read_images(folder)
        parts = self._parts(scored)
        if not parts:
            other = "" if folder == Path(Config.runs) else f" runs={shlex.quote(str(folder))}"
            raise UserError(
                f"no run in {folder} fits this figure. To make a first run: "
                f"python -m snn_rl.classify {self.start}{other}"
            )
        drawn: dict[str, Drawing] = {}
        missing: list[str] = []
        taken = {(entry.run, entry.name) for entry in scored}
        for part in parts:
            missing += [*_without_run(part, folder, taken), *_unknown_training(part)]
            panels = self.panels(part)
            for letter, (title, draw) in zip("abcdef", panels.items(), strict=False):
                head = f"({letter}) {title}" if len(panels) > 1 else title
                if draw is not None:
                    drawn[f"{head}: {part.name}"] = draw
                else:
                    missing.append(f"{part.name}: the numbers of panel {head} are missing")
        used: runs.Used = {}
        for part in parts:
            methods = {wanted.label: wanted.settings for wanted in part.wanted}
            for label, _, entry, _ in part.runs:
                used.setdefault(entry.directory, (entry, methods.get(label, {})))
        rows = [
            [name, published, *(number(ours(part), ".4g") for part in parts)]
            for name, published, ours in self.printed
        ]
        sections = [
            "## Beside the paper",
            table(["", "paper", *(f"ours, {part.name}" for part in parts)], rows),
            bullets(self.notes),
            "## Numbers",
            *(_number_section(part, used) for part in parts),
            "Means over the runs in brackets, which refer to the table below. Values of each run: "
            f"[{DATA}]({DATA}). –: missing or unknown.",
        ]
        return Page(
            self.shows,
            sections,
            runs.image_table(used, folder),
            self.paper.compared(used, scored),
            panels=drawn,
            columns=self.columns,
            data=(DATA, _csv(parts, folder)),
            missing=missing,
        )

    def _parts(self, scored: Sequence[ScoredStage]) -> list[Part]:
        """Returns the parts with runs; several parts with the same name are numbered."""
        parts: list[Part] = []
        names: list[str] = []
        for network in runs.networks_of(scored):
            for suffix, wanted in self.wanted(network):
                found = [(ANN_LABEL, 0, entry, self.values(entry)) for entry in network.analogs]
                for each in wanted:
                    fitting = [
                        entry
                        for entry in network.stages
                        if re.fullmatch(each.stage, entry.name) and entry.has(each.settings)
                    ]
                    for T in sorted({entry.timesteps for entry in fitting}):
                        for entry in runs.best(e for e in fitting if e.timesteps == T):
                            found.append((each.label, T, entry, self.values(entry)))
                if len(found) > len(network.analogs):
                    names.append(network.name + suffix)
                    same = names.count(names[-1])
                    name = f"{names[-1]} ({same})" if same > 1 else names[-1]
                    parts.append(Part(name, network, wanted, found))
        return parts


def quotient(over: float | None, under: float | None) -> float | None:
    """Returns a quotient; None if one of the numbers is unknown or the divisor is 0."""
    return None if over is None or not under else over / under


# quantities of a stage


def scored_values(entry: ScoredStage) -> dict[str, float | None]:
    """Returns the accuracy and the number of test images."""
    return {ACCURACY: entry.accuracy, "test images": entry.score.images}


def spikes_by_layer(entry: ScoredStage) -> dict[str, float | None]:
    """Returns the spikes per neuron and image of all hidden layers; None for an ANN."""
    layers = map(_layer_spikes, entry.spec.names()[:-1])
    if entry.stage.analog:
        return dict.fromkeys([SPIKES, *layers])
    rates = entry.score.spike_rates
    total, neurons = entry.spikes
    return {SPIKES: total / neurons, **dict(zip(layers, rates, strict=True))}


def accuracy(label: str, T: int | None = None) -> Callable[[Part], float | None]:
    """Returns the function from a part to a label's mean accuracy, with any T or with one."""
    return lambda part: part.mean(label, ACCURACY, T)


def layer_panel(part: Part) -> Drawing:
    """Returns the function that draws the spikes per neuron of every hidden layer."""
    layers = part.network.analogs[0].spec.names()[:-1]
    bars = part.bars([_layer_spikes(layer) for layer in layers])
    return lambda axes: grouped_bars(axes, layers, bars, "spikes per neuron and image")


def _layer_spikes(layer: str) -> str:
    return f"{layer}: spikes"


def resources(entry: ScoredStage) -> dict[str, float | None]:
    """Returns the time and memory of a stage, and the time of its whole training."""
    scaled = {
        TRAINING: (entry.notes.seconds, 1000),
        INFERENCE: (entry.score.seconds, 1000),
        TRAINING_MEMORY: (entry.notes.memory, 2**-20),
        INFERENCE_MEMORY: (entry.score.memory, 2**-20),
        STAGE_TIME: (entry.notes.wall_s, 1 / 60),
    }
    batch_size = entry.settings.get(f"{'fit' if entry.stage.analog else 'iir'}.batch_size")
    return {
        "epochs": entry.epochs or None,
        "batch size": batch_size,
        **{key: None if value is None else value * unit for key, (value, unit) in scaled.items()},
    }


# missing runs


def _without_run(part: Part, folder: Path, taken: set[tuple[Path, str]]) -> list[str]:
    """Returns what no run shows in a part, with the commands that make the runs.

    `taken` holds the directories and their stages; the directories of the commands are added.
    """
    lines = []
    analog = part.network.analogs[0]
    for wanted in part.wanted:
        if part.of(wanted.label):
            continue
        name = f"{analog.run.relative_to(folder).parts[0]}-{wanted.folder}"
        names = chain([name], (f"{name}-{i}" for i in count(2)))
        # a stage that exists there has other settings, so the command would be refused
        directory = next(
            path
            for path in (folder / each / f"seed{analog.settings['seed']}" for each in names)
            if not any(
                path == other and (stage == wanted.stage or re.fullmatch(wanted.stage, stage))
                for other, stage in taken
            )
        )
        taken.add((directory, wanted.stage))
        command = runs.stage_command(analog, wanted.like or analog, wanted.words, directory)
        lines.append(f'{part.name}: no run for "{wanted.label}". Command: {command}')
    return lines


def _unknown_training(part: Part) -> list[str]:
    """Returns the labels whose training costs are shown, but were not recorded."""
    return [
        f"{part.name}: the training costs of {label} are unknown, because its run is in another "
        "folder or from an older version"
        for label in part.labels()
        if any(TRAINING in values for _, values in part.of(label))
        if part.mean(label, TRAINING) is None
    ]


# text


def _number_section(part: Part, used: runs.Used) -> str:
    quantities = list(dict.fromkeys(key for *_, values in part.runs for key in values))
    rows = []
    for label, T in dict.fromkeys((label, T) for label, T, *_ in part.runs):
        numbers = runs.numbers((entry for entry, _ in part.of(label, T)), used)
        means = [number(part.mean(label, quantity, T), ".4g") for quantity in quantities]
        rows.append([label, str(T or "–"), numbers, *means])
    return f"### {escape(part.name)}\n\n" + table(["", "T", "runs", *quantities], rows)


def _csv(parts: Sequence[Part], folder: Path) -> str:
    rows = []
    for name, (label, T, entry, values) in ((p.name, run) for p in parts for run in p.runs):
        run = entry.run.relative_to(folder).as_posix()
        start = [name, label, run, entry.name, T or ""]
        rows += [[*start, key, value] for key, value in values.items() if value is not None]
    return csv_text(["network", "label", "run", "stage", "T", "quantity", "value"], rows)
