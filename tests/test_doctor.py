"""The doctor command: its findings on a complete and on a broken installation."""

import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from snn_rl import doctor
from snn_rl.doctor import EXTRAS, REQUIRED, Finding
from snn_rl.utils import device

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8"))[
    "project"
]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns a function that hides a module from imports."""
    find, load = importlib.util.find_spec, importlib.import_module

    def hide(name: str) -> None:
        def find_spec(module: str, package: str | None = None) -> Any:
            return None if module == name else find(module, package)

        def import_module(module: str, package: str | None = None) -> Any:
            if module == name:
                raise ImportError("libGL.so.1: cannot open\nshared object file")
            return load(module, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(importlib, "import_module", import_module)

    return hide


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [each for each in findings if each.name == name]
    return found


def test_this_machine_can_train_agents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    assert doctor.main(["--runs", str(folder)]) == 0
    text = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "Pong starts, with images (4, 84, 84)" in text
    assert "FAIL" not in text and text.endswith("agents can be trained here\n")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[=<>\[]", requirement)[0] for requirement in requirements}


def test_every_dependency_and_every_extra_of_the_project_is_checked() -> None:
    assert set(REQUIRED) == names(PROJECT["dependencies"])
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"dev"}


def test_the_documented_installation_can_train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = PROJECT["optional-dependencies"].values()
    optional = names([each for group in groups for each in group]) - {"snn_rl"}
    modules = {
        "pygame-ce": "pygame",
        "mkdocs-material": "material",
        "import-linter": "importlinter",
    }
    for package in optional - {"pytest", "setuptools"}:
        # an import of a module that is None fails
        monkeypatch.setitem(sys.modules, modules.get(package, package.replace("-", "_")), None)
    assert doctor.main(["--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "no numba" in text and "videos         are written" in text and "FAIL" not in text


def test_lines_on_a_terminal_are_colored_and_broken_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding("disk", "0.1 GB free at " + "x" * 70, "not enough; runs=PATH " * 9)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    doctor.show(finding)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "\x1b[33mnote\x1b[0m  disk           0.1 GB free at"
    assert all(line.startswith(" " * 21) for line in others)
    assert " ".join(" ".join(others).split()) == f"{'x' * 70} -> {finding.trouble}".strip()
    assert all(len(line) <= 80 for line in others[1:])
    monkeypatch.setenv("NO_COLOR", "1")
    doctor.show(finding)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    doctor.show(finding)
    assert capsys.readouterr().out == f"{finding}\n"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        doctor.main(["--version"])
    assert capsys.readouterr().out == f"snn_rl {PROJECT['version']}\n"


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_a_note_with_its_remedy(
    extra: str, without: Callable[[str], None]
) -> None:
    (module, *_), consequence = EXTRAS[extra]
    without(module)
    finding = named(list(doctor.extras()), f"[{extra}]")
    assert not finding.fatal
    assert f"no {module}" in finding.found
    assert finding.trouble == f"{consequence}; pip install 'snn_rl[{extra}]'"


def test_a_module_without_its_parent_package_is_missing() -> None:
    assert not doctor._is_installed("no_such_package.no_such_module")


def test_a_package_that_does_not_load_is_fatal_and_the_other_checks_run(
    without: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without("cv2")
    assert doctor.main(["--runs", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "does not load: libGL.so.1: cannot open shared object file" in text
    assert "opencv-python-headless" in text and "run folder" in text
    assert "1 problem to fix" in text


def test_a_failing_check_is_a_finding() -> None:
    def broken() -> Finding:
        raise RuntimeError("no\nROM")

    finding = doctor._attempt(broken, "Atari ROMs")
    assert finding.fatal and finding.found == "does not work: RuntimeError: no ROM"
    assert str(finding).startswith("FAIL  Atari ROMs")


def test_agents_train_without_a_writer_of_videos(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> Finding:
        raise OSError("no encoder")

    monkeypatch.setattr(doctor, "videos", broken)
    monkeypatch.setattr(doctor, "roms", lambda: Finding("Atari ROMs", "1 game"))
    finding = named(list(doctor.examine(tmp_path)), "videos")
    assert not finding.fatal and finding.trouble == "train with video=false"


def test_a_full_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    finding = doctor.disk(tmp_path / "runs")
    assert "0.1 GB free" in finding.found
    assert finding.trouble is not None and "runs=PATH" in finding.trouble and not finding.fatal


def test_a_read_only_run_folder_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = doctor.run_folder(tmp_path / "runs")
    assert finding.fatal and "Permission denied" in finding.found


@pytest.mark.parametrize("there", [True, False])
def test_gpu_and_bfloat16(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "uses_bf16", lambda *_: there)
    assert (doctor.bfloat16().trouble is None) == there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Abacus 9000")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 3 * 2**30))
    assert (doctor.gpu().trouble is None) == there
    assert ("Abacus 9000, 3 GiB" in doctor.gpu().found) == there
