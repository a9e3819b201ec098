"""Files of a run directory, and a lock against concurrent processes."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def link(directory: Path, target: Path) -> str:
    """Returns the path of a run's report, or of its directory, relative to `target`."""
    report = directory / REPORT
    return Path(os.path.relpath(report if report.exists() else directory, target)).as_posix()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Locks a run directory until the block ends or the process exits.

    Raises:
        UserError: Another process holds the lock, or the directory cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot use run_dir={directory}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is using {directory}") from None
        yield
