"""Several runs of the same settings put together: interquartile means with bootstrap intervals.

Runs that lie beside one another (runs/<env>/seed0, seed1, ...) are runs of one task. Their scores
are put together as R. Agarwal et al. (2021), *Deep Reinforcement Learning at the Edge of the
Statistical Precipice*, advise: the mean of the middle half, and percentile intervals of a bootstrap
over the runs, stratified by task. Their package, rliable, brings pandas, SciPy, seaborn and
statsmodels along; what is needed of it are the few lines of NumPy here.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    GREEDY,
    STICKY,
    Score,
    read_invocations,
    read_metrics,
    read_settings,
    stages_in,
)
from snn_rl.chain.runner import RECORDED_LATER
from snn_rl.chain.stages import Stage
from snn_rl.files.atomic import write_text
from snn_rl.reports import figures
from snn_rl.reports.human_scores import human_normalised
from snn_rl.reports.markdown import bullets, table
from snn_rl.utils.errors import UserError

REPORT, SCORES, FIGURE = "sweep.md", "sweep.csv", "sweep.png"
ACCURACY = "accuracy (%)"
_DRAWS = 10_000

Scores = NDArray[np.float64]


def interquartile_mean(scores: Scores) -> Scores:
    """Mean of the middle half of the scores.

    A quarter of them, rounded down, is left out at either end, so of fewer than four all stay.

    Args:
        scores: [..., N], N at least 1.

    Returns:
        [...].
    """
    count = scores.shape[-1]
    cut = count // 4
    middle: Scores = np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return middle


def stratified_interval(tasks: Sequence[Scores]) -> tuple[float, float]:
    """95 % interval of the interquartile mean over all tasks.

    A percentile bootstrap (10,000 draws, fixed seed) that draws as many runs of each task as there
    are.

    Args:
        tasks: The scores of each task's runs, [N] each.
    """
    rng = np.random.default_rng(0)
    draws = [rng.choice(scores, (_DRAWS, len(scores))) for scores in tasks]
    low, high = np.percentile(interquartile_mean(np.concatenate(draws, axis=1)), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Run:
    """What one run scored.

    Attributes:
        directory: Of the run.
        settings: Of its latest command.
        scores: By stage and column: mean returns of whole games, or accuracies in percent.
        stages: The settings that each of these stages was made with, but for its seed.
    """

    directory: Path
    settings: dict[str, Any]
    scores: dict[str, dict[str, float]]
    stages: dict[str, dict[str, Any]]


def write_sweep(folder: Path) -> Path:
    """Writes sweep.md and sweep.csv, of all runs below a folder, into it.

    Where classifiers have been scored at several T, also sweep.png: accuracy against T.

    Returns:
        The path of sweep.md.

    Raises:
        UserError: There is no run, or a file of one is damaged.
    """
    found = [_read_run(path.parent) for path in sorted(folder.rglob(run_directory.RUN))]
    if not found:
        raise UserError(
            f"sweep={folder}: no run lies there; this makes some: "
            f"python -m snn_rl.train -m env=CartPole-v1 T=1 seed=0,1,2 runs={folder}"
        )
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in found:
        parent = str(run.directory.parent.relative_to(folder))
        groups.setdefault((parent, _subject(run.settings)), []).append(run)
    parents = [parent for parent, _ in groups]
    tasks = {
        parent if parents.count(parent) == 1 else f"{_title(folder, parent)}, {subject}": members
        for (parent, subject), members in groups.items()
    }
    parts = [f"# {len(found)} runs in {folder.name or folder}"]
    for name, members in tasks.items():
        parts += _task_section(_title(folder, name), members)
    parts += [
        *_games_section(list(tasks.values())),
        *_timesteps_section(folder, tasks),
        bullets(
            [
                "Each run counts once, with the mean of its games: whole, unclipped ones, greedy "
                "and with sticky actions.",
                "IQM: mean of the middle half of the runs (Agarwal et al., 2021); of fewer than "
                "four runs all are in it. Intervals: 95 %, bootstrap over the runs (10,000 draws, "
                "stratified by game). Of a few runs they are narrower than they should be.",
                f"Every score: [{SCORES}]({SCORES}).",
            ]
        ),
    ]
    write_text(folder / SCORES, _csv(tasks))
    path = folder / REPORT
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _read_run(directory: Path) -> Run:
    settings = read_invocations(directory)[-1].settings
    scores: dict[str, dict[str, float]] = {}
    stages: dict[str, dict[str, Any]] = {}
    for stage in stages_in(directory, run_directory.METRICS):
        metrics = read_metrics(directory / stage.name)
        assert metrics is not None
        if isinstance(metrics, Score):
            scores[stage.name] = {ACCURACY: 100 * metrics.accuracy}
        else:
            scores[stage.name] = {name: each.mean for name, each in metrics.columns.items()}
        stages[stage.name] = read_settings(directory / stage.name)
        stages[stage.name].pop("seed", None)
    return Run(directory, settings, scores, stages)


def _subject(settings: dict[str, Any]) -> str:
    """What was learnt: runs of different games or networks have nothing to average."""
    return str(settings["env"] if "env" in settings else f"{settings['dataset']}-{settings['net']}")


def _title(folder: Path, task: str) -> str:
    """A task's name in the report; of runs that lie in the folder itself, the folder's."""
    return folder.name if task == "." else task


def _columns(members: Sequence[Run]) -> list[str]:
    present = {column for run in members for scores in run.scores.values() for column in scores}
    return [column for column in (GREEDY, STICKY, ACCURACY) if column in present]


def _stages(members: Sequence[Run]) -> list[str]:
    names = {stage for run in members for stage in run.scores}
    return sorted(names, key=lambda name: Stage.parse(name).order)


def _task_section(name: str, members: Sequence[Run]) -> list[str]:
    columns = _columns(members)
    rows = []
    for stage in _stages(members):
        done = [run.scores[stage] for run in members if stage in run.scores]
        row = [Stage.parse(stage).label, str(len(done))]
        for column in columns:
            scores = np.array([each[column] for each in done if column in each])
            row += [_with_interval([scores]), f"{scores.min():z.1f} to {scores.max():z.1f}"]
        rows.append(row)
    seeds = ", ".join(str(seed) for seed in sorted(run.settings["seed"] for run in members))
    if not rows:
        return [f"## {name}", f"Seeds {seeds}: no stage has been evaluated yet."]
    head = ["stage", "runs"]
    for column in columns:
        head += [f"{column}, IQM", "range"]
    return [f"## {name}", f"Seeds {seeds}.", table(head, rows), *_differences(members)]


def _differences(members: Sequence[Run]) -> list[str]:
    """A warning if runs beside one another differ in more than their seed."""
    different = set()
    for stage in _stages(members):
        settings = [run.stages[stage] for run in members if stage in run.stages]
        for key in {key for each in settings for key in each}:
            told = [each for each in settings if key in each or key not in RECORDED_LATER]
            if any(each.get(key) != told[0].get(key) for each in told):
                different.add(f"`{key}`")
    if not different:
        return []
    return [f"**These runs differ in more than their seed:** {', '.join(sorted(different))}."]


def _games_section(tasks: Sequence[Sequence[Run]]) -> list[str]:
    """All Atari games together, if there are several, each with runs of one kind."""
    envs = [str(members[0].settings.get("env")) for members in tasks]
    if any(envs.count(env) > 1 and human_normalised(env, 0.0) is not None for env in envs):
        return []
    normalised: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in (run for members in tasks for run in members):
        for stage, scores in run.scores.items():
            for column, score in scores.items():
                env = str(run.settings.get("env"))
                value = human_normalised(env, score)
                if value is not None:
                    games = normalised.setdefault(stage, {}).setdefault(column, {})
                    games.setdefault(env, []).append(100 * value)
    rows = []
    for stage, columns in normalised.items():
        strata = {
            c: [np.array(values) for values in games.values()] for c, games in columns.items()
        }
        if len(strata[GREEDY]) > 1:
            runs_in_all = sum(len(scores) for scores in strata[GREEDY])
            row = [Stage.parse(stage).label, len(strata[GREEDY]), runs_in_all]
            rows.append([*row, *(_with_interval(strata[c]) for c in (GREEDY, STICKY))])
    if not rows:
        return []
    return [
        "## All Atari games",
        "Human-normalised, in percent: 0 is a random player's score, 100 a human's, as DQN Zoo "
        "lists them.",
        table(["stage", "games", "runs", "greedy, IQM", "sticky, IQM"], rows),
    ]


def _timesteps_section(folder: Path, tasks: dict[str, list[Run]]) -> list[str]:
    """Accuracy against T, a line a task and kind of stage; those with a single T are left out."""
    lines: dict[str, dict[int, float]] = {}
    for name, members in tasks.items():
        for stage in _stages(members):
            T, kind = Stage.parse(stage).timesteps, Stage.parse(stage).kind
            done = [run.scores[stage].get(ACCURACY) for run in members if stage in run.scores]
            scores = [score for score in done if score is not None]
            if T is not None and scores:
                line = lines.setdefault(f"{_title(folder, name)}, {kind or 'trained'}", {})
                line[T] = float(interquartile_mean(np.array(scores)))
    several = {name: dict(sorted(line.items())) for name, line in lines.items() if len(line) > 1}
    if not several:
        return []
    figures.save(figures.scores_by_timesteps(several, ACCURACY), folder / FIGURE)
    columns = sorted({t for line in several.values() for t in line})
    rows = [
        [name, *(f"{line[t]:.1f}" if t in line else "" for t in columns)]
        for name, line in several.items()
    ]
    return [
        "## Accuracy against T",
        table(["runs", *(f"T={t}" for t in columns)], rows),
        f"![Accuracy against T]({FIGURE})",
    ]


def _with_interval(tasks: Sequence[Scores]) -> str:
    low, high = stratified_interval(tasks)
    middle = float(interquartile_mean(np.concatenate(tasks)))
    return f"{middle:z.1f} [{low:z.1f}, {high:z.1f}]"


def _csv(tasks: dict[str, list[Run]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "seed", "stage", "column", "score"])
    for name, members in tasks.items():
        for run in members:
            for stage, scores in run.scores.items():
                for column, score in scores.items():
                    writer.writerow([name, run.settings["seed"], stage, column, score])
    return text.getvalue()
