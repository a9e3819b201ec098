"""The figures of a report, each drawn from plain numbers and returned as a matplotlib Figure.

Figures are built without pyplot, so no backend is chosen for the process. A stage has the same
colour in every one of them (palette: Okabe and Ito, safe for colour-blind readers); a hatch marks a
stage retrained directly from the converted ANN, crosses one trained without an ANN, dots one that
carries its membranes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from snn_rl.chain.records import GREEDY, STICKY
from snn_rl.chain.stages import CARRIED, CONVERTED, DIRECT, EXACT, SCRATCH, Stage
from snn_rl.files.atomic import write_atomic

Drawing = Callable[[Axes], None]  # what fills one panel

RUNNING = 20  # episodes

_ANN, _CONVERTED = "#555555", "#CC79A7"
_BY_TIMESTEPS = ("#D55E00", "#E69F00", "#009E73", "#56B4E9", "#0072B2")  # T = 1, 2, ...
_MARKERS = "osD^v"
_HATCHES = {DIRECT: "///", "skips zeros": "///", CARRIED: "...", EXACT: "++", SCRATCH: "xxx"}
_LEVEL = 8  # names of groups that find room side by side
_GRID = "#DDDDDD"
_REST = "#BBBBBB"
_PUBLISHED: dict[str, Any] = {
    "color": "black",
    "marker": "D",
    "markersize": 7,
    "markerfacecolor": "white",
}


class Bars(NamedTuple):
    """Bars of one kind, one in each of several groups.

    Attributes:
        label: Of the kind.
        stage: Whose colour and hatch they have.
        runs: For each run: a height for each group, None or not a number where there is none.
        published: A paper's, for each group; empty if there is none.
    """

    label: str
    stage: str
    runs: Sequence[Sequence[float | None]]
    published: Sequence[float | None] = ()


def colour(stage: str) -> str:
    """The colour of a stage, by its name alone (ann, T5, T1-direct, T100-converted)."""
    found = Stage.find(stage)
    if found is None or found.timesteps is None:
        return _ANN
    if found.kind == CONVERTED:
        return _CONVERTED
    return _BY_TIMESTEPS[(found.timesteps - 1) % len(_BY_TIMESTEPS)]


def label(stage: str) -> str:
    """A stage's name as an axis shows it, a line for each of its parts."""
    return stage.replace("ann", "ANN").replace("-", "\n")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, at 150 dots per inch.

    Raises:
        UserError: The disk is full or read-only.
    """
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def running_mean(values: Sequence[float], window: int = RUNNING) -> list[float]:
    """Mean of each value and up to window - 1 values before it."""
    return [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]


def learning_curves(episodes: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Training returns and their running mean, one panel per stage from left to right.

    Args:
        episodes: [agent step, return, ...] of every finished episode, by stage.
    """
    # the ANN stage is far longer than the others: panels share the returns' axis, not the steps'
    analog = [Stage.parse(stage).analog for stage in episodes]
    widths = [2.4 if wide else 1.0 for wide in analog]
    figure = Figure(figsize=(min(11.0, 2.5 + 1.6 * sum(widths)), 4.2), layout="constrained")
    panels = figure.subplots(
        1, len(episodes), sharey=True, squeeze=False, gridspec_kw={"width_ratios": widths}
    )[0]
    for axes, wide, (stage, rows) in zip(panels, analog, episodes.items(), strict=True):
        _style(axes)
        steps, returns = [row[0] for row in rows], [row[1] for row in rows]
        axes.plot(steps, returns, ".", color=colour(stage), alpha=0.3, markersize=5, mew=0)
        axes.plot(steps, running_mean(returns), color=colour(stage), linewidth=2.2)
        axes.set_title(label(stage).replace("\n", " "), color=colour(stage), fontweight="bold")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5 if wide else 2, prune="upper"))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel("return of a training episode", fontsize=12)
    figure.supxlabel("agent steps within the stage", fontsize=12)
    keys = [
        Line2D([], [], color=_ANN, marker=".", linestyle="", alpha=0.5, label="one episode"),
        Line2D([], [], color=_ANN, linewidth=2.2, label=f"running mean of {RUNNING} episodes"),
    ]
    figure.legend(handles=keys, loc="outside upper right", ncols=2, frameon=False, fontsize=11)
    figure.get_layout_engine().set(wspace=0.03)  # type: ignore[union-attr, call-arg]
    return figure


def rewards(trials: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Mean and standard deviation of the evaluation's returns, with every trial behind them.

    Args:
        trials: Returns by stage and column ("greedy", "sticky").
    """
    figure = Figure(
        figsize=(min(11.0, max(7.2, 2.0 + 1.1 * len(trials))), 4.6), layout="constrained"
    )
    axes = figure.subplots()
    _style(axes)
    looks = ((GREEDY, -0.17, "o", True), (STICKY, 0.17, "s", False))
    for i, (stage, columns) in enumerate(trials.items()):
        for column, offset, marker, filled in looks:
            returns = np.asarray(columns[column])
            mean, std = mean_and_std(columns[column])
            beside = np.linspace(-0.09, 0.09, len(returns)) if len(returns) > 1 else [0.0]
            axes.plot(
                i + offset + np.asarray(beside), returns, ".", color=colour(stage), alpha=0.3, mew=0
            )
            axes.errorbar(
                i + offset,
                mean,
                std,
                color=colour(stage),
                marker=marker,
                markersize=9,
                markerfacecolor=colour(stage) if filled else "white",
                markeredgewidth=1.8,
                elinewidth=1.8,
                capsize=5,
                capthick=1.8,
            )
    keys: list[Line2D] = [
        Line2D([], [], color=_ANN, marker="o", markersize=8, linestyle="", label="greedy"),
        Line2D(
            [],
            [],
            color=_ANN,
            marker="s",
            markersize=8,
            markerfacecolor="white",
            linestyle="",
            label="sticky actions",
        ),
        Line2D([], [], color=_ANN, marker=".", alpha=0.5, linestyle="", label="one game"),
    ]
    if "ann" in trials:
        mean = float(np.mean(trials["ann"][GREEDY]))
        axes.axhline(mean, color=_ANN, linestyle=(0, (4, 3)), linewidth=1.1, zorder=1)
        keys.append(Line2D([], [], color=_ANN, linestyle=(0, (4, 3)), label="ANN, greedy mean"))
    _stage_ticks(axes, list(trials))
    axes.set_ylabel("return of a game (mean ± std)", fontsize=12)
    figure.legend(handles=keys, loc="outside upper right", ncols=4, frameon=False, fontsize=11)
    return figure


def spike_rates(layers: Sequence[str], rates: Mapping[str, Sequence[float]]) -> Figure:
    """Spikes per neuron and decision of every hidden layer, and over all of them.

    Args:
        layers: Names of the groups of bars.
        rates: A number for each of them, by spiking stage.
    """
    converted = [stage for stage in rates if Stage.parse(stage).kind == CONVERTED]
    retrained = [stage for stage in rates if stage not in converted]
    # conversion alone takes many timesteps and ten times the spikes: it has a scale of its own
    groups = [group for group in (retrained, converted) if group]
    widths = [2.0, 1.1][: len(groups)]
    figure = Figure(figsize=(min(11.0, 6.0 + len(rates)), 4.6), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
    for axes, group in zip(panels, groups, strict=True):
        _style(axes)
        width = 0.8 / len(group)
        for k, stage in enumerate(group):
            centres = np.arange(len(layers)) - 0.4 + (k + 0.5) * width
            axes.bar(centres, rates[stage], 0.9 * width, **_bar(stage))
        axes.set_xticks(range(len(layers)), layers)
        axes.tick_params(axis="x", length=0, labelsize=11)
        axes.set_ylabel("spikes per neuron and decision", fontsize=12)
        if group is converted:
            axes.set_title("conversion only", fontsize=12)
        elif converted:
            axes.set_title("retrained stages", fontsize=12)
    keys = [Patch(**_bar(stage), label=label(stage).replace("\n", " ")) for stage in rates]
    figure.legend(handles=keys, loc="outside upper right", ncols=8, frameon=False, fontsize=11)
    return figure


def rates_by_layer(layers: Sequence[str], rates: Mapping[str, Sequence[float]]) -> Figure:
    """Spikes per neuron of every hidden layer, on a logarithmic scale, a line a network.

    Args:
        layers: Names, from the input on.
        rates: A number for each of them, by stage; "T1 of T5" are the weights of T5 at T = 1.
    """
    figure = Figure(figsize=(min(11.0, 4.0 + 0.6 * len(layers)), 4.6), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    for name, values in rates.items():
        at_one, stage = name.startswith("T1 of "), name.removeprefix("T1 of ")
        shown = [value if value > 0 else np.nan for value in values]  # of none, no point
        style = "--" if at_one else ":" if Stage.parse(stage).kind == DIRECT else "-"
        kind: dict[str, Any] = {"linestyle": style, "marker": "o"}
        axes.plot(shown, color=colour(stage), label=name, **kind)
    axes.set_yscale("log")
    axes.set_xticks(range(len(layers)), layers)
    axes.set_ylabel("spikes per neuron and image", fontsize=12)
    axes.legend(frameon=False, fontsize=11)
    return figure


def scores_by_timesteps(lines: Mapping[str, Mapping[int, float]], score: str) -> Figure:
    """A score against the number of timesteps.

    Args:
        lines: By label: a score for every T.
        score: Its name.
    """
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    timestep_lines(axes, lines, score)
    axes.legend(frameon=False, fontsize=10)
    return figure


def energies(bars: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """Energy of one decision, the first layer apart from what is behind it.

    Args:
        bars: By kind of arithmetic and by stage: (first layer, layers behind it), in microjoule.
            The stage "ann" is the dense ANN, and "ann-skips zeros" the one that skips zeros.
    """
    names = [label(stage).replace("\n", " ") for stage in next(iter(bars.values()))]
    figure = Figure(figsize=(11.0, 1.9 + 0.42 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(bars), squeeze=False, sharey=True)[0]
    for axes, (arithmetic, stages) in zip(panels, bars.items(), strict=True):
        _style(axes, grid="x")
        dense = sum(stages["ann"])
        for i, (stage, (first, behind)) in enumerate(stages.items()):
            axes.barh(i, first, 0.7, color=_REST, edgecolor="white")
            axes.barh(i, behind, 0.7, left=first, **_bar(stage))
            axes.annotate(
                f"{dense / (first + behind):.1f}×",
                (first + behind, i),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
            )
        axes.margins(x=0.12)
        axes.set_title(arithmetic, fontsize=12)
        axes.set_xlabel("energy of one decision (µJ)", fontsize=12)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    for axes in panels:
        axes.tick_params(axis="y", length=0)
    keys = [
        Patch(facecolor=_REST, label="first layer (MAC)"),
        Patch(facecolor=_ANN, label="ANN's other layers (MAC)"),
        Patch(facecolor=_BY_TIMESTEPS[0], label="spiking layers, by stage (AC)"),
        Line2D(
            [],
            [],
            linestyle="",
            marker="$n×$",
            markersize=18,
            color="black",
            label="times less than the dense ANN",
        ),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=4, frameon=False, fontsize=11)
    return figure


def grid(panels: Mapping[str, Drawing], columns: int) -> Figure:
    """Panels row by row, with one key for all of them above.

    Args:
        panels: What draws each of them, by title.
        columns: Panels beside one another, at most; fewer if that fills the rows better.
    """
    rows = -(-len(panels) // columns)
    columns = -(-len(panels) // rows)
    figure = Figure(figsize=(max(7.6, 4.4 * columns), 0.7 + 3.7 * rows), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    keys: dict[str, Any] = {}
    for axes, (title, draw) in zip(places, panels.items(), strict=False):
        _style(axes)
        draw(axes)
        axes.set_title(title, fontsize=12, loc="left", fontweight="bold")
        handles = zip(*axes.get_legend_handles_labels(), strict=True)
        # matplotlib lists plain lines before error bars, which are what the eye looks for
        for handle, text in sorted(handles, key=lambda entry: isinstance(entry[0], Line2D)):
            keys.setdefault(text, handle)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.legend(
        keys.values(),
        keys.keys(),
        loc="outside upper center",
        ncols=columns + 1,  # what is wider than the figure would be cut off
        frameon=False,
        fontsize=11,
    )
    figure.get_layout_engine().set(wspace=0.04, hspace=0.05)  # type: ignore[union-attr, call-arg]
    return figure


def pooled_rewards(
    axes: Axes,
    trials: Mapping[str, Sequence[Sequence[float]]],
    published: Mapping[str, tuple[float, float]],
) -> None:
    """Mean and standard deviation over the games of all runs, and the mean of every run.

    Args:
        axes: The panel.
        trials: By stage, and for each run: the returns of its games.
        published: (mean, standard deviation) of a paper, by stage, for those it prints.
    """
    for i, (stage, runs) in enumerate(trials.items()):
        mean, std = mean_and_std([value for returns in runs for value in returns])
        look: dict[str, Any] = {"elinewidth": 1.8, "capsize": 5, "capthick": 1.8}
        axes.errorbar(
            i - 0.2,
            mean,
            std,
            color=colour(stage),
            marker="o",
            markersize=9,
            label="ours, mean ± std over all games",
            **look,
        )
        if len(runs) > 1:
            _run_dots(axes, [i] * len(runs), [float(np.mean(returns)) for returns in runs], stage)
        if stage in published:
            mean, std = published[stage]
            axes.errorbar(i + 0.2, mean, std, label="the paper", **_PUBLISHED, **look)
    axes.set_xticks(range(len(trials)), [label(stage) for stage in trials])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(trials) - 0.4)
    axes.set_ylabel("return of a game", fontsize=12)


def pooled_rates(
    axes: Axes,
    stage: str,
    layers: Sequence[str],
    rates: Sequence[Sequence[float]],
    published: float | None,
) -> None:
    """Spikes per neuron and decision of every group of neurons: the mean over runs, and each run.

    Args:
        axes: The panel.
        stage: Whose they are.
        layers: Names of the groups.
        rates: For each run: a number for each group.
        published: A paper's number for the last group, or None.
    """
    axes.bar(range(len(layers)), np.mean(rates, axis=0), 0.62, **_bar(stage))
    if len(rates) > 1:
        for run in rates:
            _run_dots(axes, range(len(layers)), run, stage)
    if published is not None:
        axes.plot(len(layers) - 1, published, linestyle="", label="the paper", **_PUBLISHED)
    axes.set_xticks(range(len(layers)), layers)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("spikes per neuron and decision", fontsize=12)


def training_curves(
    axes: Axes, stage: str, runs: Sequence[Sequence[float]], limits: tuple[float, float]
) -> None:
    """Returns of training episodes in the order of their ends, and two means of each run.

    Args:
        axes: The panel.
        stage: Whose they are.
        runs: For each run: the returns of its episodes.
        limits: Least and greatest return of all panels, which share their scale.
    """
    few = max(map(len, runs)) < 3 * RUNNING
    for returns in runs:
        episodes = np.arange(1, len(returns) + 1)
        axes.plot(
            episodes,
            returns,
            linestyle="",
            marker=".",
            color=colour(stage),
            alpha=0.7 if few else 0.3,
            markersize=9 if few else 5,
            mew=0,
            label="one episode",
        )
        axes.plot(
            episodes,
            running_mean(returns),
            color=colour(stage),
            linewidth=1.8,
            label=f"mean of {RUNNING} episodes",
        )
        axes.plot(
            episodes,
            np.cumsum(returns) / episodes,
            color="black",
            linewidth=1.3,
            linestyle=(0, (4, 2)),
            label="mean of all episodes so far",
        )
    axes.set_xlim(0, 1.04 * max(map(len, runs)) + 0.5)
    margin = 0.05 * (limits[1] - limits[0]) or 1.0
    axes.set_ylim(limits[0] - margin, limits[1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("episode", fontsize=12)
    axes.set_ylabel("return", fontsize=12)


def evaluation_games(axes: Axes, stage: str, runs: Sequence[Sequence[float]]) -> None:
    """Returns of the games of an evaluation, in order.

    Args:
        axes: The panel.
        stage: Whose they are.
        runs: For each run: the returns of its games.
    """
    for returns in runs:
        axes.plot(
            np.arange(1, len(returns) + 1),
            returns,
            marker="o",
            markersize=5,
            linewidth=1.0,
            color=colour(stage),
            label="one game of the evaluation",
        )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("game", fontsize=12)
    axes.set_ylabel("return", fontsize=12)


def timestep_lines(
    axes: Axes,
    lines: Mapping[str, Mapping[int, float]],
    score: str,
    reference: tuple[str, float] | None = None,
) -> None:
    """A score against the number of timesteps, on a logarithmic scale.

    Args:
        axes: The panel.
        lines: By label: a score for every T, in their order.
        score: Its name.
        reference: Label and score of what has no timesteps.
    """
    for i, (name, values) in enumerate(lines.items()):
        marker, shade = _MARKERS[i % len(_MARKERS)], _BY_TIMESTEPS[-1 - i % len(_BY_TIMESTEPS)]
        axes.plot(list(values), list(values.values()), marker=marker, color=shade, label=name)
    if reference is not None:
        name, value = reference
        axes.axhline(value, color=_ANN, linestyle=(0, (4, 3)), zorder=1, label=name)
    ticks = sorted({timesteps for values in lines.values() for timesteps in values})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("timesteps", fontsize=12)
    axes.set_ylabel(score, fontsize=12)


def grouped_bars(
    axes: Axes,
    groups: Sequence[str],
    bars: Sequence[Bars],
    unit: str,
    log: bool = False,
    numbers: bool = False,
) -> None:
    """Bars side by side, one of every kind in each group: the mean over runs, and each run.

    Args:
        axes: The panel.
        groups: Their names; of a single one the bars have names instead.
        bars: The kinds.
        unit: Of the heights.
        log: A logarithmic scale.
        numbers: Write its height on every bar.
    """
    width = 0.8 / len(bars)
    ends = []
    for k, kind in enumerate(bars):
        look = _bar(kind.stage)
        if len(groups) > 1:
            look["label"] = kind.label
        centres = np.arange(len(groups)) - 0.4 + (k + 0.5) * width
        each = np.array(kind.runs, dtype=float)
        there = ~np.isnan(each).all(axis=0)
        heights = np.full(len(groups), np.nan)
        heights[there] = np.nanmean(each[:, there], axis=0)
        axes.bar(centres[there], heights[there], 0.9 * width, **look)
        if len(each) > 1:
            for run in each:
                _run_dots(axes, centres, run, kind.stage)
        published = np.array(kind.published or [None] * len(groups), dtype=float)
        if not np.isnan(published).all():
            axes.plot(centres, published, linestyle="", label="the paper", **_PUBLISHED)
        if numbers:
            marks = np.vstack([published, *(each if len(each) > 1 else [])])
            for x, height, above in zip(centres, heights, marks.T, strict=True):
                _write_height(axes, x, height, above)
        ends += [end for end in (*each.ravel(), *published) if not np.isnan(end)]
    if log:
        axes.set_yscale("log")
        # room below the least, or a bar that is it would have no height
        axes.set_ylim(min(ends) / 2, max(ends) * 2)
    else:
        axes.margins(y=0.12 if numbers else 0.05)
    if len(groups) == 1:
        centres = -0.4 + (np.arange(len(bars)) + 0.5) * width
        axes.set_xticks(centres, [kind.label.replace(", ", "\n") for kind in bars], fontsize=10)
    else:
        axes.set_xticks(range(len(groups)), groups)
        if len(groups) > _LEVEL:
            axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(unit, fontsize=12)


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation (n - 1; 0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _write_height(axes: Axes, x: float, height: float, marks: NDArray[np.float64]) -> None:
    """Writes a bar's height on it, or on the marks that would cover the number."""
    if np.isnan(height):
        return
    covering = marks[(0.8 * height < marks) & (marks < 1.5 * height)]
    axes.annotate(
        f"{height:.0f}" if height >= 100 else f"{height:.3g}",
        (x, max([height, *covering])),
        xytext=(0, 7 if covering.size else 2),
        textcoords="offset points",
        ha="center",
        fontsize=9,
    )


def _run_dots(axes: Axes, x: ArrayLike, y: ArrayLike, stage: str) -> None:
    axes.plot(
        x,
        y,
        linestyle="",
        marker="o",
        markersize=6,
        markerfacecolor="white",
        color=colour(stage),
        label="ours, one run",
    )


def _bar(stage: str) -> dict[str, Any]:
    found = Stage.find(stage)
    hatch = _HATCHES.get((found.kind if found else stage).rpartition("-")[2])
    return {"facecolor": colour(stage), "edgecolor": "white", "hatch": hatch}


def _stage_ticks(axes: Axes, stages: Sequence[str]) -> None:
    # all on two lines, or the first lines would not stand level
    names = [name if "\n" in name else f"{name}\n" for name in map(label, stages)]
    axes.set_xticks(range(len(stages)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(stages) - 0.4)


def _style(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=_GRID, linewidth=0.8)
    axes.tick_params(labelsize=11)
