"""The figures of a paper, drawn from the runs that lie here, with its printed numbers beside ours.

[IIR] has reinforcement learning in three: figure 3 (returns and spike rates, section 5), figure 5
(training on CartPole) and figure 6 (training on Pong, and conversion only; both appendix A.5).
"""

import csv
import io
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from snn_rl.agents import plan
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    GREEDY,
    STICKY,
    Invocation,
    StageResult,
    finished,
    read_invocations,
    read_stages,
)
from snn_rl.chain.stages import ANN, PRETRAINED, Stage
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.files.atomic import write_text
from snn_rl.papers.recorded_commands import given_settings
from snn_rl.papers.titles import TITLES
from snn_rl.reports import figures
from snn_rl.reports.markdown import bullets, code, listed, plain, table
from snn_rl.utils.errors import UserError

CARTPOLE, PONG = "CartPole-v1", "PongNoFrameskip-v4"
CONVERTED = "T100-converted"
PAPER = "iir"
README, PICTURE, RETURNS = "README.md", "figure.png", "returns.csv"

_GAMES = {CARTPOLE: "CartPole", PONG: "Pong"}
# of a recorded command: what says which stages it makes and where, instead of how
_WHICH = ("env", "T", "seed", "direct", "stages", "carry_state", "exact", "run_dir")
# settings that say which stage it is, and not how it was trained
_IDENTITY = ("env", "seed", "T", "source", "threads", "checkpoint_steps", "rollout.cap")


@dataclass(frozen=True)
class Published:
    """What a paper prints of one network.

    Attributes:
        returns: Mean and standard deviation over its trials; None if it prints none.
        rate: Spikes per neuron and decision, over all layers; None if it prints none.
    """

    returns: tuple[float, float] | None = None
    rate: float | None = None


# Source: [IIR], the numbers that its text prints: section 5, "Reinforcement learning" (20 trials),
# and appendix A.5. CartPole's 52.2 ± 4.3 stands there twice, for T3 (section 5) and for T5 (A.5.1).
PUBLISHED = {
    (CARTPOLE, ANN): Published((40.3, 4.8)),
    (CARTPOLE, "T1"): Published((38.7, 5.4)),
    (CARTPOLE, "T3"): Published((52.2, 4.3)),
    (CARTPOLE, "T5"): Published((52.2, 4.3)),
    (PONG, ANN): Published((19.7, 1.1)),
    (PONG, "T1"): Published((17.4, 3.2), rate=0.08),
    (PONG, "T5"): Published((19.4, 1.3), rate=0.42),
    (PONG, CONVERTED): Published((19.4, 1.3), rate=2.92),
}


@dataclass(frozen=True)
class Run:
    """One run of a game.

    Attributes:
        env: Its environment.
        seed: From the name of its directory.
        directory: Where it lies.
        invocations: Its run.json.
        stages: Its finished stages, by name.
    """

    env: str
    seed: int
    directory: Path
    invocations: list[Invocation]
    stages: dict[str, StageResult]


Runs = Mapping[str, Sequence[Run]]  # by environment, in the order of their seeds
Panel = tuple[str, figures.Drawing]  # with its title


@dataclass(frozen=True)
class PaperFigure:
    """What a figure of a paper needs.

    Attributes:
        shows: What it shows in the paper.
        stages: By environment, in the paper's order.
        columns: Panels beside one another, at most.
        curves: Whether it shows training.
    """

    shows: str
    stages: Mapping[str, tuple[str, ...]]
    columns: int
    curves: bool


FIGURES = {
    3: PaperFigure(
        "Mean return and standard deviation over 20 trials of the ANN and of the spiking networks "
        "(a) on CartPole (ANN, T1 and T3; the appendix adds T5, shown here too) and (b) on Pong; "
        "(c) the spikes of each layer with one timestep on Pong.",
        {CARTPOLE: (ANN, "T1", "T3", "T5"), PONG: (ANN, "T1", "T3", "T5")},
        columns=3,
        curves=False,
    ),
    5: PaperFigure(
        "Returns during 400 episodes of training on CartPole, and their mean so far: the ANN, and "
        "the spiking networks with 1, 3 and 5 timesteps.",
        {CARTPOLE: (ANN, "T1", "T3", "T5")},
        columns=2,
        curves=True,
    ),
    6: PaperFigure(
        "Returns during training on Pong: the ANN, and the spiking networks with 5, 3 and 1 "
        "timesteps; the returns of the ANN converted to 100 timesteps without any retraining, and "
        "the spikes of each of its layers.",
        {PONG: (ANN, "T5", "T3", "T1", CONVERTED)},
        columns=3,
        curves=True,
    ),
}


def write_figure(number: int, folder: Path) -> tuple[Path, list[str]]:
    """Draws a figure from the runs in a folder into paper/iir-figure<number> there.

    Args:
        number: Of the figure, in `FIGURES`.
        folder: Holds <env>/seed<k>, as training lays them out.

    Returns:
        The path of the written README.md, and what was left out: a line each, with the command
        that makes it.

    Raises:
        UserError: There is nothing to draw, or a file of a run is damaged.
    """
    figure = FIGURES[number]
    found = {env: read_runs(folder, env) for env in figure.stages}
    missing = _missing(figure, found, folder)
    panels = _panels(number, found)
    if not panels:
        commands = " and ".join(_command(env, folder, 0, []) for env in figure.stages)
        raise UserError(
            f"no finished run of {listed([*figure.stages], 'or')} in {folder}; this makes what "
            f"figure={number} needs: {commands}"
        )
    target = folder / "paper" / f"{PAPER}-figure{number}"
    figures.save(figures.grid(panels, figure.columns), target / PICTURE)
    write_text(target / RETURNS, _csv(figure, found))
    parts = [
        f"# Figure {number} of [IIR], from our runs",
        f"![{' | '.join(panels)}]({PICTURE})",
        f"[IIR]: *{TITLES[PAPER]}*. Its figure {number}: {figure.shows}",
        *_numbers_section(figure, found),
        *_difference_section(figure, found),
        *_run_section(found, target),
        *(["## Left out", bullets(missing)] if missing else []),
    ]
    write_text(target / README, "\n\n".join(parts) + "\n")
    return target / README, missing


def read_runs(folder: Path, env: str) -> list[Run]:
    """The runs of an environment, <folder>/<env>/seed<k>, in the order of their seeds.

    Raises:
        UserError: A file of a run is damaged, or their networks have different layers.
    """
    seeds = {}
    for path in (folder / env).glob("seed*/run.json"):
        match = re.fullmatch(r"seed(\d+)", path.parent.name)
        if match:
            seeds[int(match[1])] = path.parent
    found = []
    for seed, directory in sorted(seeds.items()):
        stages = {stage.name: stage for stage in finished(read_stages(directory))}
        if PRETRAINED in stages and ANN in stages:
            stages[ANN] = _whole_training(stages[PRETRAINED], stages[ANN])
        found.append(Run(env, seed, directory, read_invocations(directory), stages))
    layers = {tuple(s.spec.names()) for run in found for s in run.stages.values()}
    if len(layers) > 1:
        raise UserError(
            f"the runs in {folder / env} have networks with different layers, which no figure can "
            "show together: move some of them elsewhere"
        )
    return found


def _whole_training(pretrained: StageResult, ann: StageResult) -> StageResult:
    """The ANN with the training episodes of both its stages, one after the other."""
    if pretrained.counters is None or ann.counters is None:
        return ann
    first = pretrained.counters
    then = [[first.steps + step, *rest] for step, *rest in ann.counters.episodes]
    return replace(ann, counters=replace(ann.counters, episodes=[*first.episodes, *then]))


def _having(found: Runs, env: str, stage: str) -> list[StageResult]:
    """This finished stage, of every run that has it."""
    return [run.stages[stage] for run in found.get(env, ()) if stage in run.stages]


def _imported(stage: StageResult) -> bool:
    return stage.name == ANN and bool(stage.settings.get("ann"))


def _returns(stage: StageResult, column: str = GREEDY) -> list[float]:
    return stage.evaluation.columns[column].returns


def _episodes(stage: StageResult) -> list[list[float]]:
    """[agent step, return, length] of every episode that the stage was trained on."""
    if stage.counters is None or _imported(stage):
        return []
    return stage.counters.episodes


def _curves(results: Sequence[StageResult]) -> list[list[float]]:
    """Returns of the training episodes, of every run that has any."""
    curves = [[row[1] for row in _episodes(stage)] for stage in results]
    return [returns for returns in curves if returns]


# what is not there


def _missing(figure: PaperFigure, found: Runs, folder: Path) -> list[str]:
    """What the figure needs and no run has: a line each, with the command that makes it."""
    lines = []
    for env, stages in figure.stages.items():
        if not found[env]:
            lines.append(f"{_GAMES[env]}: no run; this makes one: {_command(env, folder, 0, [])}")
        for run in found[env]:
            absent = [name for name in stages if name not in run.stages]
            chain = [name for name in absent if name != CONVERTED]
            for names, converts in ((chain, False), ([CONVERTED], True)):
                if set(names) & set(absent):
                    command = _command(env, folder, run.seed, run.invocations, converts)
                    absent_names = listed(
                        [figures.label(name.split("-")[0]) for name in names], "and"
                    )
                    lines.append(
                        f"{_GAMES[env]}, seed {run.seed}: {absent_names}"
                        f"{' (conversion only)' if converts else ''}, not finished; this makes "
                        f"{'it' if len(names) == 1 else 'them'}: {command}"
                    )
            if figure.curves and ANN in run.stages and _imported(run.stages[ANN]):
                free = max(other.seed for other in found[env]) + 1
                lines.append(
                    f"{_GAMES[env]}, seed {run.seed}: the ANN's training, it was imported; this "
                    f"trains one: {_command(env, folder, free, [])}"
                )
        short = [
            name
            for name in stages
            if figure.curves and name not in (ANN, CONVERTED)
            if _having(found, env, name) and not _curves(_having(found, env, name))
        ]
        if short:
            free = max(run.seed for run in found[env]) + 1
            lines.append(
                f"{_GAMES[env]}: training with {listed(short, 'and')}, no episode ended in stages "
                f"so short; this makes longer ones: {_command(env, folder, free, [], steps=20_000)}"
            )
    return lines


def _command(
    env: str,
    folder: Path,
    seed: int,
    invocations: Sequence[Invocation],
    converts: bool = False,
    steps: int | None = None,
) -> str:
    """The command that trains a run to its end, with the settings it was begun with.

    Args:
        env: Its environment.
        folder: Of all runs.
        seed: Of the run.
        invocations: Its run.json; empty for a new run.
        converts: Whether it shall convert only, to 100 timesteps, instead.
        steps: Agent steps of each spiking stage; None: as the settings have it.
    """
    words = [f"env={env}", *(("T=100", "stages=none") if converts else ("T=1",))]
    if seed:
        words.append(f"seed={seed}")
    for invocation in reversed(invocations):
        *module, rest = invocation.command.split(" ", 3)
        if module[-1:] == ["snn_rl.train"]:
            given = given_settings(rest, _resolved(invocation.settings))
            words += [f"{key}={value}" for key, value in given.items() if key not in _WHICH]
            break
    if steps is not None:
        words += [f"iir.steps={steps}", "iir.t1_steps=0"]
    if folder != Path(Config.runs):
        words.append(f"run_dir={folder / env / f'seed{seed}'}")
    return f"python -m snn_rl.train {shlex.join(words)}"


def _resolved(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings by their full names."""
    settings = dict(nested)
    for section, group in nested.items():
        if isinstance(group, dict):
            settings |= {f"{section}.{name}": value for name, value in group.items()}
    return settings


# panels


def _panels(number: int, found: Runs) -> dict[str, figures.Drawing]:
    """What draws each panel, by title, with the paper's letters; without data there is none."""
    if number == 3:
        panels = [*_reward_panels(found), _rate_panel(found, "T1")]
    else:
        (env,) = FIGURES[number].stages
        panels = _training_panels(found, env, FIGURES[number].stages[env])
        if number == 6:
            panels.append(_rate_panel(found, CONVERTED))
    return {
        f"({letter}) {panel[0]}": panel[1]
        for letter, panel in zip("abcdef", panels, strict=False)
        if panel is not None
    }


def _reward_panels(found: Runs) -> list[Panel | None]:
    panels: list[Panel | None] = []
    for env, stages in FIGURES[3].stages.items():
        trials = {
            name: [_returns(stage) for stage in _having(found, env, name)]
            for name in stages
            if _having(found, env, name)
        }
        published = {
            name: entry.returns
            for (game, name), entry in PUBLISHED.items()
            if game == env and entry.returns is not None
        }
        draw = partial(figures.pooled_rewards, trials=trials, published=published)
        panels.append((_GAMES[env], draw) if trials else None)
    return panels


def _training_panels(found: Runs, env: str, stages: Sequence[str]) -> list[Panel | None]:
    panels: list[Panel | None] = []
    curves = {name: _curves(_having(found, env, name)) for name in stages}
    every = [value for group in curves.values() for returns in group for value in returns]
    for name in stages:
        title = f"{_GAMES[env]}, {_title(name)}"
        if name == CONVERTED and _having(found, env, name):
            games = [_returns(stage) for stage in _having(found, env, name)]
            panels.append((title, partial(figures.evaluation_games, stage=name, runs=games)))
        elif curves[name]:
            limits = (min(every), max(every))
            draw = partial(figures.training_curves, stage=name, runs=curves[name], limits=limits)
            panels.append((title, draw))
        else:
            panels.append(None)
    return panels


def _rate_panel(found: Runs, name: str) -> Panel | None:
    results = _having(found, PONG, name)
    if not results:
        return None
    draw = partial(
        figures.pooled_rates,
        stage=name,
        layers=[*results[0].spec.names()[:-1], "all"],
        rates=[[*stage.rates, stage.mean_rate] for stage in results],
        published=PUBLISHED[PONG, name].rate,
    )
    return f"{_GAMES[PONG]}, {_title(name)}: spikes", draw


def _title(name: str) -> str:
    return "T100, converted" if name == CONVERTED else figures.label(name)


# text


def _numbers_section(figure: PaperFigure, found: Runs) -> list[str]:
    head = ["game", "network", "paper", "ours", "games", "by seed", "ours, sticky"]
    head += ["paper, spikes", "ours, spikes"]
    if figure.curves:
        head += ["episodes", "their mean", f"mean of the last {figures.RUNNING}"]
    rows = []
    for env, stages in figure.stages.items():
        for name in stages:
            results = _having(found, env, name)
            entry = PUBLISHED.get((env, name), Published())
            row = [_GAMES[env], _title(name), _score(entry.returns), *["–"] * 4]
            row += [_number(entry.rate), "–"]
            if results:
                pooled = {
                    column: [value for stage in results for value in _returns(stage, column)]
                    for column in (GREEDY, STICKY)
                }
                distinct = sum(s.evaluation.greedy.distinct for s in results)
                row[3] = _score(figures.mean_and_std(pooled[GREEDY]))
                row[4] = f"{len(pooled[GREEDY])} ({distinct} distinct)"
                row[5] = _by_seed(found[env], name, lambda stage: _mean(_returns(stage)))
                row[6] = _score(figures.mean_and_std(pooled[STICKY]))
                if name != ANN:
                    row[8] = _number(sum(s.mean_rate for s in results) / len(results))
            if figure.curves:
                row += _curve_cells(found[env], name)
            rows.append(row)
    notes = [
        "Mean ± standard deviation of the return over games: in the paper over 20 trials, here "
        "(n - 1) over the greedy games of all seeds together. *By seed* has the mean of each.",
        "*Distinct* counts different games of one agent, action by action. *Sticky*: an action "
        "repeats the one before at random, which the paper does not have; agents meet it in "
        "training only where `rollout.sticky` says so below.",
        "*Spikes*: per neuron and decision, summed over timesteps, mean over all hidden neurons.",
        "–: not printed in the paper (nothing is read off its plots), or not there in our runs.",
    ]
    if (CARTPOLE in figure.stages) and "T5" in figure.stages[CARTPOLE]:
        notes.append(
            "The paper prints CartPole's 52.2 ± 4.3 twice: for T3 in section 5, for T5 in A.5.1."
        )
    if figure.curves:
        notes.append(
            "*Episodes* of training and the means of their returns, exploration included, by "
            "seed. An episode that a checkpoint or the stage's end cut off does not count, which "
            "favours short ones where a stage is short. The raw returns, and the steps at which "
            f"episodes ended: [{RETURNS}]({RETURNS})."
        )
    else:
        notes.append(f"The raw returns: [{RETURNS}]({RETURNS}).")
    return ["## Numbers", table(head, rows, names=2), bullets(notes)]


def _curve_cells(group: Sequence[Run], name: str) -> list[str]:
    """How many training episodes a stage has, their mean, and that of the last ones, by seed."""
    if name == CONVERTED:
        return ["–"] * 3

    def last(stage: StageResult) -> str:
        return _mean([row[1] for row in _episodes(stage)][-figures.RUNNING :])

    return [
        _by_seed(group, name, lambda stage: str(len(_episodes(stage)))),
        _by_seed(group, name, lambda stage: _mean([row[1] for row in _episodes(stage)])),
        _by_seed(group, name, last),
    ]


def _by_seed(group: Sequence[Run], name: str, tell: Callable[[StageResult], str]) -> str:
    told = [f"{run.seed}: {tell(run.stages[name])}" for run in group if name in run.stages]
    return ", ".join(told) or "–"


def _mean(values: Sequence[float]) -> str:
    return f"{figures.mean_and_std(values)[0]:z.1f}" if values else "–"


def _difference_section(figure: PaperFigure, found: Runs) -> list[str]:
    """Where our settings are not the paper's, and why."""
    notes = [
        "The paper does not say how its trials begin and end. Ours are whole, unclipped games, "
        "each from its own seed, without exploration.",
    ]
    if found.get(CARTPOLE):
        notes.append(
            "A game of CartPole ends after 500 steps at most. The paper's 40 to 52 stand beside "
            "its training curves too (A.5.1), ours are played when training is over."
        )
    if found.get(PONG):
        notes.append(
            "Pong has Stable-Baselines3's wrappers: up to 30 no-ops at the start, each action for "
            "four frames, and in training rewards clipped to their sign."
        )
    notes.append(
        "Thresholds are percentiles of the *positive* input currents; over all of them, as the "
        "paper has it, they come out negative in these networks, and nothing can be converted."
    )
    rows = []
    ours: dict[str, set[str]] = {}
    for env, stages in figure.stages.items():
        here = _our_settings(found, env, stages)
        theirs = _their_settings(env, stages)
        for key, values in here.items():
            ours.setdefault(key, set()).update(values)
            before = theirs.get(key, ["–"])
            nothing = set(values) <= {"null"} and set(before) <= {"–", "null"}
            if sorted(values) != sorted(before) and not nothing:
                rows.append([_GAMES[env], f"`{key}`", ", ".join(before), ", ".join(values)])
    notes += [text for keys, text in _REASONS if keys & {row[1].strip("`") for row in rows}]
    if any(_imported(s) for env in found for s in _having(found, env, ANN)):
        notes.append("An ANN was imported: its steps here only fill the replay buffer.")
    parts = ["## Where we differ from the paper", bullets(notes)]
    if rows:
        parts += [
            "Settings that are not the paper's, as `preset=paper` has them (what it leaves open is "
            "chosen there, and the source named):",
            table(["game", "setting", "paper", "ours"], rows, names=4),
        ]
    return parts


# why a setting is not the paper's, for whichever of these keys differs
_REASONS: tuple[tuple[set[str], str], ...] = (
    (
        {"rollout.frame_stack", "rollout.frames"},
        "The paper's agents see single frames of Pong, and differences of two on CartPole. One "
        "timestep has no memory, and a single frame shows no motion: our presets stack frames.",
    ),
    (
        {"dqn.n_steps"},
        "The ANN learns from returns over several steps, which reach it sooner than the paper's "
        "one-step targets.",
    ),
    (
        {"dqn.selection_games", "dqn.target_return"},
        "The ANN is the checkpoint that does best in games of seeds that are kept for this, and "
        "its training may end at a mean return: Q-learning unlearns, and the last network is "
        "rarely the best. The paper mentions no choice.",
    ),
    (
        {"iir.selection_games", "iir.selection_sticky_games"},
        "A long spiking stage keeps the checkpoint that does best too: greedy games of networks "
        "that hardly differ end in very different ways.",
    ),
    (
        {"iir.objective"},
        "The spiking stages are taught by the ANN (`iir.objective=distill`) where the paper has "
        "Q-learning: it takes a fraction of the games. docs/results/objectives.md measures both.",
    ),
    (
        {"teacher"},
        "Another ANN teaches (`teacher`, by the checksum of its file), where the paper has none.",
    ),
    (
        {"rollout.n_envs"},
        "Several games are played side by side; episodes are in the order in which they ended.",
    ),
)


def _our_settings(found: Runs, env: str, stages: Sequence[str]) -> dict[str, list[str]]:
    settings = [s.settings for name in stages for s in _having(found, env, name) if _trained(name)]
    return _values(settings)


def _their_settings(env: str, stages: Sequence[str]) -> dict[str, list[str]]:
    config = compose(Config, [f"env={env}", "preset=paper"])
    chain = [Stage.parse(name) for name in stages if _trained(name)]
    return _values([plan.stage_settings(config, stage) for stage in chain])


def _trained(name: str) -> bool:
    return name != CONVERTED


def _values(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Every value of each setting that says how a stage is trained, in the order of the stages."""
    values: dict[str, list[str]] = {}
    for entry in settings:
        for key, value in entry.items():
            if key in _IDENTITY or key in ("ann", "init"):
                continue
            text = plain(value)
            if text not in values.setdefault(key, []):
                values[key].append(text)
    return values


def _run_section(found: Runs, target: Path) -> list[str]:
    rows = []
    versions: dict[str, list[str]] = {}
    for env, group in found.items():
        for run in group:
            where = run_directory.link(run.directory, target)
            name = f"{_GAMES[env]}, seed {run.seed}"
            for entry in run.invocations:
                command, revision = code(entry.command), entry.revision or "unknown"
                rows.append([f"[{name}]({where})", command, revision, entry.time])
                listed = sorted(entry.versions.items())
                text = ", ".join(f"{package} {number}" for package, number in listed)
                text = f"{text}, on {entry.machine}"
                if name not in versions.setdefault(text, []):
                    versions[text].append(name)
    return [
        "## Runs",
        table(["run", "command", "revision", "time (UTC)"], rows, names=4),
        bullets(f"{'; '.join(names)}: {text}" for text, names in versions.items()),
    ]


def _csv(figure: PaperFigure, found: Runs) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["env", "run", "stage", "kind", "number", "step", "seed", "return", "length"])
    for env, stages in figure.stages.items():
        for run in found[env]:
            for stage in (run.stages[name] for name in stages if name in run.stages):
                if figure.curves:
                    for i, (step, value, length) in enumerate(_episodes(stage), start=1):
                        row = [env, run.seed, stage.name, "training", i, step, "", value, length]
                        writer.writerow(row)
                first = stage.evaluation.evaluation.seed
                for name, column in stage.evaluation.columns.items():
                    for i, value in enumerate(column.returns):
                        row = [env, run.seed, stage.name, name, i + 1, "", first + i, value]
                        writer.writerow([*row, column.lengths[i]])
    return text.getvalue()


def _score(values: tuple[float, float] | None) -> str:
    return "–" if values is None else f"{values[0]:z.1f} ± {values[1]:.1f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
