"""Atomic file writes, JSON files, and disk errors.

A file is written under a temporary name in the same directory, flushed to disk, and renamed.
A reader finds either the old content or the new content, and a failed write leaves the old content
untouched.
"""

import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from snn_rl.files.archive import MAX_JSON, parse_json, read_bytes
from snn_rl.files.locks import acquire, check_guards
from snn_rl.utils.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Errors of file systems that cannot sync a directory, such as CIFS
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)


@contextmanager
def disk_errors(path: Path, action: str = "write") -> Iterator[None]:
    """Converts operating system errors, such as a full disk, to a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library
            raise
        advice = "Free some space or choose" if error.errno in _FULL else "Choose"
        raise UserError(
            f"cannot {action} {path}: {error.strerror}. Existing files are intact. {advice} "
            "a writable location, and try again"
        ) from error


def make_directory(path: Path) -> None:
    """Creates a directory and its missing parents, so that they survive a power failure."""
    check_guards()
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flushes the entries of a directory to disk if the file system supports it."""
    if os.name == "nt":  # Windows cannot open directories
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(directory)


def write_atomic(path: Path, write: Callable[[Path], object], previous: Path | None = None) -> None:
    """Calls `write` on a temporary file beside `path`, syncs the file and renames it to `path`.

    Missing directories are created. If `previous` is given, the old file is kept under that name.
    """
    with disk_errors(path):
        make_directory(path.parent)
        _remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with temporary.open("xb") as lock:
            try:
                with suppress(OSError):  # not every file system has locks
                    acquire(lock)
                write(temporary)
                check_guards()
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                if previous is not None and path.exists():
                    _keep(path, previous)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        sync_directory(path.parent)


def _keep(path: Path, previous: Path) -> None:
    """Keeps the file at `path` as `previous`, too, so that a killed process leaves both."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # not every file system has hard links
        path.rename(previous)


def _remove_leftovers(path: Path) -> None:
    """Removes temporary files of killed writers of `path`. These files are not locked."""
    for other in list(path.parent.iterdir()):
        if other.name.startswith(f".{path.name}.") and other.name.endswith(".tmp"):
            with suppress(OSError), other.open("rb+") as file:
                if acquire(file):
                    other.unlink()


def write_bytes(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Writes a binary file atomically; see `write_atomic`."""
    write_atomic(path, lambda file: file.write_bytes(data), previous)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 atomically; see `write_atomic`."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Writes JSON with sorted keys atomically; see `write_atomic`."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file of at most `MAX_JSON` bytes."""
    return parse_json(read_bytes(path, MAX_JSON), str(path))
