"""Sweeps: every combination runs, whatever happens to the others."""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from snn_rl import train
from snn_rl.configs import sweep
from snn_rl.configs.compose import parse, print_error, run_command
from snn_rl.configs.schema import Config
from snn_rl.configs.sweep import combinations, launch
from snn_rl.utils.errors import UserError


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Config]:
    """The settings of the runs that were started, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return []


def run(monkeypatch: pytest.MonkeyPatch, started: list[Config], *arguments: str) -> int:
    """Runs a sweep whose runs with seed=1 fail, and returns the exit code."""

    def main(config: Config) -> None:
        if config.seed == 1:
            raise UserError("seed=1 is bad luck")
        if config.seed == 13:
            raise RuntimeError("a bug")
        started.append(config)

    monkeypatch.setattr(sys, "argv", ["train", "-m", "env=CartPole-v1", *arguments])
    try:
        run_command(Config, main, results=train.results)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_failed_sweep_of_one_run_names_the_run(
    started: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, started, "seed=1") == 1
    failed = capsys.readouterr().err.splitlines()[-1]
    assert failed == "error: 1 of 1 runs failed: env=CartPole-v1 seed=1"


def test_combinations_keep_the_order_of_the_command_line() -> None:
    assert combinations(parse(["a=1,2", "b='x,y'", "c=range(0,2)", "d=[1,2]"])) == [
        [f"a={a}", "b='x,y'", f"c={c}", "d=[1,2]"] for a in (1, 2) for c in (0, 1)
    ]


def test_a_failed_run_does_not_end_the_sweep(
    started: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert run(monkeypatch, started, "seed=1,x,13,0", "T=1") == 1
    assert [config.seed for config in started] == [0]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: seed=1 is bad luck"
    assert lines[1].startswith("error: seed: Value 'x'")
    assert "RuntimeError: a bug" in lines  # a bug keeps its traceback
    assert lines[-1] == "error: 3 of 4 runs failed: seed=1; seed=x; seed=13"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=2,3", "run_dir=same"], "seed=2 and seed=3 would both write to same/ann"),
        (["episodes=10,20"], "episodes=10 and episodes=20 would both write to"),
        (["threads=1,2"], "threads=1 and threads=2 would both write to"),
        (["iir.lr=0.5,0.1"], "'run_dir=runs/iir.lr${iir.lr}'"),
        (["seed=2,3", "hydra/launcher=jobli"], "hydra/launcher=jobli: must be one of basic"),
        (["seed=2,3", "hydra.launcher.jobs=2"], "hydra.launcher.jobs"),
        (["seed=2,3", "hydra.sweep.dir=[1"], "hydra.sweep.dir"),
        (["seed=2,3", "dqn.lr=fast"], "dqn.lr: Value 'fast'"),
    ],
)
def test_a_sweep_that_cannot_succeed_is_refused_before_it_starts(
    arguments: list[str],
    words: str,
    started: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, started, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert started == []


def test_runs_with_stages_of_their_own_share_a_directory(
    started: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, started, "stages=none", "T=2,4") == 0
    assert [config.T for config in started] == [2, 4]


def test_a_launcher_that_is_not_installed_names_its_extra(
    started: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "hydra_plugins.hydra_submitit_launcher" in sys.modules:
        pytest.skip("the extra slurm is installed")
    assert run(monkeypatch, started, "seed=2,3", "hydra/launcher=submitit_slurm") == 2
    assert "pip install 'snn_rl[slurm]'" in capsys.readouterr().err


def test_parallel_runs_end_with_the_process_that_started_them(
    tmp_path: Path, fork: Callable[..., Any]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra sweep is missing")

    def hold(words: Sequence[str]) -> None:
        with open(tmp_path / words[0], "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the process ends
            file.write("started")
            file.flush()
            time.sleep(600)

    def start() -> None:
        joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
        launch([["seed=0"], ["seed=1"]], hold, print_error, joblib)

    def locks() -> list[bool]:
        return [is_locked(tmp_path / f"seed={seed}") for seed in range(2)]

    process = fork(start, tmp_path)
    try:
        wait_until(lambda: all(locks()))
    finally:
        os.kill(process.pid, signal.SIGTERM)
    assert process.wait().returncode == -signal.SIGTERM
    wait_until(lambda: not any(locks()), 20)


def is_locked(file: Path) -> bool:
    """Returns whether a process that has written to the file still holds its lock."""
    if not file.exists() or not file.read_text():
        return False
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_that_is_reused_watches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watching: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: watching.append(thread))
    for _ in range(3):
        sweep._exit_with_parent(20)
    assert len(watching) == 1
