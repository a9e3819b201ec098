"""Bounded reading of JSON and arrays."""

import errno
import io
import json
import os
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_rl.files.archive import MAX_JSON, open_file, parse_json, read_arrays, read_bytes
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.utils.errors import UserError

QUICK = settings(max_examples=40, derandomize=True, deadline=None, database=None)
LIMIT = 2**20


def refused(call: Callable[[], object]) -> str:
    """Returns the one-line error of a call that must fail fast and in little memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(UserError) as caught:
            call()
        assert time.process_time() - started < 1.0
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arrays_are_read(tmp_path: Path) -> None:
    arrays = {
        "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "number": np.array(3),
        "none": np.zeros((0, 5), np.float32),
        "fortran": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
        loaded = read_arrays(tmp_path / "a.npz", LIMIT)
        assert loaded.keys() == arrays.keys()
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype
            np.testing.assert_array_equal(loaded[name], array)


def npy(shape: tuple[int, ...], descr: str = "<f4", numbers: int = 8) -> bytes:
    """Returns an array file with any header."""
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(numbers)


def test_hand_made_array_is_read(tmp_path: Path) -> None:
    zipped(tmp_path / "a.npz", npy((2,)))
    assert read_arrays(tmp_path / "a.npz", LIMIT)["a"].tolist() == [0.0, 0.0]


def zipped(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", data)


@pytest.mark.parametrize(
    "data",
    [
        npy((3,)),
        npy((2**40, 2**20)),
        npy((2**62, 4, 2**62)),
        npy((-1, -2)),
        npy((1,), "|O"),
        npy((2,), "<f4")[:-1],
        npy((2,)).replace(b"(2,)", b"xxxx"),
        npy((2,)).replace(b"'<f4'", b"[1,2]"),
        npy((2,)).replace(b"\x01\x00", b"\x09\x00", 1),
        b"\x93NUMPY\x01\x00\xff\xff{" + b"(" * 60_000,
        b"",
        b"nonsense",
    ],
    ids=range(12),
)
def test_arrays_that_differ_from_their_header_are_rejected(tmp_path: Path, data: bytes) -> None:
    zipped(tmp_path / "a.npz", data)
    assert "a.npz is damaged" in refused(lambda: read_arrays(tmp_path / "a.npz", LIMIT))


def test_arrays_beyond_the_limit_are_rejected(tmp_path: Path) -> None:
    bomb = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as file,
    ):
        file.write(npy((2**26,), "|u1", 0))
        for _ in range(64):
            file.write(bytes(2**20))
    assert bomb.stat().st_size < LIMIT
    assert "unpacks to 67,1" in refused(lambda: read_arrays(bomb, LIMIT))
    with bomb.open("wb") as sparse:
        sparse.truncate(2**40)
    assert "has 1,099,511,627,776 bytes" in refused(lambda: read_arrays(bomb, LIMIT))
    assert "not a regular file" in refused(lambda: read_arrays(Path("/dev/zero"), LIMIT))


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    assert "but a file is required" in refused(lambda: read_bytes(path))
    assert "but a file is required" in refused(lambda: load_tensors(path))


def test_unreadable_file_gives_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", deny)
    message = refused(lambda: read_bytes(tmp_path / "file"))
    assert message == f"cannot read {tmp_path / 'file'}: Permission denied"


def test_an_error_of_the_caller_is_not_an_error_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space") as caught, open_file(tmp_path / "file"):
        raise full
    assert caught.value is full


@pytest.mark.parametrize(
    "text",
    ["[" + "{}," * 2**18 + "{}]", "[" + "[]," * 2**21 + "[]]", "{" + '"":0,' * 2**19 + '"":0}'],
    ids=["objects", "lists", "keys"],
)
def test_short_json_of_many_values_is_rejected(text: str) -> None:
    assert "too many JSON values" in refused(lambda: parse_json(text, "x.json"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 1}', "key 'a' is repeated"),
        ('[{"b": {"a": 1, "c": 2, "a": 3}}]', "key 'a' is repeated"),
        ("[" * 100_000, "damaged"),
        ('{"a":' * 100_000, "damaged"),
        ("9" * 5_000, "damaged"),
        ("", "damaged"),
        ("[1] 2", "damaged"),
    ],
    ids=lambda text: text[:12],
)
def test_invalid_json_is_rejected(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text)
    for call in (lambda: parse_json(text, "x.json"), lambda: read_json(tmp_path / "x.json")):
        message = refused(call)
        assert words in message and "x.json" in message


def test_long_json_is_rejected_without_reading(tmp_path: Path) -> None:
    long = b" " * (MAX_JSON + 1)
    assert "bytes of JSON" in refused(lambda: parse_json(long, "x.json"))
    with (tmp_path / "x.json").open("wb") as sparse:
        sparse.truncate(2**40)
    assert "1,099,511,627,776 bytes" in refused(lambda: read_json(tmp_path / "x.json"))
    assert "not a regular file" in refused(lambda: read_json(Path("/dev/zero")))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@QUICK
@given(PLAIN)
def test_any_json_without_repeated_keys_is_parsed(content: Any) -> None:
    assert parse_json(json.dumps(content), "x.json") == content


@QUICK
@given(st.binary(max_size=60) | st.text('[]{}:,"a1-e.', max_size=60).map(str.encode))
def test_any_other_content_gives_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "x.json"
    path.write_bytes(content)
    assert "\n" not in complaint(lambda: read_json(path))
    zipped(path, npy((2,))[: len(content)] + content)
    assert "\n" not in complaint(lambda: read_arrays(path, LIMIT))


def complaint(call: Callable[[], object]) -> str:
    """Returns the message of a UserError, or an empty string."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""
