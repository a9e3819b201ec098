"""Helpers of the GPU benchmark: commands with a time limit and results as JSON."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TAIL = 1_500  # last characters of a command's output in the JSON file


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def run_module(log: Path, limit: float, module: str, *arguments: str) -> dict[str, Any]:
    """Runs `python -m module` and appends its output to a log file.

    Args:
        log: Log file.
        limit: Seconds after which the command is killed.
        module: Name of the module.
        arguments: Command-line arguments.

    Returns:
        The command, its exit code (None if killed), its seconds, and the end of its output.
    """
    command = [sys.executable, "-m", module, *arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("ab") as file:
        begin = file.tell()
        # in its own session, so that a kill also ends the child processes
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    text = log.read_bytes()[begin:].decode(errors="replace").replace("\r", "\n")
    return {
        "command": " ".join(["python", "-m", module, *arguments]),
        "code": code,
        "seconds": round(time.monotonic() - started, 1),
        "tail": text[-TAIL:],
    }


def settings(arguments: Sequence[str], defaults: dict[str, str]) -> dict[str, str]:
    """Reads key=value arguments.

    Raises:
        SystemExit: A key is unknown.
    """
    found = dict(defaults)
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in defaults:
            sys.exit(f"unknown argument {argument}: use {', '.join(f'{k}=...' for k in defaults)}")
        found[key] = value
    return found
