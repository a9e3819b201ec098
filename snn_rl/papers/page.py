"""Pages that reproduce a figure or a table of a paper from recorded runs.

A figure or table is a function from the folder of all runs to a `Page`, registered in `MAKERS` by
its paper, kind, and number:

    MAKERS["iir", FIGURE, 3] = returns_and_spikes
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from snn_rl.chain import run_directory
from snn_rl.configs.schema import Config
from snn_rl.files.atomic import write_text
from snn_rl.reports.markdown import bullets, code, escape, link, listed, page, plain, table
from snn_rl.reports.panels import Drawing
from snn_rl.utils.errors import UserError

FIGURE, TABLE = "figure", "table"
README, PICTURE = "README.md", "figure.png"
TITLES = {
    "iir": "One Timestep is All You Need: Training Spiking Neural Networks with Ultra Low Latency "
    "(2021)",
    "stdb": "Enabling Deep Spiking Neural Networks with Hybrid Conversion and Spike Timing "
    "Dependent Backpropagation (ICLR 2020)",
    "ull": "Can Deep Neural Networks be Converted to Ultra Low-Latency Spiking Neural Networks? "
    "(2022)",
}

Key = tuple[str, str, int]  # paper, kind, and number
RunRow = tuple[str, Path, Sequence[str]]  # name, directory and other cells of a run
RunTable = tuple[Sequence[str], Sequence[RunRow], str]  # other columns, rows, and a note below

# Settings that identify a stage and its machine, but not the training method
_IDENTITY = {
    *("env", "seed", "T", "source", "training_images", "data"),
    *("threads", "workers", "checkpoint_steps", "rollout.cap"),
}


class Compared(NamedTuple):
    """Settings of a stage and those of the paper, by full name."""

    label: str  # name of the stage, or of a group of stages, in the page
    ours: Mapping[str, Any]
    paper: Mapping[str, Any]


def differences(stages: Iterable[Compared]) -> list[tuple[str, str, str, str]]:
    """Returns labels, setting, the paper's value and ours, for each recorded setting that differs.

    Several values of one label are listed together. Labels with the same values share a row, and
    "all" stands for several labels if there are no others.
    """
    stages = list(stages)
    every = {stage.label for stage in stages}
    found: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for label, ours, paper in stages:
        for key in (key for key in ours if key not in _IDENTITY and ours[key] != paper.get(key)):
            pair = found.setdefault((key, label), ([], []))
            for values, settings in zip(pair, (paper, ours), strict=True):
                value = plain(settings[key]) if key in settings else "–"
                values += [value] if value not in values else []
    rows: dict[tuple[str, str, str], list[str]] = {}
    for (key, label), (theirs, values) in found.items():
        rows.setdefault((key, ", ".join(theirs), ", ".join(values)), []).append(label)
    names = {row: "all" if 1 < len(of) == len(every) else ", ".join(of) for row, of in rows.items()}
    return [(names[row], *row) for row in rows]


@dataclass(frozen=True)
class Page:
    """Content of a page."""

    shows: str  # content of the figure or table in the paper
    sections: Sequence[str]  # paragraphs with the paper's numbers beside ours
    runs: RunTable
    compared: Sequence[Compared] = ()  # settings of the stages shown, beside the paper's
    labels: str = "runs"  # meaning of the labels in `compared`
    remarks: Sequence[str] = ()  # differences from the paper that are not settings, and reasons
    panels: Mapping[str, Drawing] = field(default_factory=dict)  # drawing functions, by title
    columns: int = 1  # maximum number of panels per row
    data: tuple[str, str] | None = None  # name and text of a file with all values in the figure
    # parts of the figure for which no run was found, with the commands that create the runs
    missing: Sequence[str] = ()


# Functions that create the pages, for the papers in `TITLES`
MAKERS: dict[Key, Callable[[Path], Page]] = {}


def requested(config: Config) -> Key | None:
    """Returns the figure or table that the settings request; None without a paper."""
    papers = listed(sorted(TITLES), "or")
    numbers = {FIGURE: config.figure, TABLE: config.table}
    asked = {kind: number for kind, number in numbers.items() if number is not None}
    if config.paper is None:
        if asked:
            words = " and ".join(f"{kind}={number}" for kind, number in asked.items())
            raise UserError(f"{words} needs a paper: use paper={papers}")
        return None
    paper = config.paper
    if paper not in TITLES:
        raise UserError(f"unknown paper={paper}: must be {papers}")
    known = {kind: sorted(n for p, k, n in MAKERS if (p, k) == (paper, kind)) for kind in numbers}
    choices = " or ".join(f"{kind}={listed(of, 'or')}" for kind, of in known.items())
    if len(asked) != 1:
        raise UserError(f"paper={paper} needs one figure or one table: use {choices}")
    ((kind, number),) = asked.items()
    if number not in known[kind]:
        raise UserError(f"{kind}={number} of paper={paper} is not reproduced: use {choices}")
    if config.env or config.run_dir:
        unused = f"env={config.env}" if config.env else f"run_dir={config.run_dir}"
        raise UserError(
            f"{unused} cannot be combined with paper={paper}, which uses all matching runs in a "
            f"folder: remove {unused}, and use runs=PATH to select another folder"
        )
    return paper, kind, number


def write_page(key: Key, folder: Path) -> tuple[Path, Sequence[str]]:
    """Writes a page and its figure from the runs in a folder.

    Returns:
        Path of the README.md in <folder>/paper/<paper>-<kind><number>, and the missing parts with
        the commands that create them.
    """
    paper, kind, number = key
    made = MAKERS[key](folder)
    target = folder / "paper" / f"{paper}-{kind}{number}"
    picture = "No panels: no matching runs were found." if kind == FIGURE else ""
    if made.panels:
        from snn_rl.reports import figures  # imports matplotlib

        figures.save(figures.grid(made.panels, made.columns), target / PICTURE)
        picture = f"![{' | '.join(map(escape, made.panels))}]({PICTURE})"
    if made.data is not None:
        name, text = made.data
        write_text(target / name, text)
    head, runs, note = made.runs
    rows = [
        [link(name, run_directory.link(directory, target)), *cells]
        for name, directory, cells in runs
    ]
    reference = f"[{paper.upper()}]"
    parts = [
        f"# {kind.capitalize()} {number} of {reference}, from our runs",
        picture,
        f"{reference}: *{TITLES[paper]}*. {kind.capitalize()} {number}: {made.shows}",
        *made.sections,
        *_differences(made),
        "## Runs",
        table(["run", *head], rows, names=1 + len(head)) if rows else "There are no runs.",
        note,
        *(["## Missing runs", bullets(map(escape, made.missing))] if made.missing else []),
    ]
    write_text(target / README, page(parts))
    return target / README, made.missing


def _differences(made: Page) -> list[str]:
    """Returns the section with the settings that differ from the paper's."""
    if not made.compared:
        return []
    rows = [[of, code(key), paper, ours] for of, key, paper, ours in differences(made.compared)]
    text = (
        "Settings that differ from the paper's, as set by its preset (the preset names the source "
        "of each setting that the paper leaves open):"
    )
    return [
        "## Differences from the paper",
        bullets(made.remarks),
        text if rows else "All recorded settings are those of the paper's preset.",
        table([made.labels, "setting", "paper", "ours"], rows, names=4) if rows else "",
    ]
