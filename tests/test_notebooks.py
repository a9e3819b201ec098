"""The notebooks of examples/, executed in a folder of their own."""

import os
import re
import sysconfig
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
# Returns that each notebook prints at T=1, in order, and their lowest values
RETURNS = {"own_game": [9.0, 9.0], "quickstart": [450.0, 5.0]}


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def returns(notebook: Any) -> list[float]:
    """Returns the mean returns at T=1 that the cells print."""
    text = "".join(each.text for each in outputs(notebook) if each.output_type == "stream")
    return [float(found) for found in re.findall(r"^T1 greedy: (\S+)", text, re.M)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_keeps_its_outputs(path, tmp_path, monkeypatch):
    stored = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 500_000
    assert any("image/png" in output.get("data", {}) for output in outputs(stored))
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    executed = nbformat.read(path, as_version=4)
    NotebookClient(executed, timeout=250, resources={"metadata": {"path": tmp_path}}).execute()
    for notebook in (stored, executed):
        lowest = RETURNS[path.stem]
        assert len(returns(notebook)) == len(lowest)
        assert all(value >= low for value, low in zip(returns(notebook), lowest, strict=True))
