"""Atomic writes and JSON files."""

import errno
import fcntl
import json
import os
import stat
from pathlib import Path

import pytest

from snn_rl.files.atomic import read_json, write_atomic, write_bytes, write_json
from snn_rl.utils.errors import UserError


@pytest.mark.parametrize("failure", [ValueError("a bug"), OSError("a message of a library")])
def test_other_failures_keep_their_type_and_the_old_content(tmp_path, failure):
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise failure

    with pytest.raises(type(failure)) as caught:
        write_atomic(path, write)
    assert caught.value is failure
    assert read_json(path) == {"step": 1}
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "name",
    ["ENOSPC", "EDQUOT", "EFBIG", "EPERM", "EACCES", "EROFS", "EIO", "EISDIR", "ENAMETOOLONG"],
)
def test_errors_of_the_disk_give_one_line(tmp_path, name):
    path, code = tmp_path / "state.json", getattr(errno, name)
    write_json(path, {"step": 1})

    def write(temporary: Path) -> None:
        raise OSError(code, os.strerror(code), str(temporary))

    with pytest.raises(UserError) as caught:
        write_atomic(path, write)
    message = str(caught.value)
    assert f"cannot write {path}: {os.strerror(code)}." in message and "\n" not in message
    assert "run_dir=" not in message, "functions of the package write files, too"
    assert ("Free some space" in message) == (name in ("ENOSPC", "EDQUOT"))
    assert read_json(path) == {"step": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_paths_that_are_no_files_give_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "x.json", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=f"cannot write {path}: "):
            write_json(path, {})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_content_is_synced_before_the_rename_and_new_folders_after_it(tmp_path, monkeypatch):
    """A power failure after a rename without a sync may leave an empty file or no folder."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        calls.append(name if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(source: Path, target: Path) -> None:
        calls.append("rename")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_json(tmp_path / "state.json", {})
    assert calls == ["file", "rename", tmp_path.name]
    calls.clear()
    write_json(tmp_path / "one" / "two" / "state.json", {})
    assert calls == [tmp_path.name, "one", "file", "rename", "two"]


def test_file_systems_without_locks_and_syncs_of_folders_are_written(tmp_path, monkeypatch):
    """CIFS cannot sync directories, and Lustre may have no locks."""
    fsync = os.fsync

    def synced(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(fcntl, "flock", flock)
    write_json(tmp_path / "state.json", {"step": 1})
    assert read_json(tmp_path / "state.json") == {"step": 1}


def test_new_files_follow_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        write_json(tmp_path / "state.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_the_replaced_file_is_kept(tmp_path, monkeypatch):
    path, previous = tmp_path / "state", tmp_path / "previous"
    existed, replace = [], os.replace

    def replaced(source: Path, target: Path) -> None:
        existed.append(path.exists())
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    for content in (b"1", b"2", b"3"):
        write_bytes(path, content, previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert existed == [False, True, True], "a process killed here must leave a checkpoint"

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)  # as on FAT
    write_bytes(path, b"4", previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"4", b"3")


def test_temporary_files_of_killed_writers_are_removed_and_those_of_live_ones_kept(tmp_path):
    path = tmp_path / "state.json"
    others = [tmp_path / name for name in (".lock", "note.tmp", ".other.json.x.tmp")]
    for file in [*others, tmp_path / ".state.json.x.tmp"]:
        file.touch()

    def write(temporary: Path) -> None:
        write_json(path, {"writer": 2})
        temporary.write_text("1")

    write_atomic(path, write)
    assert read_json(path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([*others, path])


@pytest.mark.parametrize("data", [{}, {"b": [1, 2.5, None], "a": {"c": "ü"}}, [1, True], "text"])
def test_json_is_read_back(tmp_path, data):
    write_json(tmp_path / "deeper" / "x.json", data)
    assert read_json(tmp_path / "deeper" / "x.json") == data
    assert json.loads((tmp_path / "deeper" / "x.json").read_text()) == data


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"nonsense"])
def test_damaged_json_is_rejected(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is damaged"):
        read_json(path)


def test_missing_json_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*x\.json"):
        read_json(tmp_path / "x.json")
