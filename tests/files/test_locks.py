"""Locks where the system has none."""

import runpy
import sys
from pathlib import Path

import pytest

from snn_rl.files import locks


def test_a_system_without_locks_can_import_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    acquire = runpy.run_path(str(locks.__file__))["acquire"]
    with (tmp_path / "lock").open("w") as file:
        assert acquire(file)
