"""The papers' tables of classification accuracy, with our measured cells beside the published ones.

A cell is filled from the runs that lie in a folder, by the settings of their stages; it stays empty
where there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from snn_rl.chain.stages import ANN
from snn_rl.files.atomic import write_text
from snn_rl.papers.image_results import Measured, best, looked_in, read_measured, run_table
from snn_rl.papers.titles import TITLES
from snn_rl.reports.markdown import table

README = "README.md"


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        published: What the paper prints, in percent; None if nothing.
        stage: Name of the stage that has our number.
        wanted: Settings that the stage, or the ANN before it, was trained with.
    """

    published: float | None
    stage: str
    wanted: Mapping[str, Any]


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        shows: What the paper says it shows.
        head: Names of its columns.
        names: How many of them are names, not accuracies.
        rows: Names, then cells.
    """

    shows: str
    head: Sequence[str]
    names: int
    rows: Sequence[Sequence[str | Cell]]


_DIRECT = {"iir.encoding": "direct"}
_TIMESTEPS = (5, 4, 3, 2, 1)
_STRAYS = "†"


def _chain(published: Sequence[float | None], suffix: str = "", **wanted: Any) -> list[Cell]:
    """Cells of T5 to T1."""
    pairs = zip(_TIMESTEPS, published, strict=True)
    return [Cell(value, f"T{t}{suffix}", {**wanted, **_DIRECT}) for t, value in pairs]


def _iir_1() -> list[list[str | Cell]]:
    printed: list[tuple[str, str, list[float]]] = [
        ("vgg6", "cifar10", [91.59, 90.61, 90.52, 90.40, 90.05, 89.10]),
        ("vgg16", "cifar10", [94.10, 93.90, 93.87, 93.85, 93.72, 93.05]),
        ("resnet20", "cifar10", [93.34, 92.62, 92.58, 92.56, 92.11, 91.10]),
        ("vgg16", "cifar100", [72.46, 71.58, 71.51, 71.46, 71.43, 70.15]),
        ("resnet20", "cifar100", [65.90, 65.57, 65.37, 65.16, 64.86, 63.30]),
        ("vgg16", "imagenet", [70.08, 69.05, 69.03, 69.01, 68.62, 67.71]),
    ]
    rows: list[list[str | Cell]] = []
    for net, dataset, (first, *rest) in printed:
        wanted: dict[str, Any] = {
            "net": net,
            "dataset": dataset,
            "batch_norm": True,
            "pooling": "avg",
        }
        rows.append([net, dataset, Cell(first, ANN, wanted), *_chain(rest, **wanted)])
    return rows


def _iir_4() -> list[list[str | Cell]]:
    wanted: dict[str, Any] = {
        "net": "vgg6",
        "dataset": "cifar10",
        "batch_norm": True,
        "pooling": "avg",
    }
    gradual = _chain([90.61, 90.52, 90.40, 90.05, 89.10], **wanted)
    direct = _chain([90.15, 90.08, 89.91, 89.35, 88.64], suffix="-direct", **wanted)
    return [[str(t), g, d] for t, g, d in zip(_TIMESTEPS, gradual, direct, strict=True)]


def _iir_5() -> list[list[str | Cell]]:
    printed = {
        ("cifar10", True): [93.90, 93.87, 93.85, 93.72, 93.05],
        ("cifar10", False): [92.15, 91.95, 91.90, 91.88, 91.03],
        ("cifar100", True): [71.58, 71.51, 71.46, 71.43, 70.15],
        ("cifar100", False): [69.86, 69.84, 69.76, 69.30, 67.76],
    }
    columns = [
        _chain(values, net="vgg16", dataset=dataset, batch_norm=norm)
        for (dataset, norm), values in printed.items()
    ]
    return [[str(t), *cells] for t, *cells in zip(_TIMESTEPS, *columns, strict=True)]


def _iir_3() -> list[list[str | Cell]]:
    wanted: dict[str, Any] = {"dataset": "cifar10"}
    t1 = Cell(93.05, "T1", {**wanted, **_DIRECT, "net": "vgg16"})
    return [
        ["T1, vgg16", "cifar10", t1],
        ["binary activations from scratch, vgg16", "cifar10", _scratch(wanted, "vgg16")],
        ["T1, vgg6", "cifar10", Cell(89.10, "T1", {**wanted, **_DIRECT, "net": "vgg6"})],
        ["binary activations from scratch, vgg6", "cifar10", _scratch(wanted, "vgg6")],
    ]


def _scratch(wanted: Mapping[str, Any], net: str) -> Cell:
    return Cell(None, "T1-scratch", {**wanted, "net": net})


def _stdb_1() -> list[list[str | Cell]]:
    printed: list[tuple[str, str, int, list[float]]] = [
        ("vgg5", "cifar10", 75, [87.88, 87.64, 84.56, 86.91]),
        ("vgg9", "cifar10", 100, [91.45, 90.98, 87.31, 90.54]),
        ("vgg16", "cifar10", 100, [92.81, 92.48, 90.2, 91.13]),
        ("resnet8", "cifar10", 200, [91.35, 91.12, 89.5, 91.35]),
        ("resnet20", "cifar10", 250, [93.15, 92.94, 91.12, 92.22]),
        ("vgg11", "cifar100", 125, [71.21, 70.94, 65.52, 67.87]),
        ("resnet34", "imagenet", 250, [70.2, 65.1, 56.87, 61.48]),
        ("vgg16", "imagenet", 250, [69.35, 68.12, 62.73, 65.19]),
    ]
    return _converted(
        printed,
        ("T2500-converted",),
        {"batch_norm": False, "clip": False, "pixels": "symmetric"},
        {"iir.encoding": "poisson"},
    )


def _ull_1() -> list[list[str | Cell]]:
    printed: list[tuple[str, str, int, list[float]]] = [
        ("vgg11", "cifar10", 2, [90.76, 65.82, 89.39]),
        ("vgg11", "cifar10", 3, [91.10, 78.76, 89.79]),
        ("vgg16", "cifar10", 2, [93.26, 69.58, 91.79]),
        ("vgg16", "cifar10", 3, [93.26, 85.06, 91.93]),
        ("resnet20", "cifar10", 2, [93.07, 61.96, 90.00]),
        ("resnet20", "cifar10", 3, [93.07, 73.57, 90.06]),
        ("vgg16", "cifar100", 2, [68.45, 19.57, 64.19]),
        ("vgg16", "cifar100", 3, [68.45, 36.84, 63.92]),
        ("resnet20", "cifar100", 2, [63.88, 19.85, 57.81]),
        ("resnet20", "cifar100", 3, [63.88, 31.43, 59.29]),
    ]
    return _converted(
        printed,
        (),
        {"clip": True, "batch_norm": False, "pooling": "max"},
        {"iir.thresholds": "alpha_beta"},
    )


def _converted(
    printed: Sequence[tuple[str, str, int, Sequence[float]]],
    before: Sequence[str],
    analog: Mapping[str, Any],
    spiking: Mapping[str, Any],
) -> list[list[str | Cell]]:
    """Rows of: the ANN, the stages `before`, its conversion at T, and that trained."""
    rows: list[list[str | Cell]] = []
    for net, dataset, timesteps, values in printed:
        wanted = {"net": net, "dataset": dataset, **analog}
        stages = [ANN, *before, f"T{timesteps}-converted", f"T{timesteps}-direct"]
        cells = [
            Cell(value, stage, wanted if stage == ANN else {**wanted, **spiking})
            for value, stage in zip(values, stages, strict=True)
        ]
        rows.append([net, dataset, str(timesteps), *cells])
    return rows


TABLES: dict[tuple[str, int], PaperTable] = {
    ("iir", 1): PaperTable(
        "Top-1 accuracy of the ANN and of T timesteps, each initialized from the one before.",
        ["network", "data", "ANN", *(f"T{t}" for t in _TIMESTEPS)],
        2,
        _iir_1(),
    ),
    ("iir", 3): PaperTable(
        "One timestep against networks of binary activations (the paper's others are not ours to "
        "run; the VGG6 rows are of its table 1).",
        ["network", "data", "accuracy"],
        2,
        _iir_3(),
    ),
    ("iir", 4): PaperTable(
        "VGG6 on CIFAR-10: latency reduced gradually (g), and trained directly from the ANN (d).",
        ["T", "VGG6 g", "VGG6 d"],
        1,
        _iir_4(),
    ),
    ("iir", 5): PaperTable(
        "VGG16 with batch-norm in the ANN (bn), and without (nbn).",
        ["T", "CIFAR-10 bn", "CIFAR-10 nbn", "CIFAR-100 bn", "CIFAR-100 nbn"],
        1,
        _iir_5(),
    ),
    ("stdb", 1): PaperTable(
        "The ANN, its conversion at 2,500 timesteps, its conversion at T with scaled thresholds, "
        "and that trained by spike time.",
        ["network", "data", "T", "ANN", "T2500", "converted", "trained"],
        3,
        _stdb_1(),
    ),
    ("ull", 1): PaperTable(
        "The clipped ANN, its conversion by the alpha-beta search, and that trained.",
        ["network", "data", "T", "ANN", "converted", "trained"],
        3,
        _ull_1(),
    ),
}


def write_table(paper: str, number: int, folder: Path) -> Path:
    """Writes a table of a paper into paper/<paper>-table<number> of a folder of runs.

    Args:
        paper: Key of `TITLES`.
        number: Of the table, in `TABLES`.
        folder: Holds <dataset>-<net>/seed<k>, as classification lays them out, or runs themselves,
            as run_dir= may have put them.

    Returns:
        The path of the written README.md.

    Raises:
        UserError: A file of a run is damaged.
    """
    wanted = TABLES[paper, number]
    measured = read_measured(folder)
    used: list[Measured] = []
    rows = [
        [entry if isinstance(entry, str) else _text(entry, measured, used) for entry in row]
        for row in wanted.rows
    ]
    target = folder / "paper" / f"{paper}-table{number}"
    parts = [
        f"# Table {number} of [{paper.upper()}], with our runs",
        f"[{paper.upper()}]: *{TITLES[paper]}*. {wanted.shows}",
        table(wanted.head, rows, names=wanted.names),
        "Published / ours, in percent of the test images; ours is the mean over the runs that are "
        "named behind it, of the network at the end of its stage, scored once. –: not there.",
        *_strays(used),
        "## Runs",
        run_table(used, target) if used else "None of them has been run.",
        looked_in(folder),
    ]
    write_text(target / README, "\n\n".join(parts) + "\n")
    return target / README


def _strays(used: Sequence[Measured]) -> list[str]:
    """What the mark at some of the cells means."""
    if not any(entry.strays for entry in used):
        return []
    return [
        f"{_STRAYS}: not by the paper's chain, T5 from the ANN and every other T from T + 1, of "
        "which there is no run with as many images, but by the stages that stand under *from*."
    ]


def _text(cell: Cell, measured: Sequence[Measured], used: list[Measured]) -> str:
    chosen = best(e for e in measured if e.stage == cell.stage and e.has(cell.wanted))
    published = "–" if cell.published is None else f"{cell.published:.2f}"
    if not chosen:
        return f"{published} / –"
    for entry in chosen:
        if entry not in used:
            used.append(entry)
    numbers = ", ".join(str(used.index(entry) + 1) for entry in chosen)
    mark = _STRAYS if chosen[0].strays else ""
    return f"{published} / **{mean(entry.accuracy for entry in chosen):.2f}**{mark} [{numbers}]"
