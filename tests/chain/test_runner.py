"""Running the stages of a chain in order."""

from pathlib import Path
from typing import Any

import pytest

from snn_rl.chain.records import is_done
from snn_rl.chain.run_directory import NETWORK
from snn_rl.chain.runner import check_settings, run_chain
from snn_rl.chain.stages import ChainOptions, Stage, schedule
from snn_rl.utils.errors import UserError


def chain(T: int) -> list[Stage]:
    return schedule(ChainOptions(T))


class Trainer:
    """A `fit` that writes one file per stage and can be interrupted in the middle of a stage."""

    def __init__(self, run_dir: Path, stops_in: str | None = None):
        self.run_dir, self.stops_in = run_dir, stops_in
        self.fitted: list[str] = []

    def __call__(self, stage: Stage) -> None:
        self.fitted.append(stage.name)
        assert (self.run_dir / stage.name / "settings.json").exists()
        (self.run_dir / stage.name / "half").write_text("some state")
        if stage.name == self.stops_in:
            raise KeyboardInterrupt
        (self.run_dir / stage.name / NETWORK).write_text(stage.name)


def settings(stage: Stage) -> dict[str, Any]:
    return {"env": "Pole", "lr": 0.1, "bf16": False, "T": stage.timesteps or 0}


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Returns the modification time and the content of every file."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_every_stage_runs_in_order_and_is_marked_as_finished(tmp_path):
    fit = Trainer(tmp_path)
    run_chain(tmp_path, chain(3), settings, fit)
    assert fit.fitted == ["ann", "T5", "T4", "T3"]
    assert all(is_done(tmp_path / name) for name in fit.fitted)


def test_begin_is_called_once_before_anything_is_written(tmp_path):
    seen: list[dict[str, tuple[int, bytes]]] = []

    def begin() -> None:
        seen.append(snapshot(tmp_path))

    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path), begin)
    assert seen == [{}]
    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path), begin)
    assert len(seen) == 2  # a command that finds all stages finished is recorded too
    with pytest.raises(UserError):
        run_chain(tmp_path, chain(3), lambda _: {"lr": 9}, Trainer(tmp_path), begin)
    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path), begin, writes=False)
    assert len(seen) == 2


def test_finished_stages_are_not_repeated(tmp_path):
    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path))
    before = snapshot(tmp_path)
    again = Trainer(tmp_path)
    run_chain(tmp_path, chain(3), settings, again)
    assert again.fitted == []
    assert snapshot(tmp_path) == before


def test_a_smaller_t_extends_the_chain(tmp_path):
    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path))
    before = snapshot(tmp_path)
    further = Trainer(tmp_path)
    run_chain(tmp_path, chain(1), settings, further)
    assert further.fitted == ["T2", "T1"]
    assert before.items() <= snapshot(tmp_path).items()


def test_a_larger_t_finds_its_stages_finished(tmp_path):
    run_chain(tmp_path, chain(1), settings, Trainer(tmp_path))
    again = Trainer(tmp_path)
    run_chain(tmp_path, chain(4), settings, again)
    assert again.fitted == []


def test_an_interrupted_stage_runs_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_chain(tmp_path, chain(3), settings, Trainer(tmp_path, stops_in="T4"))
    assert is_done(tmp_path / "T5")
    assert not is_done(tmp_path / "T4")
    again = Trainer(tmp_path)
    run_chain(tmp_path, chain(3), settings, again)
    assert again.fitted == ["T4", "T3"]
    assert (tmp_path / "T4" / NETWORK).read_text() == "T4"


@pytest.mark.parametrize("file", [NETWORK, "settings.json"])
def test_a_finished_stage_that_lacks_files_is_refused(tmp_path, file):
    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path))
    (tmp_path / "T4" / file).unlink()
    before, fit = snapshot(tmp_path), Trainer(tmp_path)
    with pytest.raises(UserError, match=rf"T4/{file} is missing, .*delete .*T4/done\.json"):
        run_chain(tmp_path, chain(1), settings, fit, begin=lambda: fit.fitted.append("begin"))
    assert fit.fitted == [] and snapshot(tmp_path) == before
    (tmp_path / "T4" / "done.json").unlink()
    run_chain(tmp_path, chain(1), settings, fit)
    assert fit.fitted == ["T4", "T2", "T1"]


@pytest.mark.parametrize("stops_in", [None, "T4"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.2}, r"lr was 0\.1, now 0\.2"),
        ({"extra": 1}, "extra was absent, now 1"),
        ({"bf16": True}, "precision was float32, now bfloat16"),
        ({"env": "Pong", "lr": 0.2}, r"env was Pole, now Pong; lr was 0\.1, now 0\.2"),
    ],
)
def test_changed_settings_are_refused_and_no_file_changes(tmp_path, change, message, stops_in):
    first = Trainer(tmp_path, stops_in)
    try:
        run_chain(tmp_path, chain(3), settings, first)
    except KeyboardInterrupt:
        assert stops_in
    before = snapshot(tmp_path)
    fit = Trainer(tmp_path)
    with pytest.raises(UserError, match=message):
        run_chain(tmp_path, chain(1), lambda stage: settings(stage) | change, fit)
    assert fit.fitted == []
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "T1").exists()


def test_all_settings_are_checked_before_the_first_stage_starts(tmp_path):
    """T4 was interrupted; a change that affects only T4 stops the chain at once."""
    with pytest.raises(KeyboardInterrupt):
        run_chain(tmp_path, chain(4), settings, Trainer(tmp_path, stops_in="T4"))
    (tmp_path / "T5" / "done.json").unlink()
    fit = Trainer(tmp_path)
    with pytest.raises(UserError, match="T4 was started with other settings: lr"):
        run_chain(
            tmp_path,
            chain(4),
            lambda stage: settings(stage) | ({"lr": 9} if stage.timesteps == 4 else {}),
            fit,
        )
    assert fit.fitted == []


def test_settings_of_stages_that_have_not_started_may_change(tmp_path):
    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path))
    fit = Trainer(tmp_path)
    run_chain(
        tmp_path,
        chain(1),
        lambda stage: settings(stage) | ({"lr": 9} if stage.timesteps in (1, 2) else {}),
        fit,
    )
    assert fit.fitted == ["T2", "T1"]


def test_settings_that_older_stages_did_not_record_are_not_compared(tmp_path):
    run_chain(tmp_path, chain(3), settings, Trainer(tmp_path))
    before = snapshot(tmp_path)
    fit = Trainer(tmp_path)
    run_chain(tmp_path, chain(2), lambda stage: settings(stage) | {"training_images": "these"}, fit)
    assert fit.fitted == ["T2"]
    assert before.items() <= snapshot(tmp_path).items()
    with pytest.raises(
        UserError, match=r"T2 was started with .*: training_images was these, now those"
    ):
        run_chain(
            tmp_path, chain(2), lambda stage: settings(stage) | {"training_images": "those"}, fit
        )
    with pytest.raises(UserError, match="training_images was these, now absent"):
        run_chain(tmp_path, chain(2), settings, fit)


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_damaged_settings_give_one_line(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(UserError) as caught:
        check_settings(tmp_path, {"lr": 0.1})
    assert "settings.json" in str(caught.value)
