"""Logs of a stage."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snn_rl.agents.tracking import TRACKERS, TrackerLog, log_evaluation, stage_logger
from snn_rl.chain.records import Evaluation, StageEvaluation, Trials
from snn_rl.utils.errors import UserError


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Returns the directory of a stage with settings."""
    directory = tmp_path / "seed0" / "T2"
    directory.mkdir(parents=True)
    (directory / "settings.json").write_text(json.dumps({"env": "Pole", "iir.lr": 0.001}))
    return directory


def log(name: str, stage: Path, steps: range) -> None:
    logger = stage_logger(stage, steps.start - 1, name)
    for step in steps:
        logger.record("train/loss", step / 2)
        logger.record("hidden", 1.0, exclude="tensorboard")
        logger.dump(step)
    logger.close()


class FakeRun:
    """A run of W&B that keeps what it receives."""

    def __init__(self, **options: Any):
        self.options, self.logged, self.finished = options, [], False
        self.fails = False

    def log(self, values: dict[str, float], step: int) -> None:
        if self.fails:
            raise ConnectionError("no\n route")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Replaces W&B, and returns the runs that are started."""
    found: list[FakeRun] = []

    def init(**options: Any) -> FakeRun:
        found.append(FakeRun(**options))
        return found[-1]

    fake: Any = ModuleType("wandb")
    fake.init, fake.Settings = init, SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return found


def test_a_stage_is_a_run_that_continues_when_resumed(runs: list[FakeRun], stage: Path) -> None:
    log("wandb", stage, range(2))
    log("wandb", stage, range(2, 3))
    first, second = runs
    assert first.logged == [(0, {"train/loss": 0.0}), (1, {"train/loss": 0.5})]
    assert second.logged == [(2, {"train/loss": 1.0})]
    assert first.finished and second.finished
    assert first.options["config"] == {"env": "Pole", "iir.lr": 0.001}
    assert (first.options["group"], first.options["name"]) == ("seed0", "T2")
    assert first.options["id"] == second.options["id"]
    log("wandb", stage, range(1, 4))  # repeats steps
    assert runs[2].logged == [(3, {"train/loss": 1.5})]
    log("wandb", stage.parent / "T1", range(0))
    assert runs[3].options["id"] != first.options["id"] and runs[3].options["config"] == {}


def test_an_error_of_the_tracker_does_not_stop_the_training(
    runs: list[FakeRun], stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = Logger(None, [TrackerLog("wandb", stage)])
    runs[0].fails = True
    for step in range(2):
        logger.record("train/loss", 1.0)
        logger.dump(step)
    logger.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "track=wandb: no route. Training continues without this tracker"
    assert not runs[0].finished


def test_an_error_at_the_start_does_not_stop_the_training(
    runs: list[FakeRun],
    stage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no key\nfound")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    log("wandb", stage, range(2))
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "track=wandb: no key found. Training continues without this tracker"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_one_line(
    name: str, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'snn_rl\[{name}\]'"):
        TrackerLog(name, stage)


def test_wandb_writes_an_offline_run(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="W&B is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log("wandb", stage, range(3))
    (file,) = stage.glob("wandb/offline-run-*/*.wandb")
    assert b"train/loss" in file.read_bytes()


def test_mlflow_stores_every_step_once(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    log("mlflow", stage, range(3))
    log("mlflow", stage, range(1, 4))  # repeats two steps
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("snn_rl").experiment_id])
    assert (run.info.run_name, run.info.status) == ("seed0/T2", "FINISHED")
    assert run.data.params == {"env": "Pole", "iir.lr": "0.001"}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((each.step, each.value) for each in history) == [
        (step, step / 2) for step in range(4)
    ]


def test_an_evaluation_replaces_the_last_one(tmp_path: Path) -> None:
    greedy = Evaluation(returns=[1.0, 2.0], lengths=[10, 40], distinct=2, capped=0, spike_rates=[])
    trials = Trials(episodes=2, seed=1, epsilon=0.0, sticky=0.25)
    for mean in (3.0, 4.0):
        sticky = replace(greedy, returns=[mean, mean])
        log_evaluation(
            tmp_path,
            StageEvaluation(evaluation=trials, greedy=greedy, sticky=sticky, steps=100),
        )
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.scalars.Keys()}
    assert found == {
        "eval/mean_reward": [(100, 1.5)],
        "eval/mean_ep_length": [(100, 25)],
        "eval_sticky/mean_reward": [(100, 4)],
        "eval_sticky/mean_ep_length": [(100, 25)],
    }
