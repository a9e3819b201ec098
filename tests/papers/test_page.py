"""The settings paper=, figure= and table= of the report command, and the registry."""

import subprocess
import sys

import pytest

from snn_rl import report
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.papers.page import FIGURE, MAKERS, Compared, Page, differences, write_page

PAPERS = "iir, stdb or ull"
OF_IIR = "figure=3, 5 or 6 or table=1, 3, 4 or 5"


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    run_command(Config, report.main, presets=report.presets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper=iir", "figure=3"], "no finished run of CartPole-v1 or PongNoFrameskip-v4 in "),
        (["paper=ull", "figure=4"], "no run in runs fits this figure. To make a first run: "),
        (["paper=iri", "figure=3"], f"unknown paper=iri: must be {PAPERS}"),
        (["paper=none", "table=1"], f"unknown paper=none: must be {PAPERS}"),
        (["paper=iir"], f"paper=iir needs one figure or one table: use {OF_IIR}"),
        (["paper=ull", "figure=7"], "figure=7 of paper=ull is not reproduced: use figure=2, 3 or"),
        (["paper=stdb", "figure=4"], "figure=4 of paper=stdb is not reproduced: use figure=3 or 5"),
        (["paper=iir", "figure=0"], f"figure=0 of paper=iir is not reproduced: use {OF_IIR}"),
        (["paper=iir", "table=7"], f"table=7 of paper=iir is not reproduced: use {OF_IIR}"),
        (["paper=iir", "figure=three"], "figure: "),
        (["figure=3"], f"figure=3 needs a paper: use paper={PAPERS}"),
        (["table=1"], f"table=1 needs a paper: use paper={PAPERS}"),
        (["figure=3", "env=CartPole-v1"], "figure=3 needs a paper"),
        (["paper=iir", "figure=3", "table=1"], "paper=iir needs one figure or one table: use "),
        (["paper=iir", "figure=3", "env=CartPole-v1"], "env=CartPole-v1 cannot be combined with "),
        (["paper=iir", "table=1", "env=CartPole-v1"], "env=CartPole-v1 cannot be combined with "),
        (["paper=iir", "figure=3", "run_dir=x"], "run_dir=x cannot be combined with paper=iir"),
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


def test_the_command_writes_the_requested_page(image_stage, tmp_path, monkeypatch, capsys):
    image_stage("runs/seed0", "ann")
    image_stage("runs/seed0", "T2-converted", **{"iir.thresholds": "clip"})
    command(monkeypatch, "paper=ull", "figure=2", f"runs={tmp_path}")
    *left, path = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in left] == ["missing", "missing"]
    assert path == f"{tmp_path}/paper/ull-figure2/README.md"
    command(monkeypatch, "paper=ull", "table=1", f"runs={tmp_path}")
    assert capsys.readouterr().out == f"{tmp_path}/paper/ull-table1/README.md\n"


def test_a_registered_function_makes_a_page(tmp_path, monkeypatch):
    def figure(folder):
        run = ("seed 0", folder / "CartPole-v1/seed0", ["a command"])
        return Page(
            "Everything.", ["## Numbers"], (["command"], [run], "A note."), missing=["All."]
        )

    monkeypatch.setitem(MAKERS, ("iir", FIGURE, 9), figure)
    path, missing = write_page(("iir", FIGURE, 9), tmp_path)
    text = path.read_text()
    assert path == tmp_path / "paper/iir-figure9/README.md"
    assert missing == ["All."]
    assert text.startswith(
        "# Figure 9 of [IIR], from our runs\n\nNo panels: no matching runs were found.\n\n[IIR]: "
    )
    assert "*. Figure 9: Everything.\n\n## Numbers\n\n## Runs" in text
    assert "| [seed 0](../../CartPole-v1/seed0) | a command |\n\nA note.\n\n" in text
    assert text.endswith("## Missing runs\n\n- All.\n")


def test_differences_are_the_recorded_settings_that_are_not_the_paper_s():
    paper = {"lr": 0.1, "steps": 9, "name": "a", "own": None, "threads": 1}
    pages = [
        Compared("x", {"lr": 0.1, "steps": 8, "new": None, "threads": 2}, paper),
        Compared("x", {"lr": 0.1, "steps": 7, "name": "a", "other": 3}, paper),
        Compared("y", {"lr": 0.2, "steps": 9, "other": 3}, paper),
    ]
    assert differences(pages) == [
        ("x", "steps", "9", "8, 7"),
        ("all", "other", "–", "3"),
        ("y", "lr", "0.1", "0.2"),
    ]
    pages.append(Compared("z", {"steps": 7}, paper))
    assert ("x, y", "other", "–", "3") in differences(pages)


def test_a_page_lists_the_differences_from_the_paper(tmp_path, monkeypatch):
    for number, lr in ((1, 1.0), (2, 2.0)):
        compared = [Compared("A", {"lr": 1.0}, {"lr": lr})]
        page = Page("All.", [], ([], [], ""), compared, "game", ["A remark."])
        monkeypatch.setitem(MAKERS, ("iir", FIGURE, number), lambda folder, page=page: page)
    same, other = (
        write_page(("iir", FIGURE, n), tmp_path)[0].read_text().split("## Differences ")[1]
        for n in (1, 2)
    )
    assert "- A remark.\n\nAll recorded settings are those of the paper's preset." in same
    assert "| game | setting | paper | ours |" in other
    assert "| A | `lr` | 2.0 | 1.0 |" in other


def test_a_page_without_a_picture_needs_no_matplotlib(image_stage, tmp_path):
    image_stage("runs/net/seed0", "ann")
    script = (
        "import sys; from snn_rl import report; from snn_rl.configs.compose import run_command\n"
        "from snn_rl.configs.schema import Config\n"
        "for words in (['paper=iir', 'table=1'], ['sweep=runs']):\n"
        "    sys.argv = ['report', *words]\n"
        "    run_command(Config, report.main, presets=report.presets)\n"
        "    assert 'matplotlib' not in sys.modules, words\n"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=tmp_path, timeout=120).returncode == 0
