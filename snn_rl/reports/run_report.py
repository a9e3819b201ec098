"""The report of an agent's run: report.md, its figures, and every return as returns.csv."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from snn_rl.agents import plan
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    Evaluation,
    Invocation,
    StageResult,
    finished,
    read_invocations,
    read_stages,
)
from snn_rl.chain.stages import ANN, PRETRAINED
from snn_rl.core.energy import FLOAT32, INT32, energy, skipping_energy
from snn_rl.files.atomic import write_text
from snn_rl.reports import figures
from snn_rl.reports.markdown import block, bullets, code, plain, table
from snn_rl.utils.errors import UserError

RETURNS = "returns.csv"
_ARITHMETIC = {
    "float32, 45 nm (MAC 4.6 pJ, AC 0.9 pJ)": FLOAT32,
    "int32, 45 nm (MAC 3.2 pJ, AC 0.1 pJ)": INT32,
}


@dataclass(frozen=True)
class StageEnergy:
    """Energy of one decision of a spiking stage.

    Attributes:
        first: Of the first layer, in pJ.
        behind: Of the layers behind it, in pJ.
        dense: How many times more the dense ANN needs.
        own_layer: The same with the papers' indexing, each layer by its own spikes.
        skipping: How many times more an ANN needs that skips its zeros; None if the ANN has not
            been evaluated.
    """

    first: float
    behind: float
    dense: float
    own_layer: float
    skipping: float | None


def write_report(directory: Path) -> Path:
    """Writes report.md, figures/*.png and returns.csv of a run into its directory.

    Args:
        directory: Of the run, as `snn_rl.train` made it.

    Returns:
        The path of report.md.

    Raises:
        UserError: The directory is no run, or a file of it is damaged.
    """
    if not (directory / run_directory.RUN).is_file():
        raise UserError(
            f"{directory} is not a run, it has no run.json; this trains one: "
            f"python -m snn_rl.train env=ID T=1 run_dir={directory}"
        )
    invocations = read_invocations(directory)
    stages = read_stages(directory)
    drawn = _draw(directory, stages)
    write_text(directory / RETURNS, _csv(stages))
    latest = invocations[-1].settings
    parts = [
        f"# {latest['env']}, seed {latest['seed']}",
        headline(stages),
        _unfinished(stages),
        _videos(directory, stages),
        *reward_section(stages, drawn.get("rewards", "")),
        *_learning_section(stages, drawn),
        *spike_section(stages, drawn.get("spike_rates", "")),
        *energy_section(stages, drawn.get("energy", "")),
        *_layer_section(stages),
        *_returns_section(stages),
        *_settings_section(stages, latest),
        *command_section(invocations),
    ]
    path = directory / run_directory.REPORT
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def headline(stages: Sequence[StageResult]) -> str:
    """One sentence: the last stage of the chain beside its ANN, greedy and sticky."""
    done = {stage.name: stage for stage in stages if stage.metrics}
    ann = done.pop(ANN, None)
    done.pop(PRETRAINED, None)
    # the chain's own stages come first; only without one, a direct or a converted stage
    chain = [s for s in done.values() if s.stage.gradual] or list(done.values())
    parts = [f"{stage.label} scores {_both(stage)}" for stage in chain[-1:]]
    if ann:
        parts.append(f"{'its' if parts else 'the'} ANN {'' if parts else 'scores '}{_both(ann)}")
    if not parts:
        return "**No stage has been evaluated yet.**"
    return f"**{'; '.join(parts).removeprefix('the ')}** (mean return ± standard deviation)."


def stage_energy(
    stage: StageResult, costs: tuple[float, float], ann: StageResult | None
) -> StageEnergy:
    """Energy of a spiking, evaluated stage under direct encoding.

    Args:
        stage: The stage.
        costs: (multiply-accumulate, accumulate) in pJ.
        ann: The run's ANN stage, if it has been evaluated.
    """
    mac, _ = costs
    entering = energy(stage.spec, stage.rates, costs)
    own = energy(stage.spec, stage.rates, costs, own_layer=True)
    first = energy(stage.spec, stage.rates, (mac, 0.0)).spiking
    skipping = None
    if ann is not None:
        skipping = skipping_energy(ann.spec, ann.rates, costs) / entering.spiking
    return StageEnergy(first, entering.spiking - first, entering.ratio, own.ratio, skipping)


def _spiking(stages: Iterable[StageResult]) -> list[StageResult]:
    return [stage for stage in finished(stages) if not stage.analog]


def _with_energy(stages: Iterable[StageResult]) -> list[StageResult]:
    """Spiking stages under direct encoding: energy is not defined here for others."""
    return [s for s in _spiking(stages) if s.settings["iir.encoding"] == "direct"]


def _ann(stages: Iterable[StageResult]) -> StageResult | None:
    return next((stage for stage in finished(stages) if stage.name == ANN), None)


# figures


def _draw(directory: Path, stages: Sequence[StageResult]) -> dict[str, str]:
    """Draws what there is data for: Markdown of the figures, by name."""
    drawn: dict[str, tuple[str, Figure]] = {}
    episodes = {s.name: s.counters.episodes for s in stages if s.counters and s.counters.episodes}
    if episodes:
        drawn["learning"] = (
            "Return of every training episode and running mean, stage by stage",
            figures.learning_curves(episodes),
        )
    evaluated, spiking = finished(stages), _spiking(stages)
    if evaluated:
        trials = {
            s.name: {name: column.returns for name, column in s.evaluation.columns.items()}
            for s in evaluated
        }
        drawn["rewards"] = (
            "Mean return and standard deviation per stage, greedy and sticky",
            figures.rewards(trials),
        )
    if spiking:
        names = [*spiking[0].spec.names()[:-1], "all"]
        drawn["spike_rates"] = (
            "Spikes per neuron and decision, per layer and stage",
            figures.spike_rates(names, {s.name: [*s.rates, s.mean_rate] for s in spiking}),
        )
    if _with_energy(stages):
        drawn["energy"] = (
            "Energy of one decision, per stage",
            figures.energies(_energy_bars(stages)),
        )
    texts = {}
    for name, (text, figure) in drawn.items():
        path = directory / run_directory.FIGURES / f"{name}.png"
        figures.save(figure, path)
        texts[name] = f"![{text}]({run_directory.FIGURES}/{path.name})"
    return texts


def _energy_bars(stages: Sequence[StageResult]) -> dict[str, dict[str, tuple[float, float]]]:
    ann, spiking = _ann(stages), _with_energy(stages)
    bars = {}
    for arithmetic, costs in _ARITHMETIC.items():
        spec = spiking[0].spec
        dense = energy(spec, spiking[0].rates, costs).analog
        first = stage_energy(spiking[0], costs, None).first
        group = {ANN: (first / 1e6, (dense - first) / 1e6)}
        if ann is not None:
            skipping = skipping_energy(ann.spec, ann.rates, costs)
            group[f"{ANN}-skips zeros"] = (first / 1e6, (skipping - first) / 1e6)
        for stage in spiking:
            result = stage_energy(stage, costs, ann)
            group[stage.name] = (result.first / 1e6, result.behind / 1e6)
        bars[arithmetic] = group
    return bars


# text


def _unfinished(stages: Sequence[StageResult]) -> str:
    waiting = [
        f"{s.label} ({s.counters.steps if s.counters else 0:,} agent steps so far)"
        for s in stages
        if not s.metrics
    ]
    return f"Not evaluated yet: {', '.join(waiting)}." if waiting else ""


def _videos(directory: Path, stages: Sequence[StageResult]) -> str:
    links = []
    for stage in stages:
        for path in sorted((directory / stage.name).iterdir()):
            # a video that is being written has a hidden name
            if path.suffix in (".mp4", ".gif") and not path.name.startswith("."):
                links.append(f"[{stage.label}]({stage.name}/{path.name})")
    return f"Video: {', '.join(links)}." if links else ""


def reward_section(stages: Sequence[StageResult], figure: str = "") -> list[str]:
    """Returns of every evaluated stage, with what they mean.

    Args:
        stages: From `read_stages`.
        figure: Markdown of a figure of them.
    """
    rows, evaluations = [], []
    done = finished(stages)
    # runs of older versions have no agreement
    compared = any(s.evaluation.greedy.agreement is not None for s in done)

    def cells(results: Evaluation) -> list[Any]:
        found = [_score(results, interval=True), results.distinct, results.capped]
        if compared:
            agreement = results.agreement
            found.append("–" if agreement is None else f"{100 * agreement:.1f} %")
        return found

    for stage in done:
        metrics = stage.evaluation
        rows.append(
            [
                stage.label,
                f"{metrics.steps:,}",
                f"{metrics.updates:,}",
                _duration(metrics.wall_s or 0.0),
                metrics.greedy.episodes,
                *cells(metrics.greedy),
                *cells(metrics.sticky),
            ]
        )
        if metrics.evaluation not in evaluations:
            evaluations.append(metrics.evaluation)
    if not rows:
        return []
    head = [
        "stage",
        "agent steps",
        "updates",
        "wall-clock",
        "games",
        "greedy",
        "distinct",
        "capped",
    ]
    agreement = ["agreement"] if compared else []
    notes = [
        "Mean ± standard deviation (n - 1) of the return of whole, unclipped games, and the 95 % "
        "interval of the mean (bootstrap over the games).",
        "*Distinct* counts different games, action by action: where it is small, greedy games "
        "repeat one another, and the interval beside them is narrower than it should be.",
        "*Capped* counts games that the step cap ended; on CartPole the cap is the game's own "
        "limit, and reaching it is the best result there is.",
    ]
    if compared:
        notes.append(
            "*Agreement*: in how many of the situations of its own games the agent does what the "
            "run's ANN would do there (looked at in every tenth step)."
        )
    for evaluation in evaluations:
        notes.append(
            f"Seeds from {evaluation.seed:,}; random actions {evaluation.epsilon:g} in both "
            "columns. Sticky: an action repeats the one before with probability "
            f"{evaluation.sticky:g}, per emulator frame on Atari."
        )
    imported = any(s.settings.get("ann") for s in stages if s.name == ANN)
    if imported:
        notes.append("The ANN was imported; its steps only fill the replay buffer.")
    return [
        "## Reward",
        table([*head, *agreement, "sticky", "distinct", "capped", *agreement], rows),
        bullets(notes),
        figure,
    ]


def _learning_section(stages: Sequence[StageResult], drawn: dict[str, str]) -> list[str]:
    if "learning" not in drawn:
        return []
    return [
        "## Learning",
        *(_selection(stage) for stage in stages if stage.notes and stage.notes.scores),
        drawn["learning"],
        f"Returns while training, exploration included. The running mean over {figures.RUNNING} "
        "episodes starts anew in each stage. An episode that a checkpoint or the stage's end cut "
        "off is not shown, which favours short ones where a stage is short.",
    ]


def _selection(stage: StageResult) -> str:
    assert stage.notes is not None
    scores, kinds = stage.notes.scores, stage.selection
    best = max(score for _, score in scores)
    step = next(step for step, score in scores if score == best)
    played = " and ".join(
        f"{kind.games} games without exploration (sticky actions: {kind.sticky:g})"
        for kind in kinds
    )
    both = ", of which the scores are the means" if len(kinds) > 1 else ""
    listed = ", ".join(f"{score:.2f} ({step:,})" for step, score in scores)
    return (
        f"The {stage.label} is its checkpoint at {step:,} agent steps: of {len(scores)}, the best "
        f"in {played}, of other seeds than the tables' "
        f"(cut off at {plan.SELECTION_CAP:,} agent steps){both}. "
        f"Their mean returns (agent steps): {listed}."
    )


def spike_section(stages: Sequence[StageResult], figure: str = "") -> list[str]:
    """Spike rates of every evaluated stage, layer by layer; see `reward_section`."""
    done = finished(stages)
    if not _spiking(stages):
        return []
    rows = [[s.label, *(f"{r:.4f}" for r in s.rates), f"{s.mean_rate:.4f}"] for s in done]
    return [
        "## Spike rates",
        table(["stage", *done[0].spec.names()[:-1], "all neurons"], rows),
        "Spikes per neuron and decision, summed over its timesteps, sampled along the greedy "
        "games. The ANN's row is the fraction of its activations that are not zero.",
        figure,
    ]


def energy_section(stages: Sequence[StageResult], figure: str = "") -> list[str]:
    """Energy of a decision of every evaluated stage, with what is assumed; see `reward_section`."""
    spiking, ann = _with_energy(stages), _ann(stages)
    if not spiking:
        return []
    head = ["stage", "MAC (M)", "AC (M)"]
    for name in ("float32", "int32"):
        head += [f"{name} (µJ)", "× dense", "× own-layer", "× effective"]
    dense = [energy(spiking[0].spec, spiking[0].rates, c).analog for c in _ARITHMETIC.values()]
    total = dense[0] / FLOAT32[0]
    rows: list[list[Any]] = [["ANN, dense", f"{total / 1e6:.3f}", "0"]]
    for value in dense:
        rows[-1] += [f"{value / 1e6:.3g}", "1.00", "1.00", "–"]
    if ann is not None:
        macs = skipping_energy(ann.spec, ann.rates, (1.0, 1.0))
        rows.append(["ANN, skips zeros", f"{macs / 1e6:.3f}", "0"])
        for value, costs in zip(dense, _ARITHMETIC.values(), strict=True):
            skipping = skipping_energy(ann.spec, ann.rates, costs)
            rows[-1] += [f"{skipping / 1e6:.3g}", f"{value / skipping:.2f}", "–", "1.00"]
    for stage in spiking:
        # at unit costs, energies are counts of operations
        counts = stage_energy(stage, (1.0, 1.0), None)
        rows.append([stage.label, f"{counts.first / 1e6:.3f}", f"{counts.behind / 1e6:.3f}"])
        for costs in _ARITHMETIC.values():
            result = stage_energy(stage, costs, ann)
            rows[-1] += [
                f"{(result.first + result.behind) / 1e6:.3g}",
                f"{result.dense:.2f}",
                f"{result.own_layer:.2f}",
                "–" if result.skipping is None else f"{result.skipping:.2f}",
            ]
    notes = [
        "Counted operations of one decision times their energy in 45 nm CMOS: 4.6 pJ a "
        "multiply-accumulate (MAC) and 0.9 pJ an accumulate (AC) in float32, 3.2 and 0.1 pJ in "
        "int32. Memory traffic, leak, reset and threshold comparisons are not counted.",
        "Spiking stages: the first layer sees the analog picture, so it is all MACs, computed "
        "once for all timesteps; every other layer, head included, takes one AC per synapse and "
        "spike that enters it.",
        "*× dense*: the dense ANN's energy over the stage's. *× own-layer*: the same with each "
        "layer's ACs counted by the spikes it fires itself, as the papers index them.",
        "*× effective*: against an ANN that skips its zeros as the spiking network does: behind "
        "the first layer it takes a MAC only for an activation that is not zero (fractions: the "
        "ANN's row under Spike rates). The first layer is dense in both.",
    ]
    skipped = [stage.label for stage in _spiking(stages) if stage not in spiking]
    if skipped:
        notes.append(
            f"Left out, because their input is not directly encoded: {', '.join(skipped)}."
        )
    return ["## Energy", table(head, rows), bullets(notes), figure]


def _layer_section(stages: Sequence[StageResult]) -> list[str]:
    rows = [
        [
            stage.label,
            layer.name,
            f"{layer.v_threshold:.4f}",
            f"{layer.spike_rate:.4f}",
            f"{100 * layer.dead:.1f} %",
        ]
        for stage in stages
        for layer in ((stage.notes and stage.notes.layers) or [])
    ]
    if not rows:
        return []
    return [
        "## Layers",
        table(["stage", "layer", "threshold", "spike rate", "dead"], rows, names=2),
        "At the end of each stage, on observations from the replay buffer: the threshold in units "
        "of the layer's weighted input, the spikes per neuron and decision, and the neurons that "
        "never fired.",
    ]


def returns_table(stages: Sequence[StageResult]) -> str:
    """Every game of every evaluated stage."""
    rows = []
    for stage in finished(stages):
        for name, column in stage.evaluation.columns.items():
            rows.append([stage.label, name, ", ".join(f"{value:g}" for value in column.returns)])
    return table(["stage", "column", "return of every game"], rows, names=3)


def _returns_section(stages: Sequence[StageResult]) -> list[str]:
    if not finished(stages):
        return []
    return [
        "## Returns",
        returns_table(stages),
        f"With seeds and lengths (in emulator frames on Atari, in steps on CartPole): "
        f"[{RETURNS}]({RETURNS}).",
    ]


def _settings_section(stages: Sequence[StageResult], latest: dict[str, Any]) -> list[str]:
    keys = sorted({key for stage in stages for key in stage.settings})
    shared, rows = [], []
    for key in keys:
        values = [plain(s.settings[key]) if key in s.settings else "–" for s in stages]
        if len({value for value in values if value != "–"}) == 1:
            shared.append(f"{key}: {next(value for value in values if value != '–')}")
        else:
            rows.append([f"`{key}`", *values])
    parts = ["## Settings"]
    if shared:
        parts += ["What the result of every stage depends on:", block("yaml", "\n".join(shared))]
    if rows:
        parts += ["By stage:", table(["setting", *(stage.label for stage in stages)], rows)]
    return [
        *parts,
        "<details><summary>All resolved settings of the latest command</summary>",
        block("json", json.dumps(latest, indent=1, sort_keys=True)),
        "</details>",
    ]


def command_section(invocations: Sequence[Invocation]) -> list[str]:
    """The commands of a run, with their revisions and versions.

    Args:
        invocations: Its run.json.
    """
    rows = [
        [
            i,
            entry.time,
            code(entry.command),
            entry.revision or "unknown",
            entry.machine,
        ]
        for i, entry in enumerate(invocations, start=1)
    ]
    versions: dict[str, list[str]] = {}
    for i, entry in enumerate(invocations, start=1):
        text = ", ".join(f"{name} {number}" for name, number in sorted(entry.versions.items()))
        versions.setdefault(text, []).append(str(i))
    return [
        "## Commands",
        table(["#", "time (UTC)", "command", "revision", "machine"], rows, names=5),
        bullets(f"Versions (# {', '.join(which)}): {text}" for text, which in versions.items()),
    ]


def _csv(stages: Sequence[StageResult]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stage", "column", "trial", "seed", "return", "length"])
    for stage in finished(stages):
        seed = stage.evaluation.evaluation.seed
        for name, column in stage.evaluation.columns.items():
            trials = zip(column.returns, column.lengths, strict=True)
            for i, (value, length) in enumerate(trials):
                writer.writerow([stage.name, name, i, seed + i, value, length])
    return text.getvalue()


def _both(stage: StageResult) -> str:
    greedy, sticky = stage.evaluation.greedy, stage.evaluation.sticky
    games = greedy.episodes
    return (
        f"{_score(greedy)} greedy and {_score(sticky)} with sticky actions over "
        f"{games} game{'s' if games > 1 else ''} each"
    )


def _score(results: Evaluation, interval: bool = False) -> str:
    text = f"{results.mean:z.1f} ± {results.std:.1f}"
    if interval:
        low, high = results.interval
        text += f" [{low:z.1f}, {high:z.1f}]"
    return text


def _duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours and minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
