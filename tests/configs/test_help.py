"""`--help` of every command."""

import re
import runpy
import sys

import pytest

from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import settings_of

LISTED = re.compile(r"^  ([\w.]+)=", re.MULTILINE)
EXPECTED = {
    "train": {"env", "T", "seed", "run_dir", "preset", "ann", "dqn.steps", "iir.objective"},
    "classify": {"dataset", "data", "net", "T", "fit.epochs", "iir.epochs", "iir.thresholds"},
    "evaluate": {"env", "T", "run_dir", "episodes", "eval.epsilon", "eval.sticky", "eval.seed"},
    "play": {"env", "T", "engine", "overlay", "play.output", "play.fps", "eval.seed"},
    "export": {"env", "T", "exact", "format", "output", "check_frames", "chip", "eval.seed"},
    "report": {"env", "seed", "run_dir", "paper", "figure", "table", "sweep", "runs"},
    "publish": {"env", "T", "run_dir", "zoo", "repo", "episodes", "eval.seed", "eval.sticky"},
}


def help_of(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> str:
    monkeypatch.setattr(sys, "argv", [command, "--help", *more])
    monkeypatch.delitem(sys.modules, f"snn_rl.{command}", raising=False)
    runpy.run_module(f"snn_rl.{command}", run_name="__main__", alter_sys=True)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", EXPECTED)
def test_help_lists_the_settings_of_the_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, monkeypatch, capsys)
    assert f"    python -m snn_rl.{command} " in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert EXPECTED[command] <= set(LISTED.findall(text))


@pytest.mark.parametrize(("command", "schema"), [("train", Config), ("classify", ClassifyConfig)])
def test_help_all_lists_every_setting_with_its_default(
    command: str,
    schema: type,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of(command, monkeypatch, capsys, "all")
    assert LISTED.findall(text) == list(settings_of(schema))
    assert max(len(line) for line in text.splitlines()) <= 80
    for each in settings_of(schema).values():
        words = each.description.split()
        assert re.search(r"\s+".join(map(re.escape, words)), text), each.name
    assert "  T=1  " in text and "  run_dir=null  " in text and "  direct=false  " in text
