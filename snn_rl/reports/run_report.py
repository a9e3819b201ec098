"""Report of an agent's run: report.md, figures, and returns.csv with the return of each episode."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_rl.agents import plan
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    Evaluation,
    Invocation,
    StageEvaluation,
    StageResult,
    finished,
    read_invocations,
    read_metrics,
    read_stages,
    unless_damaged,
)
from snn_rl.chain.stages import ANN, TEACHER
from snn_rl.core.energy import FLOAT32, INT32, energy, skipping_energy
from snn_rl.files.atomic import write_text
from snn_rl.reports.markdown import (
    block,
    bullets,
    code,
    counted,
    csv_text,
    escape,
    folded,
    link,
    page,
    plain,
    table,
)
from snn_rl.reports.panels import RUNNING
from snn_rl.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RETURNS = "returns.csv"
_ARITHMETIC = {
    "float32, 45 nm (MAC 4.6 pJ, AC 0.9 pJ)": FLOAT32,
    "int32, 45 nm (MAC 3.2 pJ, AC 0.1 pJ)": INT32,
}


def write_report(directory: Path) -> Path:
    """Writes report.md, figures/*.png, and returns.csv of a run. Returns the path of report.md."""
    if not (directory / run_directory.RUN).is_file():
        raise UserError(
            f"{directory} is not a run directory: {run_directory.RUN} is missing. To train a run: "
            f"python -m snn_rl.train env=ID T=1 run_dir={directory}"
        )
    invocations = read_invocations(directory)
    stages = read_stages(directory)
    drawn = _draw(directory, stages)
    write_text(directory / RETURNS, _returns_csv(stages))
    latest = invocations[-1].settings
    parts = [
        f"# {escape(latest['env'])}, seed {escape(latest['seed'])}",
        headline(stages),
        _unfinished(stages),
        _videos(directory, stages),
        *_summary(stages, drawn.get("rewards", "")),
        *folded(reward_section(stages)),
        *folded(teacher_section(directory / TEACHER)),
        *folded(_learning_section(stages, drawn.get("learning", ""))),
        *folded(spike_section(stages, drawn.get("spike_rates", ""))),
        *folded(energy_section(stages, drawn.get("energy", ""))),
        *folded(_layer_section(stages)),
        *folded(_returns_section(stages)),
        *folded(_settings_section(stages, latest)),
        *folded(command_section(invocations)),
    ]
    path = directory / run_directory.REPORT
    write_text(path, page(parts))
    return path


def headline(stages: Sequence[StageResult]) -> str:
    """Returns one sentence with the scores of the last stage and of its ANN."""
    evaluated = [stage for stage in stages if stage.metrics]
    ann = [stage for stage in evaluated if stage.name == ANN]
    spiking = [stage for stage in evaluated if not stage.analog]
    last = ([stage for stage in spiking if stage.stage.gradual] or spiking)[-1:]
    parts = [f"{stage.label} scores {_both(stage.evaluation)}" for stage in last]
    parts += [f"{'its ANN' if last else 'ANN'} scores {_both(stage.evaluation)}" for stage in ann]
    if not parts:
        return "**No stage has been evaluated yet.**"
    return f"**{'; '.join(parts)}** (mean return ± standard deviation)."


def _both(evaluation: StageEvaluation) -> str:
    greedy, sticky = evaluation.greedy, evaluation.sticky
    return (
        f"{_score(greedy)} greedy and {_score(sticky)} with sticky actions over "
        f"{counted(greedy.episodes, 'episode')} each"
    )


def _score(column: Evaluation) -> str:
    return f"{column.mean:z.1f} ± {column.std:.1f}"


def _unfinished(stages: Sequence[StageResult]) -> str:
    waiting = [
        f"{s.label} ({s.counters.steps if s.counters else 0:,} agent steps so far)"
        for s in stages
        if not s.metrics
    ]
    return f"Not evaluated yet: {', '.join(waiting)}." if waiting else ""


def _videos(directory: Path, stages: Sequence[StageResult]) -> str:
    links = [
        link(stage.label, f"{stage.name}/{path.name}")
        for stage in stages
        for path in sorted((directory / stage.name).iterdir())
        # unfinished videos have hidden names
        if path.suffix in (".mp4", ".gif") and not path.name.startswith(".")
    ]
    return f"Video: {', '.join(links)}." if links else ""


# figures


def _draw(directory: Path, stages: Sequence[StageResult]) -> dict[str, str]:
    """Draws all figures that have data. Returns the Markdown of each figure by name."""
    from snn_rl.reports import figures  # imports matplotlib

    drawn: dict[str, tuple[str, Figure]] = {}
    episodes = {s.name: s.counters.episodes for s in stages if s.counters and s.counters.episodes}
    if episodes:
        drawn["learning"] = (
            "Return of each training episode and running mean, by stage",
            figures.learning_curves(episodes),
        )
    returns = {
        stage.name: {name: column.returns for name, column in stage.evaluation.columns.items()}
        for stage in finished(stages)
    }
    if returns:
        drawn["rewards"] = (
            "Mean return and standard deviation by stage, greedy and sticky",
            figures.evaluation_returns(returns),
        )
    spiking = _spiking(stages)
    if spiking:
        names = [*spiking[0].spec.names()[:-1], "all"]
        drawn["spike_rates"] = (
            "Spikes per neuron and decision, by layer and stage",
            figures.spike_rates(names, {s.name: [*s.rates, s.mean_rate] for s in spiking}),
        )
    if with_energy(stages):
        bars = {name: _energy_bars(stages, costs) for name, costs in _ARITHMETIC.items()}
        drawn["energy"] = "Energy of one decision, by stage", figures.energies(bars)
    texts = {}
    for name, (text, figure) in drawn.items():
        path = directory / run_directory.FIGURES / f"{name}.png"
        figures.save(figure, path)
        texts[name] = f"![{text}]({run_directory.FIGURES}/{path.name})"
    return texts


def _energy_bars(
    stages: Sequence[StageResult], costs: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    """Returns the energy of the first layer and of the other layers, in microjoules."""
    from snn_rl.reports.figures import SKIPPING

    ann, spiking = _ann(stages), with_energy(stages)
    first, _ = _parts(spiking[0], costs)
    bars = {ANN: (first, energy(spiking[0].spec, spiking[0].rates, costs).analog - first)}
    if ann is not None:
        bars[SKIPPING] = first, skipping_energy(ann.spec, ann.rates, costs) - first
    bars |= {stage.name: _parts(stage, costs) for stage in spiking}
    return {name: (first / 1e6, other / 1e6) for name, (first, other) in bars.items()}


def _parts(stage: StageResult, costs: tuple[float, float]) -> tuple[float, float]:
    """Returns the energy of a spiking stage's first layer and of its other layers, in pJ."""
    first = energy(stage.spec, stage.rates, (costs[0], 0.0)).spiking
    return first, energy(stage.spec, stage.rates, costs).spiking - first


def _spiking(stages: Iterable[StageResult]) -> list[StageResult]:
    return [stage for stage in finished(stages) if not stage.analog]


def with_energy(stages: Iterable[StageResult]) -> list[StageResult]:
    """Returns the spiking stages with direct encoding, for which energy is defined."""
    return [s for s in _spiking(stages) if s.settings["iir.encoding"] == "direct"]


def _ann(stages: Iterable[StageResult]) -> StageResult | None:
    return next((stage for stage in finished(stages) if stage.name == ANN), None)


# sections


def _summary(stages: Sequence[StageResult], figure: str) -> list[str]:
    """Returns a narrow table with the numbers that matter, and the figure of the returns."""
    done, direct = finished(stages), with_energy(stages)
    if not done:
        return []
    rows = []
    for stage in done:
        result, spikes, ratio = stage.evaluation, "–", "–"
        if not stage.analog:
            spikes = f"{stage.mean_rate:.3f}"
        if stage in direct:
            ratio = f"{energy(stage.spec, stage.rates, FLOAT32).ratio:.1f}"
        returns = [f"{column.mean:z.1f}" for column in (result.greedy, result.sticky)]
        rows.append([stage.label, *returns, spikes, ratio, f"{(result.wall_s or 0) / 60:.1f}"])
    return [
        table(["stage", "greedy", "sticky", "spikes", "energy saving", "minutes"], rows),
        "Mean return without and with sticky actions, spikes per neuron and decision, energy of "
        "the dense ANN divided by the energy of the stage (float32), and minutes of training.",
        figure,
    ]


def reward_section(stages: Sequence[StageResult]) -> list[str]:
    """Returns the section with the evaluation of all stages."""
    done = finished(stages)
    if not done:
        return []
    # older runs did not record the agreement
    compared = any(stage.evaluation.greedy.agreement is not None for stage in done)

    def cells(column: Evaluation) -> list[Any]:
        low, high = column.interval
        agreement = "–" if column.agreement is None else f"{100 * column.agreement:.1f}%"
        score = f"{_score(column)} [{low:z.1f}, {high:z.1f}]"
        return [score, column.distinct, column.capped, *([agreement] if compared else [])]

    rows = []
    for stage in done:
        result = stage.evaluation
        cost = [f"{result.steps or 0:,}", f"{result.updates or 0:,}", _duration(result.wall_s or 0)]
        greedy, sticky = cells(result.greedy), cells(result.sticky)
        rows.append([stage.label, *cost, result.greedy.episodes, *greedy, *sticky])
    notes = [
        "Mean ± standard deviation (n - 1) of the unclipped episode return, and the 95% "
        "confidence interval of the mean (bootstrap over the episodes).",
        "*Distinct* is the number of episodes with different action sequences. If this number is "
        "small, greedy episodes repeat each other and the interval is too narrow.",
        "*Capped* is the number of episodes that ended at the step limit. On CartPole, the "
        "limit is part of the environment, and reaching it is the best possible result.",
    ]
    if compared:
        notes.append(
            "*Agreement* is the fraction of the agent's actions that equal the action of the run's "
            "ANN in the same state, sampled at every tenth step of the agent's episodes."
        )
    settings = []
    for stage in done:
        if stage.evaluation.evaluation not in settings:
            settings.append(stage.evaluation.evaluation)
    notes += [
        f"Episode seeds start at {each.seed:,}. Actions are random with probability "
        f"{each.epsilon:g} in both columns. With sticky actions, an action repeats the previous "
        f"one with probability {each.sticky:g}, per emulator frame on Atari."
        for each in settings
    ]
    if any(stage.name == ANN and stage.settings.get("ann") for stage in stages):
        notes.append("The ANN was imported. Its agent steps only filled the replay buffer.")
    if any(stage.settings.get("teacher") == plan.STATE for stage in stages):
        notes.append(
            "The agents learned from a privileged teacher, which observes the emulator's state "
            "instead of images (`teacher=state`). The agents in the table observe images only."
        )
    details = ["distinct", "capped", *(["agreement"] if compared else [])]
    head = ["stage", "agent steps", "gradient steps", "wall-clock", "episodes", "greedy", *details]
    return ["## Reward", table([*head, "sticky", *details], rows), bullets(notes)]


def teacher_section(directory: Path) -> list[str]:
    """Returns the section with the evaluation of a privileged teacher."""
    metrics = unless_damaged(lambda: read_metrics(directory))
    if not isinstance(metrics, StageEvaluation):
        return []
    cost = [f"{metrics.steps or 0:,}", f"{metrics.updates or 0:,}", _duration(metrics.wall_s or 0)]
    columns = [metrics.greedy, metrics.sticky]
    head = ["agent steps", "gradient steps", "wall-clock", "episodes", "greedy", "sticky"]
    return [
        "## Teacher",
        table(head, [[*cost, metrics.greedy.episodes, *(_score(each) for each in columns)]]),
        "The table shows the privileged teacher. Episode seeds start at "
        f"{metrics.evaluation.seed:,}.",
    ]


def _learning_section(stages: Sequence[StageResult], figure: str) -> list[str]:
    if not figure:
        return []
    lost = [s.label for s in stages if s.notes and s.stage.trained and s.counters is None]
    return [
        "## Learning",
        f"**Training episodes are missing, because {run_directory.STATE} is missing or damaged:** "
        f"{', '.join(lost)}."
        if lost
        else "",
        *(_selection(stage) for stage in stages if stage.notes and stage.notes.scores),
        figure,
        f"Returns during training, including exploration. The running mean over {RUNNING} episodes "
        "restarts in each stage. Episodes truncated by a checkpoint or by the end of the stage are "
        "not shown, so short episodes are overrepresented in short stages.",
    ]


def _selection(stage: StageResult) -> str:
    assert stage.notes is not None
    scores = stage.notes.scores
    step, _ = max(scores, key=lambda score: score[1])
    played = " and ".join(
        f"{counted(kind.games, 'episode')} without exploration (sticky actions: {kind.sticky:g})"
        for kind in stage.selection
    )
    listed = ", ".join(f"{score:.2f} ({step:,})" for step, score in scores)
    return (
        f"{stage.label}: the checkpoint at {step:,} agent steps was selected as the best of "
        f"{len(scores)} by the mean return over {played}. The seeds of these episodes differ from "
        f"those of the evaluation. Episodes are truncated at {plan.SELECTION_CAP:,} agent steps. "
        f"Mean returns (agent steps): {listed}."
    )


def spike_section(stages: Sequence[StageResult], figure: str = "") -> list[str]:
    """Returns the section with the spike rates of all stages."""
    done = finished(stages)
    if not _spiking(stages):
        return []
    rows = [[s.label, *(f"{r:.4f}" for r in s.rates), f"{s.mean_rate:.4f}"] for s in done]
    return [
        "## Spike rates",
        table(["stage", *done[0].spec.names()[:-1], "all neurons"], rows),
        "Spikes per neuron and decision, summed over the timesteps and sampled in the greedy "
        "episodes. The ANN row lists the fraction of nonzero activations.",
        figure,
    ]


def energy_section(stages: Sequence[StageResult], figure: str = "") -> list[str]:
    """Returns the section with the energy per decision of all stages."""
    spiking, ann = with_energy(stages), _ann(stages)
    if not spiking:
        return []
    arithmetics = list(_ARITHMETIC.values())
    dense = [energy(spiking[0].spec, spiking[0].rates, costs).analog for costs in arithmetics]
    head = ["stage", "MAC (M)", "AC (M)"]
    for name in ("float32", "int32"):
        head += [f"{name} (µJ)", "× dense", "× own-layer", "× effective"]
    rows: list[list[Any]] = [["ANN, dense", f"{dense[0] / FLOAT32[0] / 1e6:.3f}", "0"]]
    for value in dense:
        rows[-1] += [f"{value / 1e6:.3g}", "1.00", "1.00", "–"]
    if ann is not None:
        macs = skipping_energy(ann.spec, ann.rates, (1.0, 1.0))
        rows.append(["ANN, skips zeros", f"{macs / 1e6:.3f}", "0"])
        for value, costs in zip(dense, arithmetics, strict=True):
            skipping = skipping_energy(ann.spec, ann.rates, costs)
            rows[-1] += [f"{skipping / 1e6:.3g}", f"{value / skipping:.2f}", "–", "1.00"]
    for stage in spiking:
        # with unit costs, the energy is the number of operations
        first, other = _parts(stage, (1.0, 1.0))
        rows.append([stage.label, f"{first / 1e6:.3f}", f"{other / 1e6:.3f}"])
        for costs in arithmetics:
            used = energy(stage.spec, stage.rates, costs)
            own_layer = energy(stage.spec, stage.rates, costs, own_layer=True)
            effective = "–"
            if ann is not None:
                skipping = skipping_energy(ann.spec, ann.rates, costs)
                effective = f"{skipping / used.spiking:.2f}"
            ratios = f"{used.ratio:.2f}", f"{own_layer.ratio:.2f}", effective
            rows[-1] += [f"{used.spiking / 1e6:.3g}", *ratios]
    notes = [
        "Number of operations per decision times their energy in 45 nm CMOS: 4.6 pJ for a "
        "multiply-accumulate (MAC) and 0.9 pJ for an accumulate (AC) in float32; 3.2 and 0.1 pJ in "
        "int32. Memory traffic, leak, reset, and threshold comparisons are not counted.",
        "In spiking stages, the first layer receives the analog image, so all its operations are "
        "MACs, computed once for all timesteps. Every other layer, including the head, needs one "
        "AC per incoming spike and synapse.",
        "*× dense* is the energy of the dense ANN divided by that of the stage. *× own-layer* "
        "is the same ratio, but the ACs of a layer are counted from the layer's own spikes, as in "
        "the papers.",
        "*× effective* is the energy of an ANN that skips zero activations, divided by the energy "
        "of the stage. After the first layer, this ANN needs MACs only for nonzero activations "
        "(fractions: ANN row under Spike rates). The first layer is dense in both networks.",
    ]
    skipped = [stage.label for stage in _spiking(stages) if stage not in spiking]
    if skipped:
        notes.append(
            f"Omitted because energy is defined only for direct encoding: {', '.join(skipped)}."
        )
    return ["## Energy", table(head, rows), bullets(notes), figure]


def _layer_section(stages: Sequence[StageResult]) -> list[str]:
    rows = [
        [
            stage.label,
            layer.name,
            f"{layer.v_threshold:.4f}",
            f"{layer.spike_rate:.4f}",
            f"{100 * layer.dead:.1f}%",
        ]
        for stage in stages
        for layer in (stage.notes.layers if stage.notes else None) or ()
    ]
    if not rows:
        return []
    return [
        "## Layers",
        table(["stage", "layer", "threshold", "spike rate", "dead"], rows, names=2),
        "State at the end of each stage, on observations from the replay buffer: threshold in "
        "units of the layer's weighted input, spikes per neuron and decision, and the fraction of "
        "neurons that never fired.",
    ]


def returns_table(stages: Sequence[StageResult]) -> str:
    """Returns the table with the return of each episode of all evaluated stages."""
    rows = [
        [stage.label, name, ", ".join(f"{value:g}" for value in column.returns)]
        for stage in finished(stages)
        for name, column in stage.evaluation.columns.items()
    ]
    return table(["stage", "column", "return of each episode"], rows, names=3)


def _returns_section(stages: Sequence[StageResult]) -> list[str]:
    if not finished(stages):
        return []
    return [
        "## Returns",
        returns_table(stages),
        f"[{RETURNS}]({RETURNS}) also lists the seed and length of each episode (emulator frames "
        "on Atari, steps on CartPole).",
    ]


def _returns_csv(stages: Sequence[StageResult]) -> str:
    rows = [
        [stage.name, name, i, stage.evaluation.evaluation.seed + i, *episode]
        for stage in finished(stages)
        for name, column in stage.evaluation.columns.items()
        for i, episode in enumerate(zip(column.returns, column.lengths, strict=True))
    ]
    return csv_text(["stage", "column", "trial", "seed", "return", "length"], rows)


def _settings_section(stages: Sequence[StageResult], latest: dict[str, Any]) -> list[str]:
    shared, rows = [], []
    for key in sorted({key for stage in stages for key in stage.settings}):
        values = [plain(s.settings[key]) if key in s.settings else "–" for s in stages]
        known = {value for value in values if value != "–"}
        if len(known) == 1:
            shared.append(f"{key}: {known.pop()}")
        else:
            rows.append([code(key), *values])
    parts = ["## Settings"]
    if shared:
        parts += ["Settings shared by all stages:", block("yaml", "\n".join(shared))]
    if rows:
        labels = [stage.label for stage in stages]
        parts += ["Settings by stage:", table(["setting", *labels], rows)]
    return [
        *parts,
        "<details><summary>All resolved settings of the latest command</summary>",
        block("json", json.dumps(latest, indent=1, sort_keys=True)),
        "</details>",
    ]


def command_section(invocations: Sequence[Invocation]) -> list[str]:
    """Returns the section with the commands of a run, their revisions, and versions."""
    rows = []
    versions: dict[str, list[str]] = {}
    for i, entry in enumerate(invocations, start=1):
        revision = entry.revision or "unknown"
        rows.append([i, entry.time, code(entry.command), revision, entry.machine])
        text = ", ".join(f"{name} {number}" for name, number in sorted(entry.versions.items()))
        versions.setdefault(escape(text), []).append(str(i))
    return [
        "## Commands",
        table(["#", "time (UTC)", "command", "revision", "machine"], rows, names=5),
        bullets(f"Versions (# {', '.join(which)}): {text}" for text, which in versions.items()),
    ]


def _duration(seconds: float) -> str:
    """Returns a duration in seconds, in minutes, or in hours and minutes from two hours on."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
