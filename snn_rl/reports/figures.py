"""Figures of the reports, drawn from plain numbers and returned as matplotlib Figures.

Figures are built without pyplot, so drawing selects no backend for the process.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from snn_rl.chain.records import GREEDY, STICKY
from snn_rl.chain.stages import ANN, CONVERTED, DIRECT, Stage
from snn_rl.files.atomic import write_atomic
from snn_rl.reports.panels import (
    ANN_COLOR,
    AT_ONE_PREFIX,
    DASHED,
    RUNNING,
    STAGE_COLORS,
    Drawing,
    bar_style,
    color,
    literal,
    mean_and_std,
    running_mean,
    style,
    tick_label,
    timestep_lines,
)

SKIPPING = "ANN, skips zeros"  # bar of an ANN that skips its zeros, in `energies`
_FIRST_LAYER = "#BBBBBB"


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG with 150 dots per inch."""
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))


def learning_curves(episodes: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draws training episodes, [agent step, return, ...] by stage, and their running mean."""
    # The ANN stage is far longer than the others, so the panels do not share the axis of steps.
    analog = [Stage.parse(stage).analog for stage in episodes]
    widths = [2.4 if wide else 1.0 for wide in analog]
    figure = Figure(figsize=(min(11.0, 2.5 + 1.6 * sum(widths)), 4.2), layout="constrained")
    panels = figure.subplots(
        1, len(episodes), sharey=True, squeeze=False, gridspec_kw={"width_ratios": widths}
    )[0]
    for axes, wide, (stage, rows) in zip(panels, analog, episodes.items(), strict=True):
        style(axes)
        steps, returns = [row[0] for row in rows], [row[1] for row in rows]
        axes.plot(steps, returns, ".", color=color(stage), alpha=0.3, markersize=5, mew=0)
        axes.plot(steps, running_mean(returns), color=color(stage), linewidth=2.2)
        axes.set_title(stage_title(stage), color=color(stage), fontweight="bold")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5 if wide else 2, prune="upper"))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel("return of a training episode", fontsize=12)
    figure.supxlabel("agent steps within the stage", fontsize=12)
    keys = [
        Line2D([], [], color=ANN_COLOR, marker=".", linestyle="", alpha=0.5, label="one episode"),
        Line2D([], [], color=ANN_COLOR, linewidth=2.2, label=f"running mean of {RUNNING} episodes"),
    ]
    figure.legend(handles=keys, loc="outside upper right", ncols=2, frameon=False, fontsize=11)
    figure.get_layout_engine().set(wspace=0.03)  # type: ignore[union-attr, call-arg]
    return figure


def evaluation_returns(returns: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draws the mean and standard deviation of the evaluation's returns, and every return."""
    size = min(11.0, max(7.2, 2.0 + 1.1 * len(returns)))
    figure, axes = _single(size)
    looks = ((GREEDY, -0.17, "o", True), (STICKY, 0.17, "s", False))
    for i, (stage, columns) in enumerate(returns.items()):
        for column, offset, marker, filled in looks:
            values = np.asarray(columns[column])
            mean, std = mean_and_std(columns[column])
            spread = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(i + offset + spread, values, ".", color=color(stage), alpha=0.3, mew=0)
            axes.errorbar(
                i + offset,
                mean,
                std,
                color=color(stage),
                marker=marker,
                markersize=9,
                markerfacecolor=color(stage) if filled else "white",
                markeredgewidth=1.8,
                elinewidth=1.8,
                capsize=5,
                capthick=1.8,
            )
    key: dict[str, Any] = {"color": ANN_COLOR, "linestyle": ""}
    square: dict[str, Any] = {"marker": "s", "markersize": 8, "markerfacecolor": "white"}
    keys = [
        Line2D([], [], marker="o", markersize=8, label="greedy", **key),
        Line2D([], [], label="sticky actions", **square, **key),
        Line2D([], [], marker=".", alpha=0.5, label="one episode", **key),
    ]
    if ANN in returns:
        line: dict[str, Any] = {"color": ANN_COLOR, "linestyle": DASHED}
        axes.axhline(float(np.mean(returns[ANN][GREEDY])), linewidth=1.1, zorder=1, **line)
        keys.append(Line2D([], [], label="ANN, greedy mean", **line))
    # every label has two lines, so that the first lines are level
    names = [name if "\n" in name else f"{name}\n" for name in map(tick_label, returns)]
    axes.set_xticks(range(len(returns)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(returns) - 0.4)
    axes.set_ylabel("episode return (mean ± std)", fontsize=12)
    figure.legend(handles=keys, loc="outside upper right", ncols=4, frameon=False, fontsize=11)
    return figure


def spike_rates(layers: Sequence[str], rates: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the spikes per neuron and decision of every hidden layer, and over all of them."""
    converted = [stage for stage in rates if Stage.parse(stage).kind == CONVERTED]
    retrained = [stage for stage in rates if stage not in converted]
    # A converted network has many timesteps and ten times the spikes, so it has its own scale.
    groups = [group for group in (retrained, converted) if group]
    widths = [2.0, 1.1][: len(groups)]
    figure = Figure(figsize=(min(11.0, 6.0 + len(rates)), 4.6), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
    for axes, group in zip(panels, groups, strict=True):
        style(axes)
        width = 0.8 / len(group)
        for k, stage in enumerate(group):
            centers = np.arange(len(layers)) - 0.4 + (k + 0.5) * width
            axes.bar(centers, rates[stage], 0.9 * width, **bar_style(stage))
        axes.set_xticks(range(len(layers)), layers)
        axes.tick_params(axis="x", length=0, labelsize=11)
        axes.set_ylabel("spikes per neuron and decision", fontsize=12)
        if converted:
            axes.set_title(
                "conversion only" if group is converted else "retrained stages", fontsize=12
            )
    keys = [Patch(**bar_style(stage), label=stage_title(stage)) for stage in rates]
    figure.legend(handles=keys, loc="outside upper right", ncols=8, frameon=False, fontsize=11)
    return figure


def rates_by_layer(layers: Sequence[str], rates: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the spikes per neuron of every hidden layer as one line per network, on a log scale.

    Args:
        layers: Names of the layers, from the input on.
        rates: Spikes per neuron in each layer, by stage. `AT_ONE_PREFIX` marks the weights of a
            stage at T = 1.
    """
    figure, axes = _single(min(11.0, 4.0 + 0.6 * len(layers)))
    for name, values in rates.items():
        stage = name.removeprefix(AT_ONE_PREFIX)
        shown = [value if value > 0 else np.nan for value in values]  # zero has no logarithm
        direct = Stage.parse(stage).kind == DIRECT
        line = "--" if name != stage else ":" if direct else "-"
        axes.plot(shown, color=color(stage), label=name, linestyle=line, marker="o")
    axes.set_yscale("log")
    axes.set_xticks(range(len(layers)), layers)
    axes.set_ylabel("spikes per neuron and image", fontsize=12)
    axes.legend(frameon=False, fontsize=11)
    return figure


def scores_by_timesteps(lines: Mapping[str, Mapping[int, float]], score: str) -> Figure:
    """Draws a score against the number of timesteps."""
    figure, axes = _single(8.0)
    timestep_lines(axes, lines, score)
    axes.legend(frameon=False, fontsize=10)
    return figure


def energies(bars: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """Draws the energy of one decision, split into the first layer and the other layers.

    Args:
        bars: (first layer, other layers) in microjoules by kind of arithmetic and by stage. The
            stage "ann" is the dense ANN, `SKIPPING` is the ANN that skips its zeros.
    """
    names = [stage_title(stage) for stage in next(iter(bars.values()))]
    figure = Figure(figsize=(11.0, 1.9 + 0.42 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(bars), squeeze=False, sharey=True)[0]
    for axes, (arithmetic, stages) in zip(panels, bars.items(), strict=True):
        style(axes, grid="x")
        dense = sum(stages[ANN])
        for i, (stage, (first, other)) in enumerate(stages.items()):
            look = bar_style(ANN) | {"hatch": "///"} if stage == SKIPPING else bar_style(stage)
            axes.barh(i, first, 0.7, color=_FIRST_LAYER, edgecolor="white")
            axes.barh(i, other, 0.7, left=first, **look)
            axes.annotate(
                f"{dense / (first + other):.1f}×",
                (first + other, i),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
            )
        axes.margins(x=0.12)
        axes.set_title(arithmetic, fontsize=12)
        axes.set_xlabel("energy of one decision (µJ)", fontsize=12)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    ratio: dict[str, Any] = {"marker": "$n×$", "markersize": 18, "linestyle": "", "color": "black"}
    keys = [
        Patch(facecolor=_FIRST_LAYER, label="first layer (MAC)"),
        Patch(facecolor=ANN_COLOR, label="ANN's other layers (MAC)"),
        Patch(facecolor=STAGE_COLORS[0], label="spiking layers, by stage (AC)"),
        Line2D([], [], label="reduction from the dense ANN", **ratio),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=4, frameon=False, fontsize=11)
    return figure


def grid(panels: Mapping[str, Drawing], columns: int) -> Figure:
    """Draws panels row by row, with one legend for all of them above."""
    rows = -(-len(panels) // columns)
    columns = -(-len(panels) // rows)
    figure = Figure(figsize=(max(7.6, 4.4 * columns), 0.7 + 3.7 * rows), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    keys: dict[str, Any] = {}
    for axes, (title, draw) in zip(places, panels.items(), strict=False):
        style(axes)
        draw(axes)
        axes.set_title(literal(title), fontsize=12, loc="left", fontweight="bold")
        handles = zip(*axes.get_legend_handles_labels(), strict=True)
        # matplotlib lists plain lines before error bars, which readers look for first
        for handle, text in sorted(handles, key=lambda entry: isinstance(entry[0], Line2D)):
            keys.setdefault(text, handle)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.legend(
        keys.values(),
        keys.keys(),
        loc="outside upper center",
        ncols=columns + 1,  # a wider legend would be cut off
        frameon=False,
        fontsize=11,
    )
    figure.get_layout_engine().set(wspace=0.04, hspace=0.05)  # type: ignore[union-attr, call-arg]
    return figure


def _single(width: float) -> tuple[Figure, Axes]:
    """Returns a figure with one panel, and its axes."""
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    axes = figure.subplots()
    style(axes)
    return figure, axes


def stage_title(stage: str) -> str:
    """Returns the name of a stage in one line."""
    return tick_label(stage).replace("\n", " ")
