"""File locks, which are released when the process that holds them ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from snn_rl.utils.errors import UserError

try:
    import fcntl
except ImportError:  # on Windows, which is untested
    fcntl = None  # type: ignore[assignment]

_guards: list[tuple[Path, IO[Any]]] = []  # lock files of directories that this process uses


def acquire(file: IO[Any]) -> bool:
    """Locks an open file until it is closed; returns False if another process holds the lock."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def guarded(path: Path, file: IO[Any]) -> Iterator[None]:
    """Registers a locked file for `check_guards` until the block ends."""
    _guards.append((path, file))
    try:
        yield
    finally:
        _guards.remove((path, file))


def check_guards() -> None:
    """Checks that the directories in use still exist; called before every write.

    A directory that was moved or deleted has lost its lock: another process may be using a new
    directory of the same name.

    Raises:
        UserError: A directory was moved, deleted, or replaced.
    """
    for path, file in _guards:
        try:
            same = os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"{path.parent} was moved, deleted, or replaced while this command was using it. "
                "To resume a moved run, run the same command again with its new run_dir"
            )
