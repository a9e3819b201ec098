"""Figure of several runs: learning curves, and returns against energy."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snn_rl.chain.records import StageResult, finished, read_stages
from snn_rl.chain.stages import ANN
from snn_rl.core.energy import FLOAT32, energy
from snn_rl.reports.figures import grid, stage_title
from snn_rl.reports.panels import RUNNING, color, running_mean
from snn_rl.reports.run_report import with_energy

_POINTS = 200  # of a learning curve


def draw(tasks: Mapping[str, Sequence[Path]]) -> Figure | None:
    """Draws two panels for each task; returns None if no run has data.

    Args:
        tasks: Directories of the runs of each task.
    """
    panels = {}
    for name, directories in tasks.items():
        runs = [read_stages(directory) for directory in directories]
        trained = [stage.counters for run in runs for stage in finished(run) if stage.name == ANN]
        episodes = [counters.episodes for counters in trained if counters and counters.episodes]
        if episodes:
            panels[f"{name}: training of the ANN"] = partial(learning_curve, runs=episodes)
        points = _points(runs)
        if points:
            panels[f"{name}: sticky actions and energy"] = partial(
                returns_against_energy, points=points
            )
    return grid(panels, 2) if panels else None


def learning_curve(axes: Axes, runs: Sequence[Sequence[Sequence[float]]]) -> None:
    """Draws the mean of the runs' running means, and the range of the runs.

    Args:
        axes: Axes of the panel.
        runs: Training episodes of each run, [agent step, return, ...].
    """
    curves = [([row[0] for row in run], running_mean([row[1] for row in run])) for run in runs]
    first, last = max(steps[0] for steps, _ in curves), max(steps[-1] for steps, _ in curves)
    grid_steps = np.linspace(first, last, _POINTS)
    # Beyond the end of a run, only the other runs count.
    values = np.array(
        [
            np.interp(grid_steps, steps, means, left=means[0], right=np.nan)
            for steps, means in curves
        ]
    )
    axes.fill_between(
        grid_steps,
        np.nanmin(values, 0),
        np.nanmax(values, 0),
        color=color(ANN),
        alpha=0.25,
        linewidth=0,
        label="lowest to highest run",
    )
    axes.plot(
        grid_steps, np.nanmean(values, 0), color=color(ANN), linewidth=2.2, label="mean of the runs"
    )
    axes.set_xlabel("agent steps")
    axes.set_ylabel(f"mean return of {RUNNING} episodes")


def returns_against_energy(axes: Axes, points: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draws the stages of all runs.

    Args:
        axes: Axes of the panel.
        points: Energy of a decision in microjoules and mean return of each run, by stage.
    """
    for stage, values in points.items():
        x, y = zip(*values, strict=True)
        axes.plot(x, y, "o", color=color(stage), markersize=7, alpha=0.8)
        axes.annotate(
            stage_title(stage),
            (float(np.mean(x)), max(y)),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=10,
        )
    axes.margins(0.12)
    axes.set_xlabel("energy of a decision (µJ)")
    axes.set_ylabel("mean return")


def _points(runs: Sequence[Sequence[StageResult]]) -> dict[str, list[tuple[float, float]]]:
    """Returns the points of `returns_against_energy` for stages whose energy is defined."""
    points: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for stage in [*(each for each in finished(run) if each.analog), *with_energy(run)]:
            used = energy(stage.spec, stage.rates, FLOAT32)
            picojoules = used.analog if stage.analog else used.spiking
            score = stage.evaluation.sticky.mean
            points.setdefault(stage.name, []).append((picojoules / 1e6, score))
    return points
