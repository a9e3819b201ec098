"""Which figure or table of which paper the settings ask for, and what makes it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from snn_rl.configs.schema import Config
from snn_rl.papers import agent_figures as paper_figures
from snn_rl.papers import image_figures
from snn_rl.papers import stdb as stdb_figures
from snn_rl.papers import tables as paper_tables
from snn_rl.papers import ull as ull_figures
from snn_rl.papers.titles import TITLES
from snn_rl.reports.markdown import listed
from snn_rl.utils.errors import UserError

# From the folder of all runs to the page that was written and what was left out, a line each.
Maker = Callable[[Path], tuple[Path, list[str]]]

FIGURE, TABLE = "figure", "table"
_IMAGES = {"ull": ull_figures.FIGURES, "stdb": stdb_figures.FIGURES}


def _table(paper: str, number: int, folder: Path) -> tuple[Path, list[str]]:
    return paper_tables.write_table(paper, number, folder), []


# By paper, kind and number.
MAKERS: dict[tuple[str, str, int], Maker] = {
    **{
        (paper_figures.PAPER, FIGURE, number): partial(paper_figures.write_figure, number)
        for number in paper_figures.FIGURES
    },
    **{
        (paper, FIGURE, number): partial(image_figures.write_figure, paper, number, figure)
        for paper, numbered in _IMAGES.items()
        for number, figure in numbered.items()
    },
    **{
        (paper, TABLE, number): partial(_table, paper, number)
        for paper, number in paper_tables.TABLES
    },
}


def chosen(config: Config) -> Maker | None:
    """What makes what the settings ask for; None if they ask for nothing of a paper.

    Raises:
        UserError: They ask for what is not made here, or for half of it, or for two at once.
    """
    papers = listed(sorted(TITLES), "or")
    asked = {
        kind: number
        for kind, number in ((FIGURE, config.figure), (TABLE, config.table))
        if number is not None
    }
    if config.paper is None:
        if asked:
            raise UserError(f"{_words(asked)} of which paper? Say paper={papers}")
        return None
    paper = config.paper
    if paper not in TITLES:
        raise UserError(f"unknown paper={paper}: must be {papers}")
    known = {
        kind: [number for key, of, number in MAKERS if (key, of) == (paper, kind)]
        for kind in (FIGURE, TABLE)
    }
    if not asked:
        say = " or ".join(f"{kind}={listed(of, 'or')}" for kind, of in known.items())
        raise UserError(f"which figure or table of paper={paper}? Say {say}")
    if len(asked) > 1:
        raise UserError(f"{_words(asked)} of paper={paper}: say one of them at a time")
    ((kind, number),) = asked.items()
    if number not in known[kind]:
        raise UserError(
            f"{kind}={number} of paper={paper} is not made here: must be one of "
            f"{', '.join(map(str, known[kind]))}"
        )
    for name, value in (("env", config.env), ("run_dir", config.run_dir)):
        if value:
            raise UserError(
                f"{name}={value} does not go with paper={paper}, which takes all runs that fit: "
                "leave it out; runs=PATH says in which folder they are"
            )
    return MAKERS[paper, kind, number]


def _words(asked: dict[str, int]) -> str:
    return " and ".join(f"{kind}={number}" for kind, number in asked.items())
