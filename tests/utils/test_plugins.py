"""Registries: registered names, and objects imported from the user's modules."""

import subprocess
import sys
from pathlib import Path

import pytest

from snn_rl.utils.plugins import Registry, load_object


def registry() -> Registry[int]:
    return Registry("number", {"one": 1, "two": 2})


def test_registered_entries_are_found() -> None:
    numbers = registry()
    numbers.register("three", 3)
    numbers.register("three", 3)
    assert [numbers.find(name) for name in ("one", "three")] == [1, 3]


@pytest.mark.parametrize("name", ["one", "my:number"])
def test_taken_and_reserved_names_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"number={name}: the name is taken or contains a colon"):
        registry().register(name, 7)


def test_unknown_names_are_rejected_with_the_closest_name() -> None:
    with pytest.raises(ValueError, match=r"number=tow: must be one of one, two, .*; did you mean"):
        registry().find("tow")


@pytest.mark.parametrize("name", ["no_such_module:x", "math:no_such_name", ":pi", "math:"])
def test_references_that_cannot_be_imported_are_rejected(name: str) -> None:
    registry().check(name)
    with pytest.raises(ValueError, match=f"number={name}: cannot be imported"):
        registry().find(name)


def test_modules_of_the_working_directory_are_found(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text("answer = 42\n")
    # -P does not search the working directory, like a console script
    code = "from snn_rl.utils.plugins import load_object; print(load_object('my_module:answer'))"
    command = [sys.executable, "-P", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "42\n"


def test_installed_modules_are_found() -> None:
    assert load_object("pathlib:Path") is Path
