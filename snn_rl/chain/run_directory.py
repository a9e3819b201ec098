"""Files of a run directory, and the lock that keeps a second process out."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snn_rl.utils.errors import UserError

# In the directory of a stage
SETTINGS = "settings.json"  # settings that the stage's result depends on
STATE = "state.safetensors"  # newest checkpoint
NETWORK = "network.safetensors"  # trained network
DONE = "done.json"
METRICS = "metrics.json"  # evaluation of the train and classify commands
EVALUATION = "evaluation.json"  # results of the evaluate command
# In the directory of the run
RUN = "run.json"  # commands that worked on the run
REPORT = "report.md"
FIGURES = "figures"


def file_hash(file: str | Path) -> str:
    """Returns the SHA-256 of a file."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def link(directory: Path, target: Path) -> str:
    """Returns the relative path from the folder `target` to a run, or to the run's report."""
    report = directory / REPORT
    return Path(os.path.relpath(report if report.exists() else directory, target)).as_posix()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Locks a run until the block ends or the process dies.

    Raises:
        UserError: Another process has locked the run, or the directory cannot be created.
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
