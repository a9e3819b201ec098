"""The `snn-rl` command, which is also `python -m snn_rl`."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import snn_rl
from snn_rl.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
TINY = [
    *(
        "env=CartPole-v1",
        "network=4c8s8-8",
        "stages=none",
        "threads=1",
        "video=false",
        "episodes=1",
    ),
    *("rollout.n_envs=2", "rollout.cap=5", "dqn.steps=40", "dqn.learning_starts=20"),
    *("dqn.batch_size=4", "dqn.buffer_size=50", "dqn.epsilon_steps=20", "dqn.selection_games=0"),
    *("dqn.target_return=null", "iir.conversion_samples=8"),
]


pytestmark = pytest.mark.usefixtures("without_figures")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(fork: Callable[..., Any]) -> Run:
    """Runs the function of the console script in a folder."""

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        def start() -> None:
            sys.argv, sys.path = ["snn-rl", *arguments], [entry for entry in sys.path if entry]
            main()

        done: subprocess.CompletedProcess[str] = fork(start, cwd).wait()
        return done

    return run


def test_console_script_runs_main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"snn-rl": "snn_rl.__main__:main"}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_every_command_is_listed_in_one_line(
    tmp_path: Path, command: Run, arguments: tuple[str, ...]
) -> None:
    modules = {path.stem for path in (ROOT / "snn_rl").glob("*.py")}
    assert set(COMMANDS) == modules - {"__init__", "__main__"}
    done = command("snn_rl", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for command in COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  {command} ")]
        assert len(line) <= 100 and line.endswith(".")


def test_version_is_the_package_s(tmp_path: Path, command: Run) -> None:
    assert command("snn_rl", "--version", cwd=tmp_path).stdout == f"snn_rl {snn_rl.__version__}\n"


@pytest.mark.parametrize("name", ["trian", "configs", "--sweep"])
def test_unknown_command_is_one_line_and_exit_code_2(
    tmp_path: Path, command: Run, name: str
) -> None:
    done = command("snn_rl", name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: unknown command {name}: must be one of train, ")
    assert done.stderr.count("\n") == 1


def test_train_is_the_same_as_the_module(tmp_path: Path, command: Run, script: Run) -> None:
    for name, run in (
        ("module", partial(command, "snn_rl.train")),
        ("script", partial(script, "train")),
    ):
        (tmp_path / name).mkdir()
        done = run(*TINY, "T=7", "run_dir=run", cwd=tmp_path / name)
        assert done.returncode == 0, done.stderr
    by_module, by_script = (
        json.loads((tmp_path / name / "run/run.json").read_text()) for name in ("module", "script")
    )
    assert by_script[0]["command"] == by_module[0]["command"]
    assert by_script[0]["command"].startswith(
        "python -m snn_rl.train env=CartPole-v1 network=4c8s8-8 "
    )
    files = [tmp_path / name / "run/T7-converted/metrics.json" for name in ("module", "script")]
    returns = [json.loads(file.read_text())["greedy"]["returns"] for file in files]
    assert returns[0] == returns[1]


def test_sweep_starts_a_job_per_value(tmp_path: Path, script: Run) -> None:
    done = script("train", "-m", "env=CartPole-v1", "T=7,8", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: T=7 must not exceed T_start=5" in done.stderr


def test_modules_of_the_working_directory_are_importable(tmp_path: Path, script: Run) -> None:
    (tmp_path / "my_games.py").write_text("raise SystemExit('imported my_games')")
    done = script("train", "env=my_games:Any-v0", "T=1", cwd=tmp_path)
    assert done.stderr.strip() == "imported my_games"
