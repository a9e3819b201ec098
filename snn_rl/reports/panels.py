"""Panels of figures, each drawn from plain numbers into given axes.

A stage has the same color in every figure (palette of Okabe and Ito, safe for color-blind readers).
Hatches mark stages that were retrained directly from the converted ANN (lines), trained from
scratch (crosses), carry their membrane state (dots) or compute on the integer grid (plus signs).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snn_rl.chain.stages import ANN, CARRIED, CONVERTED, DIRECT, EXACT, SCRATCH, Stage

if TYPE_CHECKING:  # matplotlib is imported when a figure is drawn
    from matplotlib.axes import Axes

Drawing = Callable[["Axes"], None]  # draws one panel

RUNNING = 20  # episodes
AT_ONE_PREFIX = "T1 of "  # name of a stage whose weights are run at T = 1
DASHED = (0, (4, 3))

ANN_COLOR, _CONVERTED_COLOR = "#555555", "#CC79A7"
STAGE_COLORS = ("#D55E00", "#E69F00", "#009E73", "#56B4E9", "#0072B2")  # T = 1, 2, ...
_HATCHES = {DIRECT: "///", CARRIED: "...", EXACT: "++", SCRATCH: "xxx"}
_MARKERS = "osD^v"
_MAX_LEVEL_LABELS = 8  # more group names than these are rotated
_PUBLISHED: dict[str, Any] = {
    "color": "black",
    "marker": "D",
    "markersize": 7,
    "markerfacecolor": "white",
}
_ERROR_BARS: dict[str, Any] = {"elinewidth": 1.8, "capsize": 5, "capthick": 1.8}


class Bars(NamedTuple):
    """Bars of one kind, one in each of several groups, with the color and hatch of a stage.

    The heights of each run, and of the paper if known, have one number per group. None and NaN
    stand for a missing number.
    """

    label: str
    stage: str
    runs: Sequence[Sequence[float | None]]
    published: Sequence[float | None] = ()


def color(stage: str) -> str:
    """Returns the color of a stage by its name (ann, T5, T1-direct, T100-converted)."""
    parsed = Stage.parse(stage)
    if parsed.timesteps is None:
        return ANN_COLOR
    if parsed.kind == CONVERTED:
        return _CONVERTED_COLOR
    return STAGE_COLORS[(parsed.timesteps - 1) % len(STAGE_COLORS)]


def tick_label(stage: str) -> str:
    """Returns the name of a stage on an axis, with one line for each of its parts."""
    return stage.replace(ANN, "ANN").replace("-", "\n")


def literal(name: str) -> str:
    """Returns text that matplotlib draws as the name, even if the name has dollar signs."""
    return name.replace("$", r"\$")


def bar_style(stage: str) -> dict[str, Any]:
    """Returns matplotlib's options for the bars of a stage."""
    hatch = _HATCHES.get(Stage.parse(stage).kind.rpartition("-")[2])
    return {"facecolor": color(stage), "edgecolor": "white", "hatch": hatch}


def style(axes: "Axes", grid: Literal["x", "y"] = "y") -> None:
    """Sets the spines, the grid and the size of the tick labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.8)
    axes.tick_params(labelsize=11)


def running_mean(values: Sequence[float], window: int = RUNNING) -> list[float]:
    """Returns the mean of each value and up to window - 1 values before it."""
    return [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the standard deviation (n - 1; 0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def pooled_returns(
    axes: "Axes",
    returns: Mapping[str, Sequence[Sequence[float]]],
    published: Mapping[str, tuple[float, float]],
) -> None:
    """Draws the mean and standard deviation over the episodes of all runs, and each run's mean."""
    for i, (stage, runs) in enumerate(returns.items()):
        mean, std = mean_and_std([value for run in runs for value in run])
        axes.errorbar(
            i - 0.2,
            mean,
            std,
            color=color(stage),
            marker="o",
            markersize=9,
            label="ours, mean ± std over all episodes",
            **_ERROR_BARS,
        )
        if len(runs) > 1:
            _run_dots(axes, [i] * len(runs), [float(np.mean(run)) for run in runs], stage)
        if stage in published:
            mean, std = published[stage]
            axes.errorbar(i + 0.2, mean, std, label="the paper", **_PUBLISHED, **_ERROR_BARS)
    axes.set_xticks(range(len(returns)), [tick_label(stage) for stage in returns])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(returns) - 0.4)
    axes.set_ylabel("episode return", fontsize=12)


def pooled_rates(
    axes: "Axes",
    stage: str,
    layers: Sequence[str],
    rates: Sequence[Sequence[float]],
    published: float | None,
) -> None:
    """Draws the spikes per neuron and decision of every layer: the mean over runs, and each run."""
    axes.bar(range(len(layers)), np.mean(rates, axis=0), 0.62, **bar_style(stage))
    if len(rates) > 1:
        for run in rates:
            _run_dots(axes, range(len(layers)), run, stage)
    if published is not None:
        axes.plot(len(layers) - 1, published, linestyle="", label="the paper", **_PUBLISHED)
    axes.set_xticks(range(len(layers)), layers)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("spikes per neuron and decision", fontsize=12)


def training_curves(
    axes: "Axes", stage: str, runs: Sequence[Sequence[float]], limits: tuple[float, float]
) -> None:
    """Draws the returns of training episodes in order, and two means of each run."""
    longest = max(map(len, runs))
    few = longest < 3 * RUNNING
    for returns in runs:
        episodes = np.arange(1, len(returns) + 1)
        axes.plot(
            episodes,
            returns,
            linestyle="",
            marker=".",
            color=color(stage),
            alpha=0.7 if few else 0.3,
            markersize=9 if few else 5,
            mew=0,
            label="one episode",
        )
        axes.plot(
            episodes,
            running_mean(returns),
            color=color(stage),
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
    axes.set_xlim(0, 1.04 * longest + 0.5)
    margin = 0.05 * (limits[1] - limits[0]) or 1.0
    axes.set_ylim(limits[0] - margin, limits[1] + margin)
    _number_episodes(axes)


def evaluation_episodes(axes: "Axes", stage: str, runs: Sequence[Sequence[float]]) -> None:
    """Draws the returns of an evaluation's episodes in order."""
    for returns in runs:
        axes.plot(
            np.arange(1, len(returns) + 1),
            returns,
            marker="o",
            markersize=5,
            linewidth=1.0,
            color=color(stage),
            label="one episode of the evaluation",
        )
    axes.set_xlim(left=0)
    _number_episodes(axes)


def timestep_lines(
    axes: "Axes",
    lines: Mapping[str, Mapping[int, float]],
    score: str,
    reference: tuple[str, float] | None = None,
) -> None:
    """Draws a score against the number of timesteps, on a logarithmic scale."""
    for i, (name, values) in enumerate(lines.items()):
        marker, shade = _MARKERS[i % len(_MARKERS)], STAGE_COLORS[-1 - i % len(STAGE_COLORS)]
        axes.plot(
            list(values), list(values.values()), marker=marker, color=shade, label=literal(name)
        )
    if reference is not None:
        name, value = reference
        axes.axhline(value, color=ANN_COLOR, linestyle=DASHED, zorder=1, label=literal(name))
    ticks = sorted({timesteps for values in lines.values() for timesteps in values})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("timesteps", fontsize=12)
    axes.set_ylabel(score, fontsize=12)


def grouped_bars(
    axes: "Axes",
    groups: Sequence[str],
    bars: Sequence[Bars],
    unit: str,
    log: bool = False,
    numbers: bool = False,
) -> None:
    """Draws bars side by side in each group: the mean over runs, and each run."""
    width = 0.8 / len(bars)
    ends = []
    for k, kind in enumerate(bars):
        look = bar_style(kind.stage)
        if len(groups) > 1:
            look["label"] = kind.label
        centers = np.arange(len(groups)) - 0.4 + (k + 0.5) * width
        each = np.array(kind.runs, dtype=float)
        known = ~np.isnan(each).all(axis=0)
        heights = np.full(len(groups), np.nan)
        heights[known] = np.nanmean(each[:, known], axis=0)
        axes.bar(centers[known], heights[known], 0.9 * width, **look)
        if len(each) > 1:
            for run in each:
                _run_dots(axes, centers, run, kind.stage)
        published = np.array(kind.published or [None] * len(groups), dtype=float)
        if not np.isnan(published).all():
            axes.plot(centers, published, linestyle="", label="the paper", **_PUBLISHED)
        if numbers:
            marks = np.vstack([published, *(each if len(each) > 1 else [])])
            for x, height, above in zip(centers, heights, marks.T, strict=True):
                _write_height(axes, x, height, above)
        ends += [end for end in (*each.ravel(), *published) if not np.isnan(end)]
    if log:
        axes.set_yscale("log")
        axes.set_ylim(min(ends) / 2, max(ends) * 2)  # the lowest bar needs a height, too
    else:
        axes.margins(y=0.12 if numbers else 0.05)
    if len(groups) == 1:
        centers = -0.4 + (np.arange(len(bars)) + 0.5) * width
        axes.set_xticks(centers, [kind.label.replace(", ", "\n") for kind in bars], fontsize=10)
    else:
        axes.set_xticks(range(len(groups)), groups)
        if len(groups) > _MAX_LEVEL_LABELS:
            axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(unit, fontsize=12)


def _write_height(axes: "Axes", x: float, height: float, marks: NDArray[np.float64]) -> None:
    """Writes a bar's height above the bar, and above the marks that would cover the number."""
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


def _run_dots(axes: "Axes", x: ArrayLike, y: ArrayLike, stage: str) -> None:
    axes.plot(
        x,
        y,
        linestyle="",
        marker="o",
        markersize=6,
        markerfacecolor="white",
        color=color(stage),
        label="ours, one run",
    )


def _number_episodes(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("episode", fontsize=12)
    axes.set_ylabel("return", fontsize=12)
