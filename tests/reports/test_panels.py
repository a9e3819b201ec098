"""Panels of figures, read from their axes."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from snn_rl.reports import figures
from snn_rl.reports.panels import Bars, color, grouped_bars, timestep_lines

GROUPS = ("first", "second")


@pytest.fixture
def axes() -> Axes:
    return Figure().subplots()


def bars_of(axes: Axes) -> dict[float, float]:
    """Returns heights by the middle of the bars, in the order of drawing."""
    return {round(b.get_x() + b.get_width() / 2, 6): b.get_height() for b in axes.patches}


def points(axes: Axes, label: str) -> list[tuple[float, float]]:
    """Returns the visible marks of a label."""
    lines = [line for line in axes.lines if line.get_label() == label]
    marks = [(round(float(x), 6), float(y)) for line in lines for x, y in line.get_xydata()]
    return [mark for mark in marks if not np.isnan(mark[1])]


def test_bars_are_means_over_runs_beside_one_another(axes):
    kinds = [
        Bars("dense", "ann", [[1.0, 2.0], [3.0, 6.0]]),
        Bars("spiking", "T5-direct", [[5.0, 7.0]]),
    ]
    grouped_bars(axes, GROUPS, kinds, "ms")
    assert bars_of(axes) == {-0.2: 2.0, 0.8: 4.0, 0.2: 5.0, 1.2: 7.0}
    sides = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(right < left for (_, right), (left, _) in pairwise(sides))
    looks = [(to_hex(b.get_facecolor()).upper(), b.get_hatch()) for b in axes.patches]
    assert looks == [(color("ann"), None)] * 2 + [(color("T5"), "///")] * 2
    assert [text.get_text() for text in axes.get_xticklabels()] == list(GROUPS)
    assert list(axes.get_xticks()) == [0, 1]
    names = axes.get_legend_handles_labels()[1]
    assert [name for name in names if name != "ours, one run"] == ["dense", "spiking"]
    assert axes.get_ylabel() == "ms"
    assert axes.get_yscale() == "linear"


def test_several_runs_have_dots(axes):
    kinds = [Bars("dense", "ann", [[1.0, 2.0], [3.0, 6.0]]), Bars("spiking", "T5", [[5.0, 7.0]])]
    grouped_bars(axes, GROUPS, kinds, "ms")
    assert points(axes, "ours, one run") == [(-0.2, 1.0), (0.8, 2.0), (-0.2, 3.0), (0.8, 6.0)]


def test_published_numbers_are_in_the_middle_of_the_bars(axes):
    kinds = [
        Bars("dense", "ann", [[1.0, 2.0]]),
        Bars("spiking", "T5", [[5.0, 7.0]], [None, 9.0]),
    ]
    grouped_bars(axes, GROUPS, kinds, "ms")
    assert points(axes, "the paper") == [(1.2, 9.0)]


def test_bars_of_a_single_group_have_names(axes):
    kinds = [Bars("T2, ours", "T2", [[3.0]]), Bars("ANN", "ann", [[4.0]])]
    grouped_bars(axes, [""], kinds, "ms")
    assert bars_of(axes) == {-0.2: 3.0, 0.2: 4.0}
    assert [round(float(tick), 6) for tick in axes.get_xticks()] == [-0.2, 0.2]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["T2\nours", "ANN"]
    assert axes.get_legend_handles_labels()[1] == []


def test_heights_are_written_above_covering_marks(axes):
    kinds = [
        Bars("dense", "ann", [[1.25, 200.4], [1.75, 200.4]]),
        Bars("none", "T5", [[2.0, None]], [2.5, 8.0]),
    ]
    grouped_bars(axes, GROUPS, kinds, "ms", numbers=True)
    written = {text.get_text(): text.xy for text in axes.texts}
    assert {text: round(float(y), 6) for text, (_, y) in written.items()} == {
        "1.5": 1.75,  # the dot of the higher run
        "200": 200.4,
        "2": 2.5,  # the paper's
    }


@pytest.mark.parametrize("nothing", [None, float("nan")])
@pytest.mark.parametrize("log", [False, True])
def test_missing_numbers_are_left_out(axes, nothing, log):
    kinds = [
        Bars("dense", "ann", [[nothing, 8.0], [1.0, 2.0]], [nothing, 16.0]),
        Bars("spiking", "T5", [[4.0, nothing]]),
    ]
    grouped_bars(axes, GROUPS, kinds, "ms", log=log, numbers=True)
    assert bars_of(axes) == {-0.2: 1.0, 0.8: 5.0, 0.2: 4.0}
    assert points(axes, "ours, one run") == [(0.8, 8.0), (-0.2, 1.0), (0.8, 2.0)]
    assert points(axes, "the paper") == [(0.8, 16.0)]
    if log:
        assert axes.get_yscale() == "log"
        assert axes.get_ylim() == (0.5, 32.0)  # the lowest bar has a height


def test_one_line_per_label(axes):
    lines = {"search": {1: 10.0, 2: 40.0, 8: 60.0}, "clip": {2: 30.0, 16: 50.0}}
    timestep_lines(axes, lines, "accuracy (%)", ("ANN", 70.0))
    for name, values in lines.items():
        assert points(axes, name) == [*values.items()]
    assert {y for _, y in points(axes, "ANN")} == {70.0}
    search, clip, analog = axes.lines
    assert search.get_marker() != clip.get_marker()
    assert len({line.get_color() for line in axes.lines}) == 3
    assert list(analog.get_xdata()) == [0, 1]  # from one side of the panel to the other
    assert axes.get_legend_handles_labels()[1] == ["search", "clip", "ANN"]


def test_timesteps_are_ticks_on_a_logarithmic_scale(axes):
    timestep_lines(axes, {"a": {1: 1.0, 4: 2.0}, "b": {2: 1.0, 4: 3.0}}, "score")
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [1, 2, 4]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "4"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("timesteps", "score")
    assert len(axes.lines) == 2  # no reference


def test_dollar_signs_of_names_are_drawn_and_powers_of_ten_are_typeset() -> None:
    lines = {"$x$": {1: 1.0, 4: 2.0}}
    figure = figures.grid({"a $y$": partial(timestep_lines, lines=lines, score="score")}, 1)
    names = [*figure.legends[0].get_texts(), figure.axes[0]._left_title]
    assert [text._preprocess_math(text.get_text()) for text in names] == [
        ("$x$", False),
        ("a $y$", False),
    ]
    (axes,) = figures.rates_by_layer(["a", "b"], {"T1": [0.01, 0.5]}).axes
    powers = [label for label in axes.get_yticklabels() if "10" in label.get_text()]
    assert powers and all(label._preprocess_math(label.get_text())[1] for label in powers)
