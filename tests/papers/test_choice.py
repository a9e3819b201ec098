"""What paper=, figure= and table= ask for, on the command line."""

import sys

import pytest

from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.papers.choice import MAKERS
from snn_rl.reports import run_report as report

PAPERS = "iir, stdb or ull"


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    run_command(Config, report.main, presets=report.presets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper=iir", "figure=3"], "no finished run of CartPole-v1 or PongNoFrameskip-v4 in "),
        (["paper=ull", "figure=4"], "no run in runs has what figure=4 of paper=ull shows; this "),
        (["paper=iri", "figure=3"], f"unknown paper=iri: must be {PAPERS}"),
        (["paper=none", "table=1"], f"unknown paper=none: must be {PAPERS}"),
        (
            ["paper=iir"],
            "which figure or table of paper=iir? Say figure=3, 5 or 6 or table=1, 3, 4 or 5",
        ),
        (
            ["paper=ull", "figure=7"],
            "figure=7 of paper=ull is not made here: must be one of 2, 3, 4\n",
        ),
        (
            ["paper=stdb", "figure=4"],
            "figure=4 of paper=stdb is not made here: must be one of 3, 5\n",
        ),
        (["paper=iir", "figure=0"], "figure=0 of paper=iir is not made here: must be one of 3, 5"),
        (["paper=iir", "table=7"], "table=7 of paper=iir is not made here: must be one of 1, 3, 4"),
        (["paper=iir", "figure=three"], "figure: "),
        (["figure=3"], f"figure=3 of which paper? Say paper={PAPERS}"),
        (["table=1"], f"table=1 of which paper? Say paper={PAPERS}"),
        (["figure=3", "env=CartPole-v1"], "figure=3 of which paper?"),
        (["paper=iir", "figure=3", "table=1"], "figure=3 and table=1 of paper=iir: say one of "),
        (["paper=iir", "figure=3", "env=CartPole-v1"], "env=CartPole-v1 does not go with paper="),
        (["paper=iir", "table=1", "env=CartPole-v1"], "env=CartPole-v1 does not go with paper="),
        (["paper=iir", "figure=3", "run_dir=x"], "run_dir=x does not go with paper=iir"),
        (["paper=iir", "figur=3"], "unknown setting figur=3; did you mean figure?"),
        ([], "env is missing: set, for example, env=CartPole-v1"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        command(monkeypatch, *arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_figures_and_tables_of_three_papers():
    assert sorted(MAKERS) == [
        *(("iir", "figure", number) for number in (3, 5, 6)),
        *(("iir", "table", number) for number in (1, 3, 4, 5)),
        *(("stdb", "figure", number) for number in (3, 5)),
        ("stdb", "table", 1),
        *(("ull", "figure", number) for number in (2, 3, 4)),
        ("ull", "table", 1),
    ]


def test_what_is_asked_for_is_written(image_stage, tmp_path, monkeypatch, capsys):
    image_stage("runs/seed0", "ann")
    image_stage("runs/seed0", "T2-converted", **{"iir.thresholds": "clip"})
    command(monkeypatch, "paper=ull", "figure=2", f"runs={tmp_path}")
    *left, path = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in left] == ["left out", "left out"]
    assert path == f"{tmp_path}/paper/ull-figure2/README.md"
    command(monkeypatch, "paper=ull", "table=1", f"runs={tmp_path}")
    assert capsys.readouterr().out == f"{tmp_path}/paper/ull-table1/README.md\n"
