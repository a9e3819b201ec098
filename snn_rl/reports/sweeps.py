"""Report of several runs with the same settings: interquartile means with bootstrap intervals.

Runs in sibling folders (runs/<env>/seed0, seed1, ...) belong to one task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
from snn_rl.chain.stages import ANN, Stage
from snn_rl.files.atomic import write_text
from snn_rl.reports.atari_scores import DQN, HUMAN, RANDOM, human_normalized, scores_of
from snn_rl.reports.markdown import bullets, code, csv_text, escape, page, table
from snn_rl.reports.statistics import (
    Scores,
    interquartile_mean,
    probability_of_improvement,
    stratified_interval,
)
from snn_rl.utils.errors import UserError

REPORT, SCORES, FIGURE, RUNS = "sweep.md", "sweep.csv", "sweep.png", "sweep-runs.png"
ACCURACY = "accuracy (%)"
_ANN = Stage.parse(ANN)
_PUBLISHED = {RANDOM: RANDOM, HUMAN: HUMAN, **DQN}  # columns: titles


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

    sweep-runs.png shows learning curves of agents, and their returns against energy. If classifiers
    were evaluated at several T, sweep.png shows their accuracy against T.

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
    parts += _figure(folder, tasks)
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


def _figure(folder: Path, tasks: Mapping[str, Sequence[Run]]) -> list[str]:
    """Draws the runs of agents."""
    agents = {
        _title(folder, name): [run.directory for run in members]
        for name, members in tasks.items()
        if any(GREEDY in scores for run in members for scores in run.scores.values())
    }
    if not agents:
        return []
    from snn_rl.reports import figures, sweep_figure  # import matplotlib

    figure = sweep_figure.draw(agents)
    if figure is None:
        return []
    figures.save(figure, folder / RUNS)
    return [
        f"![Training of the ANNs, and returns against energy]({RUNS})",
        "Left: training episodes of the ANN. Right: mean return with sticky actions and energy of "
        "one decision (float32, see the reports of the runs), one dot per run and stage.",
    ]


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
    """Returns the section with the scores of all Atari games and their aggregates.

    The section is empty unless there are several games with one task each.
    """
    known = [members for members in tasks if scores_of(members[0].subject) is not None]
    games = {members[0].subject: members for members in known}
    if len(games) < len(known):
        return []
    stages = _stages([run for members in known for run in members])
    rows = [row for stage in stages if (row := _aggregates(stage, games))]
    if not rows:
        return []
    head = ["stage", "games", "runs", "greedy, IQM", "sticky, IQM"]
    return [
        "## All Atari games",
        _games_table(games, stages),
        "The scores of the agents are interquartile means over the runs of a game. The other "
        "scores are published: a random player, a human, and DQN after 50 M agent steps without "
        "sticky actions (Mnih et al., 2015), and DQN after 1.5 M, 3 M, and 50 M agent steps with "
        "sticky actions (Dopamine; Castro et al., 2018).",
        table([*head, "sticky, relative to ANN", "P(stage > ANN)"], rows),
        "Scores in this table are human-normalized, in percent: 0 is a random player and 100 a "
        "human, with the reference scores of DQN Zoo. *Relative to ANN* is the score of a run "
        "divided by the score of its ANN, for ANNs better than the random player. "
        "*P(stage > ANN)* is the probability that a run of the stage scores higher than a run of "
        "the ANN with sticky actions, averaged over the games.",
    ]


def _aggregates(stage: Stage, games: Mapping[str, Sequence[Run]]) -> list[Any]:
    """Returns the row of a stage that was evaluated on several games; otherwise nothing."""
    strata: dict[str, list[Scores]] = {GREEDY: [], STICKY: []}
    relative: list[Scores] = []
    compared: list[tuple[Scores, Scores]] = []
    for env, members in games.items():
        scores = {column: _normalized(env, members, stage, column) for column in strata}
        for column, found in scores.items():
            if found:
                strata[column].append(np.array(list(found.values())))
        analog = _normalized(env, members, _ANN, STICKY)
        both = [
            100 * value / analog[k] for k, value in scores[STICKY].items() if analog.get(k, 0) > 0
        ]
        if both and stage != _ANN:
            relative.append(np.array(both))
            compared.append((strata[STICKY][-1], np.array(list(analog.values()))))
    if len(strata[GREEDY]) < 2:
        return []
    row = [stage.label, len(strata[GREEDY]), sum(map(len, strata[GREEDY]))]
    row += [_with_interval(each) for each in strata.values()]
    if not relative:
        return [*row, "–", "–"]
    chance, low, high = probability_of_improvement(compared)
    return [*row, _with_interval(relative), f"{chance:.2f} [{low:.2f}, {high:.2f}]"]


def _normalized(env: str, members: Sequence[Run], stage: Stage, column: str) -> dict[int, float]:
    """Returns the human-normalized scores of a stage in percent, by position of the run."""
    found = {}
    for k, run in enumerate(members):
        score = run.scores.get(stage, {}).get(column)
        value = None if score is None else human_normalized(env, score)
        if value is not None:
            found[k] = 100 * value
    return found


def _games_table(games: Mapping[str, Sequence[Run]], stages: Sequence[Stage]) -> str:
    """Returns the table with the scores of each game beside published scores."""
    everywhere = [
        stage
        for stage in stages
        if stage.gradual and all(stage in _stages(members) for members in games.values())
    ]
    shown = [_ANN, *everywhere[-1:]]
    rows = []
    for env, members in games.items():
        published = scores_of(env)
        assert published is not None
        row = [env.removesuffix("NoFrameskip-v4")]
        row += ["–" if (x := published[name]) is None else f"{x:,.1f}" for name in _PUBLISHED]
        for stage in shown:
            for column in (GREEDY, STICKY):
                found = [run.scores.get(stage, {}).get(column) for run in members]
                scores = np.array([score for score in found if score is not None])
                row.append(f"{interquartile_mean(scores):,.1f}" if scores.size else "–")
        rows.append(row)
    columns = [f"{stage.label} {column}" for stage in shown for column in (GREEDY, STICKY)]
    return table(["game", *_PUBLISHED.values(), *columns], rows)


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
