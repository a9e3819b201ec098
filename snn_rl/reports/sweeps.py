"""Report of several runs with the same settings: interquartile means with bootstrap intervals.

Runs in sibling folders (runs/<env>/seed0, seed1, ...) belong to one task. Scores are aggregated as
in R. Agarwal et al. (2021), *Deep Reinforcement Learning at the Edge of the Statistical
Precipice*: the mean of the middle half, with percentile bootstrap intervals over the runs,
stratified by task. The authors' package rliable is not used because it requires pandas, SciPy,
seaborn, and statsmodels.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
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
from snn_rl.reports.markdown import bullets, code, csv_text, escape, page, table
from snn_rl.utils.errors import UserError

REPORT, SCORES, FIGURE = "sweep.md", "sweep.csv", "sweep.png"
ACCURACY = "accuracy (%)"
_DRAWS = 10_000

Scores = NDArray[np.float64]


def interquartile_mean(scores: Scores) -> Scores:
    """Returns the mean of the middle half of the scores.

    A quarter of the scores, rounded down, is dropped at each end. With fewer than four scores,
    the result is the mean of all scores.

    Args:
        scores: Scores of shape [..., N], with N at least 1.

    Returns:
        Means of shape [...].
    """
    count = scores.shape[-1]
    cut = count // 4
    middle: Scores = np.sort(scores, axis=-1)[..., cut : count - cut].mean(axis=-1)
    return middle


def stratified_interval(tasks: Sequence[Scores]) -> tuple[float, float]:
    """Returns the 95% confidence interval of the interquartile mean over all tasks.

    The percentile bootstrap (10,000 draws, fixed seed) resamples the runs of each task with
    replacement.

    Args:
        tasks: Scores of the runs of each task, of shape [N].
    """
    rng = np.random.default_rng(0)
    draws = [rng.choice(scores, (_DRAWS, len(scores))) for scores in tasks]
    low, high = np.percentile(interquartile_mean(np.concatenate(draws, axis=1)), [2.5, 97.5])
    return float(low), float(high)


@cache
def human_scores() -> dict[str, tuple[float, float]]:
    """Returns the scores of a random player and of a human on 56 Atari games.

    Source: averages listed by DQN Zoo (https://github.com/google-deepmind/dqn_zoo,
    dqn_zoo/atari_data.py), without Surround, which has no NoFrameskip-v4 id. Episodes are
    unclipped, start with up to 30 no-ops, and last at most 108,000 frames.
    """
    text = (resources.files("snn_rl.reports") / "human_scores.csv").read_text()
    rows = csv.DictReader(text.splitlines())
    return {row["game"]: (float(row["random"]), float(row["human"])) for row in rows}


def human_normalized(env_id: str, score: float) -> float | None:
    """Returns the score scaled to 0 for a random player and 1 for a human.

    Args:
        env_id: Id of the environment.
        score: Mean return of unclipped episodes.

    Returns:
        Normalized score; None if the scores of the game are unknown.
    """
    game, suffix, _ = env_id.partition("NoFrameskip-v4")
    if not suffix or game not in human_scores():
        return None
    random, human = human_scores()[game]
    return (score - random) / (human - random)


@dataclass(frozen=True)
class Run:
    """Scores of one run.

    Attributes:
        directory: Directory of the run.
        settings: Settings of the latest command.
        scores: Mean returns of unclipped episodes or accuracies in percent, by stage and column.
        stages: Settings of these stages, excluding the seed.
    """

    directory: Path
    settings: dict[str, Any]
    scores: dict[Stage, dict[str, float]]
    stages: dict[Stage, dict[str, Any]]

    @property
    def subject(self) -> str:
        """Environment, or dataset and network. Different subjects are never averaged."""
        settings = self.settings
        return str(settings.get("env") or f"{settings['dataset']}-{settings['net']}")


def write_sweep(folder: Path) -> Path:
    """Writes sweep.md and sweep.csv for all runs in a folder.

    If classifiers were evaluated at several T, sweep.png shows their accuracy against T.

    Returns:
        Path of sweep.md.

    Raises:
        UserError: The folder contains no run, or a file of a run is damaged.
    """
    found = [_read_run(path.parent) for path in sorted(folder.rglob(run_directory.RUN))]
    if not found:
        raise UserError(
            f"sweep={folder}: the folder contains no run. To train runs: "
            f"python -m snn_rl.train -m env=CartPole-v1 T=1 seed=0,1,2 runs={folder}"
        )
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in found:
        parent = str(run.directory.parent.relative_to(folder))
        groups.setdefault((parent, run.subject), []).append(run)
    parents = [parent for parent, _ in groups]
    tasks = {
        parent if parents.count(parent) == 1 else f"{_title(folder, parent)}, {subject}": members
        for (parent, subject), members in groups.items()
    }
    parts = [f"# {len(found)} runs in {escape(folder.name or folder)}"]
    for name, members in tasks.items():
        parts += _task_section(_title(folder, name), members)
    notes = [
        "The score of a run is its mean over the unclipped evaluation episodes, greedy or with "
        "sticky actions.",
        "IQM is the mean of the middle half of the runs (Agarwal et al., 2021), or of all runs if "
        "there are fewer than four. Brackets are 95% confidence intervals (bootstrap over the "
        "runs, 10,000 draws, stratified by game). With few runs, the intervals are too narrow.",
        f"All scores: [{SCORES}]({SCORES}).",
    ]
    parts += [*_games_section(list(tasks.values())), *_timesteps_section(folder, tasks)]
    rows = [
        [name, run.settings["seed"], stage.name, column, score]
        for name, members in tasks.items()
        for run in members
        for stage, scores in run.scores.items()
        for column, score in scores.items()
    ]
    write_text(folder / SCORES, csv_text(["task", "seed", "stage", "column", "score"], rows))
    path = folder / REPORT
    write_text(path, page([*parts, bullets(notes)]))
    return path


def _read_run(directory: Path) -> Run:
    run = Run(directory, read_invocations(directory)[-1].settings, {}, {})
    for stage in stages_in(directory, run_directory.METRICS):
        metrics = read_metrics(directory / stage.name)
        assert metrics is not None
        if isinstance(metrics, Score):
            run.scores[stage] = {ACCURACY: 100 * metrics.accuracy}
        else:
            run.scores[stage] = {name: column.mean for name, column in metrics.columns.items()}
        settings = read_settings(directory / stage.name)
        run.stages[stage] = {key: value for key, value in settings.items() if key != "seed"}
    return run


def _title(folder: Path, task: str) -> str:
    """Returns the name of a task in the report; runs in the folder itself use its name."""
    return folder.name if task == "." else task


def _stages(members: Sequence[Run]) -> list[Stage]:
    return sorted({stage for run in members for stage in run.scores}, key=lambda each: each.order)


def _task_section(name: str, members: Sequence[Run]) -> list[str]:
    present = {column for run in members for scores in run.scores.values() for column in scores}
    columns = [column for column in (GREEDY, STICKY, ACCURACY) if column in present]
    rows = []
    for stage in _stages(members):
        done = [run.scores[stage] for run in members if stage in run.scores]
        row = [stage.label, str(len(done))]
        for column in columns:
            scores = np.array([each[column] for each in done if column in each])
            row += (
                [_with_interval([scores]), f"{scores.min():z.1f} to {scores.max():z.1f}"]
                if scores.size
                else ["–", "–"]
            )
        rows.append(row)
    title = f"## {escape(name)}"
    seeds = ", ".join(escape(seed) for seed in sorted(run.settings["seed"] for run in members))
    if not rows:
        return [title, f"Seeds {seeds}: no stage has been evaluated yet."]
    head = ["stage", "runs"]
    for column in columns:
        head += [f"{column}, IQM", "range"]
    return [title, f"Seeds {seeds}.", table(head, rows), *_differences(members)]


def _differences(members: Sequence[Run]) -> list[str]:
    """Returns a warning if the runs of a task differ in settings other than the seed."""
    different = set()
    for stage in _stages(members):
        settings = [run.stages[stage] for run in members if stage in run.stages]
        for key in {key for each in settings for key in each}:
            known = [each for each in settings if key in each or key not in RECORDED_LATER]
            if any(each.get(key) != known[0].get(key) for each in known):
                different.add(code(key))
    if not different:
        return []
    return [f"**These runs differ in more than their seed:** {', '.join(sorted(different))}."]


def _games_section(tasks: Sequence[Sequence[Run]]) -> list[str]:
    """Returns the section with human-normalized scores over all Atari games.

    The section is empty unless there are several games with one task each.
    """
    envs = [members[0].subject for members in tasks]
    if any(envs.count(env) > 1 and human_normalized(env, 0.0) is not None for env in envs):
        return []
    normalized: dict[Stage, dict[str, dict[str, list[float]]]] = {}
    for run in (run for members in tasks for run in members):
        for stage, scores in run.scores.items():
            for column, score in scores.items():
                value = human_normalized(run.subject, score)
                if value is not None:
                    games = normalized.setdefault(stage, {}).setdefault(column, {})
                    games.setdefault(run.subject, []).append(100 * value)
    rows = []
    for stage, columns in normalized.items():
        strata = {
            column: [np.array(values) for values in games.values()]
            for column, games in columns.items()
        }
        if len(strata.get(GREEDY, [])) > 1:
            runs = sum(len(scores) for scores in strata[GREEDY])
            cells = (_with_interval(strata[column]) for column in (GREEDY, STICKY))
            rows.append([stage.label, len(strata[GREEDY]), runs, *cells])
    if not rows:
        return []
    return [
        "## All Atari games",
        "Human-normalized scores in percent: 0 is a random player and 100 a human, with the "
        "reference scores of DQN Zoo.",
        table(["stage", "games", "runs", "greedy, IQM", "sticky, IQM"], rows),
    ]


def _timesteps_section(folder: Path, tasks: Mapping[str, Sequence[Run]]) -> list[str]:
    """Returns the section with accuracy against T, one line per task and kind of stage."""
    lines: dict[str, dict[int, float]] = {}
    for name, members in tasks.items():
        for stage in _stages(members):
            done = [run.scores[stage].get(ACCURACY) for run in members if stage in run.scores]
            scores = [score for score in done if score is not None]
            if stage.timesteps is not None and scores:
                line = lines.setdefault(f"{_title(folder, name)}, {stage.kind or 'trained'}", {})
                line[stage.timesteps] = float(interquartile_mean(np.array(scores)))
    several = {name: dict(sorted(line.items())) for name, line in lines.items() if len(line) > 1}
    if not several:
        return []
    from snn_rl.reports import figures  # imports matplotlib

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
