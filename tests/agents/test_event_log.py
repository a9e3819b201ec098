"""The TensorBoard log of a stage."""

import errno
import os
from pathlib import Path

import pytest
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snn_rl.agents.event_log import EventLog


def log(folder: Path, steps: int) -> None:
    logger = Logger(None, [EventLog(folder)])
    for step in range(steps):
        logger.record("stage/loss", step / 2)
        logger.record("hidden", 1.0, exclude="tensorboard")
        logger.dump(step)


def test_tensorboard_reads_the_log(tmp_path: Path) -> None:
    log(tmp_path / "tensorboard", 3)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["stage/loss"]
    assert [(e.step, e.value) for e in events.Scalars("stage/loss")] == [(0, 0), (1, 0.5), (2, 1)]


def test_a_full_disk_ends_the_log_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    log(tmp_path, 3)
    (line,) = capsys.readouterr().out.splitlines()
    assert "No space left on device. Training continues without this TensorBoard log" in line
