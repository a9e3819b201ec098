"""Panels of the figure of several runs."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from snn_rl.reports import sweep_figure


def axes():
    return Figure().subplots()


def test_learning_curve_shows_the_mean_and_the_range_of_the_runs():
    # 20 episodes or fewer: the running mean is the mean so far. Both runs have steps 10 to 30.
    slow = [[step, value, 5] for step, value in ((10, 0.0), (20, 2.0), (30, 4.0))]
    fast = [[step, value, 5] for step, value in ((0, 6.0), (20, 6.0), (40, 9.0))]
    panel = axes()
    sweep_figure.learning_curve(panel, [slow, fast])
    (line,) = panel.lines
    x, y = line.get_data()
    assert (x[0], x[-1]) == (10, 40)
    assert (y[0], y[-1]) == ((0 + 6) / 2, 7)  # only one run reaches the end
    assert y[np.searchsorted(x, 30) - 1] == pytest.approx((2 + 6.5) / 2, abs=0.05)
    (band,) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 7)


def test_runs_without_common_steps_are_drawn():
    panel = axes()
    sweep_figure.learning_curve(panel, [[[5, 1.0, 2]], [[9, 3.0, 2]]])
    assert np.isfinite(panel.lines[0].get_data()[1]).all()


def test_every_run_of_a_stage_is_a_dot():
    panel = axes()
    points = {"ann": [(4.0, 1.0)], "T1": [(1.0, 2.0), (1.5, 3.0)]}
    sweep_figure.returns_against_energy(panel, points)
    drawn = [list(zip(*line.get_data(), strict=True)) for line in panel.lines]
    assert drawn == list(points.values())
    assert [text.get_text() for text in panel.texts] == ["ANN", "T1"]


def test_nothing_is_drawn_without_runs():
    assert sweep_figure.draw({}) is None
