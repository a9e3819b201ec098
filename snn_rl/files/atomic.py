"""Atomic writing of files, JSON, and errors of a full or read-only disk.

A file is written beside its final name, flushed to the disk and renamed into place. A reader finds
either the old content or the new content, and a failed write leaves the old content untouched.
"""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snn_rl.files.archive import MAX_JSON, parse_json, read_bytes
from snn_rl.utils.errors import UserError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises a UserError for errors that the user can fix: a full disk, missing permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror}. Existing files are intact: free some space or "
            "choose another directory, and run the same command again"
        ) from error


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary file beside `path`, syncs the file and renames it to `path`.

    Missing directories are created.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def remove_temporaries(directory: Path) -> None:
    """Removes the temporary files of writers that were killed."""
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a binary file atomically; see `write_atomic`."""
    write_atomic(path, lambda file: file.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 atomically; see `write_atomic`."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Writes JSON with sorted keys atomically; see `write_atomic`."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file of at most `MAX_JSON` bytes."""
    return parse_json(read_bytes(path, MAX_JSON), str(path))
