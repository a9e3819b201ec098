"""The lock of a run directory, and writes into directories that were moved or deleted."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from snn_rl.chain.run_directory import lock
from snn_rl.files.atomic import make_directory, read_json, write_atomic, write_json
from snn_rl.utils.errors import UserError


def test_a_directory_is_locked_until_the_block_ends(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(tmp_path / "run"):
            write_json(tmp_path / "run" / "x.json", 1)
            with pytest.raises(UserError, match="another process is using"):
                lock(tmp_path / "run").__enter__()


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("move", ["moved", "deleted"])
def test_nothing_is_written_into_a_directory_that_lost_its_lock(
    move: str, replaced: bool, tmp_path: Path
) -> None:
    """Another process may be using a new directory of the same name."""
    run = tmp_path / "run"
    with lock(run):
        shutil.rmtree(run) if move == "deleted" else run.rename(tmp_path / "moved")
        if replaced:
            run.mkdir()
            (run / ".lock").touch()
        for write in (lambda: write_json(run / "T1" / "x.json", 1), lambda: make_directory(run)):
            with pytest.raises(UserError, match="run was moved, deleted, or replaced"):
                write()
        assert run.exists() == replaced
        assert not (run / "T1").exists()
    write_json(run / "x.json", 2)
    assert read_json(run / "x.json") == 2


def test_a_directory_deleted_during_a_write_gives_one_line(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("x")
        shutil.rmtree(tmp_path / "run")

    with lock(tmp_path / "run"), pytest.raises(UserError, match="run was moved, deleted"):
        write_atomic(tmp_path / "run" / "x", write)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_gives_one_line(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=f"cannot lock .*run/.lock: {os.strerror(code)}"):
        lock(tmp_path / "run").__enter__()


def test_a_path_that_is_a_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="cannot lock"):
        lock(tmp_path / "run").__enter__()
