"""The TensorBoard log of a stage."""

import errno
import os
from pathlib import Path

import pytest
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snn_rl.agents.event_log import EventLog


def log(folder: Path, steps: range, until: int = -1) -> None:
    logger = Logger(None, [EventLog(folder, until=until)])
    for step in steps:
        logger.record("train/loss", step / 2)
        logger.record("hidden", 1.0, exclude="tensorboard")
        logger.dump(step)


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_reads_the_log(tmp_path: Path) -> None:
    log(tmp_path, range(3))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert scalars(tmp_path, "train/loss") == [(0, 0), (1, 0.5), (2, 1)]


@pytest.mark.parametrize("torn", [0, 1, 30])
def test_a_resumed_log_has_each_step_once(torn: int, tmp_path: Path) -> None:
    log(tmp_path, range(5))
    (path,) = tmp_path.iterdir()
    number = path.stat().st_ino  # an open TensorBoard does not follow a new file
    path.write_bytes(path.read_bytes()[: -torn or None])  # the process was killed during a write
    log(tmp_path, range(3, 5), until=2)
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_ino == number
    assert scalars(tmp_path, "train/loss") == [(step, step / 2) for step in range(5)]


def test_a_full_disk_ends_the_log_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    log(tmp_path, range(3))
    (line,) = capsys.readouterr().out.splitlines()
    assert "No space left on device. Training continues without this TensorBoard log" in line
