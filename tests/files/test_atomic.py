"""Atomic writes and JSON files."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from snn_rl.files.atomic import read_json, remove_temporaries, write_atomic, write_json
from snn_rl.utils.errors import UserError


@pytest.mark.parametrize("failure", [ValueError("a bug"), OSError(errno.EIO, "Input/output error")])
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


def test_content_is_synced_before_the_rename(tmp_path, monkeypatch):
    """A power failure after a rename without a sync may leave an empty file."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        calls.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(source: Path, target: Path) -> None:
        calls.append("rename")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_json(tmp_path / "state.json", {})
    assert calls == ["file", "rename", "directory"]


def test_only_temporary_files_are_removed(tmp_path):
    path = tmp_path / "state.json"

    def killed(temporary: Path) -> None:
        (tmp_path / "leftover").write_text(temporary.name)

    write_atomic(path, killed)
    leftover = tmp_path / (tmp_path / "leftover").read_text()
    leftover.write_text("half")
    (tmp_path / ".lock").touch()
    (tmp_path / "note.tmp").touch()
    remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "leftover", "note.tmp", "state.json"]


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
