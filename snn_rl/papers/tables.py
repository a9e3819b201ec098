"""Tables of classification accuracy: the paper's cells, and ours from recorded runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from snn_rl.papers import runs
from snn_rl.papers.page import Page
from snn_rl.reports.markdown import number, table

_OWN_CHAIN = "†"


class Cell(NamedTuple):
    """Accuracy in a table: the paper's in percent, and our stage.

    `settings` contains all settings that define the method. All others are listed as differences.
    """

    published: float | None
    stage: str
    settings: Mapping[str, Any]


def accuracy_rows(
    published: Sequence[tuple[Any, ...]], columns: Mapping[str, Mapping[str, Any]]
) -> list[list[str | Cell]]:
    """Returns one row per network and dataset.

    Args:
        published: Network, dataset, T if the stages depend on T, and accuracies in the paper.
        columns: Settings of each column, by the name of its stages, with {} in place of T.
    """
    rows: list[list[str | Cell]] = []
    for net, dataset, *T, values in published:
        rows.append([net, dataset, *map(str, T)])
        for value, (stage, settings) in zip(values, columns.items(), strict=True):
            of = {"net": net, "dataset": dataset}
            rows[-1].append(Cell(value, stage.format(*T), {**of, **settings}))
    return rows


@dataclass(frozen=True)
class AccuracyTable:
    """Description of a table, whose rows are names, followed by cells."""

    paper: runs.PaperSettings
    shows: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]

    def __call__(self, folder: Path) -> Page:
        """Makes the page from the runs in a folder; cells without a run stay empty."""
        scored = runs.read_images(folder)
        used: runs.Used = {}
        rows = [
            [cell if isinstance(cell, str) else _text(cell, scored, used) for cell in row]
            for row in self.rows
        ]
        sections = [
            table(self.head, rows, sum(isinstance(cell, str) for cell in self.rows[0])),
            "Published / ours, in percent of the test images. Ours is the mean over the runs in "
            "brackets, of the network at the end of the stage. –: missing.",
        ]
        if any(entry.own_chain for entry, _ in used.values()):
            sections.append(
                f"{_OWN_CHAIN}: not from the paper's chain (T5 from the ANN, every other T from "
                "T + 1), of which there is no run with as many images, but from the stages in the "
                "column *from*."
            )
        compared = self.paper.compared(used, scored)
        return Page(self.shows, sections, runs.image_table(used, folder), compared)


def _text(cell: Cell, scored: Sequence[runs.ScoredStage], used: runs.Used) -> str:
    """Returns the text of a cell, and adds its stages to those in use."""
    chosen = runs.best(e for e in scored if e.name == cell.stage and e.has(cell.settings))
    published = number(cell.published, ".2f")
    if not chosen:
        return f"{published} / –"
    for entry in chosen:
        used.setdefault(entry.directory, (entry, cell.settings))
    mark = _OWN_CHAIN if chosen[0].own_chain else ""
    ours = mean(entry.accuracy for entry in chosen)
    return f"{published} / **{ours:.2f}**{mark} {runs.numbers(chosen, used)}"
