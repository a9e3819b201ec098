"""The run directory: where it is, what a stage's result depends on, and who uses it now."""

import fcntl
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from snn_rl import __version__
from snn_rl.files.atomic import read_json, write_json
from snn_rl.utils.errors import UserError

NETWORK = "network.safetensors"
METRICS = "metrics.json"
REPORT = "report.md"
FIGURES = "figures"  # a folder beside the report
RUN = "run.json"  # the commands that worked on a run, in its directory
_PACKAGES = ("torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "hydra-core")


def file_hash(file: str) -> str:
    """SHA-256 of a file that a stage begins with."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def link(directory: Path, target: Path) -> str:
    """The way from a page in the folder `target` to a run: to its report, if it has one."""
    report = directory / REPORT
    return Path(os.path.relpath(report if report.exists() else directory, target)).as_posix()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps a second process out of the run; the system lifts it when this one dies.

    Raises:
        UserError: Another process is at work there.
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
            raise UserError(f"another process is at work in {directory}") from None
        yield


def record_invocation(directory: Path, config: Any, launcher: str = "python -m") -> None:
    """Adds this command, as `invocation` describes it, to the run's list of them."""
    path = directory / RUN
    before = read_json(path) if path.exists() else []
    write_json(path, [*before, invocation(config, launcher)])


def invocation(config: Any, launcher: str = "python -m") -> dict[str, Any]:
    """This command, its resolved settings, and the versions and the machine it runs with."""
    path = Path(sys.argv[0])
    module = path.parent.name if path.stem == "__main__" else path.stem
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{launcher} snn_rl.{module} {shlex.join(sys.argv[1:])}".rstrip(),
        "versions": {
            "snn_rl": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "revision": _revision(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "settings": asdict(config),
    }


def flat(section: str, config: Any) -> dict[str, Any]:
    """A section of the settings under its full names."""
    return {f"{section}.{key}": value for key, value in asdict(config).items()}


def _revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
