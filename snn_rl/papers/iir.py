"""[IIR]: figures of reinforcement learning, and tables of classification accuracy.

Figure 3 shows returns and spike rates (section 5), figure 5 training on CartPole, and figure 6
training on Pong and conversion without training (both appendix A.5).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import mean
from typing import Any

from snn_rl.agents import plan
from snn_rl.chain.records import StageResult
from snn_rl.chain.stages import ANN, Stage
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.core.conversion.thresholds import PERCENTILE, SEARCH
from snn_rl.papers.page import FIGURE, MAKERS, TABLE, Compared, Page, RunRow, differences
from snn_rl.papers.runs import AgentRun, PaperSettings, decisive, read_agents, train_command
from snn_rl.papers.tables import AccuracyTable, Cell, accuracy_rows
from snn_rl.reports import panels
from snn_rl.reports.markdown import bullets, code, csv_text, escape, listed, number, table
from snn_rl.utils.errors import UserError

CARTPOLE, PONG = "CartPole-v1", "PongNoFrameskip-v4"
CONVERTED = "T100-converted"
RETURNS = "returns.csv"
_composed = cache(compose)
_GAMES = {CARTPOLE: "CartPole", PONG: "Pong"}

# Source: the numbers in the text of [IIR], section 5 "Reinforcement learning" (20 trials) and
# appendix A.5. CartPole's 52.2 ± 4.3 is printed for T3 (section 5) and for T5 (A.5.1).
# Mean and standard deviation of the return over the trials
PUBLISHED_RETURNS = {
    (CARTPOLE, ANN): (40.3, 4.8),
    (CARTPOLE, "T1"): (38.7, 5.4),
    (CARTPOLE, "T3"): (52.2, 4.3),
    (CARTPOLE, "T5"): (52.2, 4.3),
    (PONG, ANN): (19.7, 1.1),
    (PONG, "T1"): (17.4, 3.2),
    (PONG, "T5"): (19.4, 1.3),
    (PONG, CONVERTED): (19.4, 1.3),
}
# Spikes per neuron and decision, over all layers
PUBLISHED_RATES = {(PONG, "T1"): 0.08, (PONG, "T5"): 0.42, (PONG, CONVERTED): 2.92}

# reasons why our settings differ, for every group of settings
_REASONS = {
    ("rollout.frame_stack", "rollout.frames"): "The paper's agents receive single frames of Pong, "
    "and differences of two frames on CartPole. One timestep has no memory and a single frame "
    "shows no motion, so our presets stack frames.",
    ("dqn.n_steps",): "The ANN learns from n-step returns, which propagate rewards faster than the "
    "paper's one-step targets.",
    ("dqn.selection_games", "dqn.target_return"): "The ANN is the checkpoint with the best mean "
    "return over episodes of separate seeds, and its training may end at a target return, because "
    "Q-learning forgets and the last network is rarely the best. The paper mentions no selection.",
    ("iir.selection_games", "iir.selection_sticky_games"): "Long spiking stages select their best "
    "checkpoint, too, because greedy episodes of similar networks can end very differently.",
    ("iir.objective",): "The spiking stages are distilled from the ANN (`iir.objective=distill`) "
    "instead of trained by Q-learning, which takes a fraction of the steps. "
    "docs/results/ablations.md measures both.",
    ("teacher",): "Another network is the teacher: an ANN (`teacher`, by the checksum of its "
    "file) or a network that observes the emulator's state (`teacher=state`). The paper has no "
    "teacher.",
    ("rollout.n_envs",): "Several environments run in parallel. Episodes are in the order in which "
    "they ended.",
}

Panel = tuple[str, panels.Drawing | None]  # title; None without data
Stages = dict[int, StageResult]  # a stage of several runs, by their seeds


@dataclass(frozen=True)
class AgentFigure:
    """Runs of the agents in a figure, and the page about them.

    `stages` has the names of the stages by environment, in the paper's order.
    """

    folder: Path
    stages: Mapping[str, Sequence[str]]
    training: bool

    @cached_property
    def runs(self) -> dict[str, list[AgentRun]]:
        """Runs by environment."""
        return {env: read_agents(self.folder, env) for env in self.stages}

    @cached_property
    def shown(self) -> list[tuple[str, str, Stages]]:
        """Environment, name and finished stages of every network, in the paper's order."""
        return [
            (env, name, {r.seed: r.stages[name] for r in self.runs[env] if name in r.stages})
            for env, names in self.stages.items()
            for name in names
        ]

    def page(self, shows: str, columns: int, drawn: Sequence[Panel]) -> Page:
        """Makes the page of panels in the paper's order, at most `columns` in a row."""
        lettered = zip("abcdef", drawn, strict=False)
        known = {f"({x}) {title}": draw for x, (title, draw) in lettered if draw is not None}
        if not known:
            commands = [train_command(self.folder, env, 0) for env in self.stages]
            raise UserError(
                f"no finished run of {listed([*self.stages], 'or')} in {self.folder}. To make the "
                f"runs of this figure: {' and '.join(commands)}"
            )
        rows: list[RunRow] = []
        versions: dict[str, list[str]] = {}
        for env, run in ((env, run) for env, runs in self.runs.items() for run in runs):
            name = f"{_GAMES[env]}, seed {run.seed}"
            for entry in run.invocations:
                cells = [code(entry.command), entry.revision or "unknown", entry.time]
                rows.append((name, run.directory, cells))
                packages = [f"{key} {value}" for key, value in sorted(entry.versions.items())]
                names = versions.setdefault(f"{', '.join(packages)}, on {entry.machine}", [])
                names += [name] if name not in names else []
        notes = (f"{'; '.join(names)}: {text}" for text, names in versions.items())
        return Page(
            shows,
            self._numbers(),
            (["command", "revision", "time (UTC)"], rows, bullets(map(escape, notes))),
            compared=self._compared,
            labels="game",
            remarks=self._remarks(),
            panels=known,
            columns=columns,
            data=(RETURNS, self._csv()),
            missing=[line for env in self.stages for line in self._missing(env)],
        )

    # panels

    def returns_panel(self, env: str) -> Panel:
        """Returns the panel with the returns of every network."""
        returns = {
            name: [stage.evaluation.greedy.returns for stage in stages.values()]
            for other, name, stages in self.shown
            if other == env and stages
        }
        published = {name: score for (of, name), score in PUBLISHED_RETURNS.items() if of == env}
        draw = partial(panels.pooled_returns, returns=returns, published=published)
        return _GAMES[env], draw if returns else None

    def rate_panel(self, env: str, name: str) -> Panel:
        """Returns the panel with the spikes of every layer."""
        title = f"{_GAMES[env]}, {_label(name)}: spikes"
        results = [run.stages[name] for run in self.runs[env] if name in run.stages]
        if not results:
            return title, None
        layers = [*results[0].spec.names()[:-1], "all"]
        rates = [[*stage.rates, stage.mean_rate] for stage in results]
        published = PUBLISHED_RATES[env, name]
        return title, lambda axes: panels.pooled_rates(axes, name, layers, rates, published)

    def training_panels(self) -> list[Panel]:
        """Returns the panels with the training of every network, or its evaluation."""
        curves = [[c for c in map(_curve, stages.values()) if c] for _, _, stages in self.shown]
        every = [value for runs in curves for returns in runs for value in returns]
        found: list[Panel] = []
        for (env, name, stages), runs in zip(self.shown, curves, strict=True):
            draw: panels.Drawing | None = None
            if name == CONVERTED and stages:
                returns = [stage.evaluation.greedy.returns for stage in stages.values()]
                draw = partial(panels.evaluation_episodes, stage=name, runs=returns)
            elif runs:
                limits = (min(every), max(every))
                draw = partial(panels.training_curves, stage=name, runs=runs, limits=limits)
            found.append((f"{_GAMES[env]}, {_label(name)}", draw))
        return found

    # text

    def _missing(self, env: str) -> list[str]:
        """Returns what no run of an environment shows, with the commands that show it."""
        game, runs = _GAMES[env], self.runs[env]
        command = partial(train_command, self.folder, env)
        if not runs:
            return [f"{game}: there is no run. Command: {command(0)}"]
        unused = max(run.seed for run in runs) + 1
        lines = []
        for run in runs:
            start, given = f"{game}, seed {run.seed}", (run.seed, run.invocations)
            absent = [name for name in self.stages[env] if name not in run.stages]
            trained = [_label(name) for name in absent if name != CONVERTED]
            if trained:
                names, verb = listed(trained, "and"), "is" if len(trained) == 1 else "are"
                lines.append(f"{start}: {names} {verb} not finished. Command: {command(*given)}")
            if CONVERTED in absent:
                converts = command(*given, "T=100", "stages=none")
                lines.append(f"{start}: {CONVERTED} is not finished. Command: {converts}")
            if self.training and ANN in run.stages and _imported(run.stages[ANN]):
                lines.append(f"{start}: the ANN was imported. To train one: {command(unused)}")
        short = [
            name
            for other, name, stages in self.shown
            if self.training and other == env and name not in (ANN, CONVERTED) and stages
            if not any(map(_curve, stages.values()))
        ]
        if short:
            longer = command(unused, (), "T=1", "iir.steps=20000", "iir.t1_steps=0")
            names = listed(short, "and")
            lines.append(f"{game}: {names} trained for less than an episode. Command: {longer}")
        return lines

    def _numbers(self) -> list[str]:
        head = ["game", "network", "paper", "ours", "episodes", "by seed", "ours, sticky"]
        head += ["paper, spikes", "ours, spikes"]
        if self.training:
            head += ["training episodes", "their mean", f"mean of the last {panels.RUNNING}"]
        rows = []
        for env, name, stages in self.shown:
            results = [stage.evaluation for stage in stages.values()]
            greedy = [value for result in results for value in result.greedy.returns]
            sticky = [value for result in results for value in result.sticky.returns]
            distinct = sum(result.greedy.distinct for result in results)
            rates = [stage.mean_rate for stage in stages.values() if name != ANN]
            row = [
                _GAMES[env],
                _label(name),
                _score(PUBLISHED_RETURNS.get((env, name))),
                _score(panels.mean_and_std(greedy) if greedy else None),
                f"{len(greedy)} ({distinct} distinct)" if greedy else "–",
                _by_seed(stages, lambda stage: _mean(stage.evaluation.greedy.returns)),
                _score(panels.mean_and_std(sticky) if sticky else None),
                number(PUBLISHED_RATES.get((env, name)), ".2f"),
                number(mean(rates) if rates else None, ".2f"),
            ]
            if self.training:
                trained = stages if name != CONVERTED else {}
                row.append(_by_seed(trained, lambda stage: str(len(_curve(stage)))))
                row.append(_by_seed(trained, lambda stage: _mean(_curve(stage))))
                row.append(_by_seed(trained, lambda s: _mean(_curve(s)[-panels.RUNNING :])))
            rows.append(row)
        notes = {
            "Mean ± standard deviation of the return: over 20 trials in the paper, over the greedy "
            "episodes of all seeds (n - 1) here. *By seed*: mean of each seed.": True,
            "*Distinct*: number of different episodes of one agent, compared action by action. "
            "*Sticky*: an action repeats the previous one at random, which the paper does not do. "
            "Agents are trained with sticky actions only if `rollout.sticky` says so below.": True,
            "*Spikes*: per neuron and decision, summed over the timesteps, mean over all hidden "
            "neurons.": True,
            "–: not printed in the paper (no number is read off a plot), or missing in our "
            "runs.": True,
            "The paper prints CartPole's 52.2 ± 4.3 twice: for T3 in section 5, for T5 in "
            "A.5.1.": CARTPOLE in self.stages,
            "*Training episodes* and their mean returns, by seed, include exploration. Episodes "
            "that a checkpoint or the end of the stage cut off do not count, which favors short "
            "episodes in short stages.": self.training,
            f"All returns: [{RETURNS}]({RETURNS}).": True,
        }
        shown = (note for note, applies in notes.items() if applies)
        return ["## Numbers", table(head, rows, names=2), bullets(shown)]

    @cached_property
    def _compared(self) -> list[Compared]:
        """Settings of the stages beside the paper's, by game."""
        return [
            Compared(
                _GAMES[env],
                decisive(each.stage, each.settings),
                plan.stage_settings(_composed(Config, (f"env={env}", "preset=paper")), each.stage),
            )
            for env, name, stages in self.shown
            for each in stages.values()
        ]

    def _remarks(self) -> list[str]:
        """Returns other differences from the paper, and reasons."""
        different = {key for _, key, _, _ in differences(self._compared)}
        notes = {
            "The paper does not say how its trials start and end. Ours are unclipped episodes, "
            "each with its own seed, without exploration.": True,
            "An episode of CartPole ends after at most 500 steps. The paper prints its 40 to 52 "
            "beside training curves, too (A.5.1). Ours are evaluated after "
            "training.": CARTPOLE in self.stages,
            "Pong has Stable-Baselines3's wrappers: up to 30 no-ops at the start, every action for "
            "four frames, and rewards clipped to their sign during training.": PONG in self.stages,
            "Thresholds are percentiles of the *positive* input currents. Percentiles of all input "
            "currents, as in the paper, are negative in these networks, which prevents "
            "conversion.": True,
            **{text: bool(different & {*keys}) for keys, text in _REASONS.items()},
            "An ANN was imported. Its agent steps only fill the replay buffer.": any(
                _imported(stage) for _, _, stages in self.shown for stage in stages.values()
            ),
        }
        return [note for note, applies in notes.items() if applies]

    def _csv(self) -> str:
        rows: list[list[Any]] = []
        for env, name, stages in self.shown:
            for seed, stage in stages.items():
                start = [env, seed, name]
                training = _episodes(stage) if self.training else []
                for i, (step, *episode) in enumerate(training, start=1):
                    rows.append([*start, "training", i, step, "", *episode])
                first = stage.evaluation.evaluation.seed
                for kind, column in stage.evaluation.columns.items():
                    for i, played in enumerate(zip(column.returns, column.lengths, strict=True)):
                        rows.append([*start, kind, i + 1, "", first + i, *played])
        head = ["env", "run", "stage", "kind", "number", "step", "seed", "return", "length"]
        return csv_text(head, rows)


def _label(name: str) -> str:
    return "T100, converted" if name == CONVERTED else Stage.parse(name).label


def _imported(stage: StageResult) -> bool:
    return stage.name == ANN and bool(stage.settings.get("ann"))


def _episodes(stage: StageResult) -> list[list[float]]:
    """Returns [agent step, return, length] of the stage's training episodes."""
    return [] if stage.counters is None or _imported(stage) else stage.counters.episodes


def _curve(stage: StageResult) -> list[float]:
    return [row[1] for row in _episodes(stage)]


def _by_seed(stages: Stages, text: Callable[[StageResult], str]) -> str:
    return ", ".join(f"{seed}: {text(stage)}" for seed, stage in stages.items()) or "–"


def _mean(values: Sequence[float]) -> str:
    return f"{mean(values):z.1f}" if values else "–"


def _score(values: tuple[float, float] | None) -> str:
    return "–" if values is None else f"{values[0]:z.1f} ± {values[1]:.1f}"


_NETWORKS = (ANN, "T1", "T3", "T5")


def returns_and_spikes(folder: Path) -> Page:
    """Figure 3: returns on CartPole and Pong, and the spikes of every layer."""
    figure = AgentFigure(folder, {CARTPOLE: _NETWORKS, PONG: _NETWORKS}, training=False)
    drawn = [figure.returns_panel(CARTPOLE), figure.returns_panel(PONG)]
    return figure.page(
        "Mean return and standard deviation over 20 trials of the ANN and of the spiking networks "
        "(a) on CartPole (ANN, T1 and T3; the appendix adds T5, shown here, too) and (b) on Pong; "
        "(c) spikes of each layer with one timestep on Pong.",
        3,
        [*drawn, figure.rate_panel(PONG, "T1")],
    )


def training_on_cartpole(folder: Path) -> Page:
    """Figure 5: training on CartPole."""
    figure = AgentFigure(folder, {CARTPOLE: _NETWORKS}, training=True)
    return figure.page(
        "Returns during 400 episodes of training on CartPole, and their mean so far: the ANN, and "
        "the spiking networks with 1, 3 and 5 timesteps.",
        2,
        figure.training_panels(),
    )


def training_on_pong(folder: Path) -> Page:
    """Figure 6: training on Pong, and conversion without training."""
    figure = AgentFigure(folder, {PONG: (ANN, "T5", "T3", "T1", CONVERTED)}, training=True)
    return figure.page(
        "Returns during training on Pong: the ANN, and the spiking networks with 5, 3 and 1 "
        "timesteps; returns of the ANN converted to 100 timesteps without retraining, and the "
        "spikes of each of its layers.",
        3,
        [*figure.training_panels(), figure.rate_panel(PONG, CONVERTED)],
    )


MAKERS["iir", FIGURE, 3] = returns_and_spikes
MAKERS["iir", FIGURE, 5] = training_on_cartpole
MAKERS["iir", FIGURE, 6] = training_on_pong


# tables of classification accuracy

_PAPER = PaperSettings("paper")
_LAYERS = {"pooling": "avg", "clip": False, "pixels": "standard"}
_SPIKING = {
    "iir.encoding": "direct",
    "iir.thresholds": PERCENTILE,
    "iir.threshold_scale": 1.0,
    "iir.thresholds_from": None,
    "iir.block_thresholds": SEARCH,
    "iir.train_threshold": True,
}
_SCRATCH = {**_LAYERS, **_SPIKING}
_ANALOG = {**_LAYERS, "batch_norm": True}
_TRAINED = {**_ANALOG, **_SPIKING}
_WITHOUT_BN = {**_TRAINED, "batch_norm": False}
_VGG6, _VGG16 = ({"net": net, "dataset": "cifar10"} for net in ("vgg6", "vgg16"))
_VGG16_100 = {"net": "vgg16", "dataset": "cifar100"}
_CHAIN = ("T5", "T4", "T3", "T2", "T1")


def _columns(*columns: tuple[str, Mapping[str, Any], Sequence[float]]) -> list[list[str | Cell]]:
    """Returns rows of T and cells from the columns: suffix of the stages, settings, accuracies."""
    rows: list[list[str | Cell]] = [[name[1:]] for name in _CHAIN]
    for suffix, settings, published in columns:
        for row, name, value in zip(rows, _CHAIN, published, strict=True):
            row.append(Cell(value, f"{name}{suffix}", settings))
    return rows


_TABLE_1 = [
    ("vgg6", "cifar10", (91.59, 90.61, 90.52, 90.40, 90.05, 89.10)),
    ("vgg16", "cifar10", (94.10, 93.90, 93.87, 93.85, 93.72, 93.05)),
    ("resnet20", "cifar10", (93.34, 92.62, 92.58, 92.56, 92.11, 91.10)),
    ("vgg16", "cifar100", (72.46, 71.58, 71.51, 71.46, 71.43, 70.15)),
    ("resnet20", "cifar100", (65.90, 65.57, 65.37, 65.16, 64.86, 63.30)),
    ("vgg16", "imagenet", (70.08, 69.05, 69.03, 69.01, 68.62, 67.71)),
]
MAKERS["iir", TABLE, 1] = AccuracyTable(
    _PAPER,
    "Top-1 accuracy of the ANN and of T timesteps, each network initialized from the previous one.",
    ["network", "data", "ANN", *_CHAIN],
    accuracy_rows(_TABLE_1, {ANN: _ANALOG, **dict.fromkeys(_CHAIN, _TRAINED)}),
)
MAKERS["iir", TABLE, 3] = AccuracyTable(
    _PAPER,
    "One timestep compared with networks of binary activations. The VGG6 rows are from table "
    "1. The paper's other networks are from other papers.",
    ["network", "data", "accuracy"],
    [
        [f"{name}, {net['net']}", "cifar10", Cell(value, stage, {**net, **settings})]
        for net, published in ((_VGG16, 93.05), (_VGG6, 89.10))
        for name, value, stage, settings in (
            ("T1", published, "T1", _TRAINED),
            ("binary activations from scratch", None, "T1-scratch", _SCRATCH),
        )
    ],
)
MAKERS["iir", TABLE, 4] = AccuracyTable(
    _PAPER,
    "VGG6 on CIFAR-10: timesteps reduced gradually (g), or trained directly from the ANN (d).",
    ["T", "VGG6 g", "VGG6 d"],
    _columns(
        ("", {**_VGG6, **_TRAINED}, (90.61, 90.52, 90.40, 90.05, 89.10)),
        ("-direct", {**_VGG6, **_TRAINED}, (90.15, 90.08, 89.91, 89.35, 88.64)),
    ),
)
MAKERS["iir", TABLE, 5] = AccuracyTable(
    _PAPER,
    "VGG16 from an ANN with batch norm (bn) or without (nbn).",
    ["T", "CIFAR-10 bn", "CIFAR-10 nbn", "CIFAR-100 bn", "CIFAR-100 nbn"],
    _columns(
        ("", {**_VGG16, **_TRAINED}, (93.90, 93.87, 93.85, 93.72, 93.05)),
        ("", {**_VGG16, **_WITHOUT_BN}, (92.15, 91.95, 91.90, 91.88, 91.03)),
        ("", {**_VGG16_100, **_TRAINED}, (71.58, 71.51, 71.46, 71.43, 70.15)),
        ("", {**_VGG16_100, **_WITHOUT_BN}, (69.86, 69.84, 69.76, 69.30, 67.76)),
    ),
)
