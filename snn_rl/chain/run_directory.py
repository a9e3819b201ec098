"""Files of a run directory, and a lock against concurrent processes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snn_rl.files.archive import MAX_CHECKPOINT, open_file
from snn_rl.files.atomic import disk_errors, make_directory
from snn_rl.files.locks import acquire, guarded
from snn_rl.utils.errors import UserError

# In the directory of a stage
SETTINGS = "settings.json"  # settings that the stage's result depends on
STATE = "state.safetensors"  # most recent checkpoint
NETWORK = "network.safetensors"  # trained network
DONE = "done.json"
METRICS = "metrics.json"  # evaluation by the train and classify commands
EVALUATION = "evaluation.json"  # results of the evaluate command
# In the directory of the run
RUN = "run.json"  # commands that were run on the directory
REPORT = "report.md"
FIGURES = "figures"


def file_hash(file: str | Path) -> str:
    """Returns the SHA-256 of a file."""
    with open_file(Path(file), MAX_CHECKPOINT) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def link(directory: Path, target: Path) -> str:
    """Returns the path of a run's report, or of its directory, relative to `target`."""
    report = directory / REPORT
    return Path(os.path.relpath(report if report.exists() else directory, target)).as_posix()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Locks a run directory until the block ends or the process exits.

    Within the block, nothing is written after the directory was moved, see `check_guards`.

    Raises:
        UserError: Another process holds the lock, or the directory cannot be created or locked.
    """
    path = directory / ".lock"
    with disk_errors(path, "lock"):
        make_directory(directory)
        file = path.open("w")
    with file:
        with disk_errors(path, "lock"):
            free = acquire(file)
        if not free:
            raise UserError(f"another process is using {directory}")
        with guarded(path, file):
            yield
