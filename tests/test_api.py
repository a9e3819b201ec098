"""The public names of `import snn_rl`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import snn_rl
from snn_rl.__main__ import COMMANDS

STUB = Path(snn_rl.__file__).with_suffix(".pyi").read_text(encoding="utf-8")


def test_import_is_light() -> None:
    code = "import snn_rl, sys; print({'torch', 'gymnasium', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_name_is_exported_documented_and_typed() -> None:
    exported = set(snn_rl.__all__) - {"__version__"}
    assert exported == set(re.findall(r"import \w+ as (\w+)", STUB))
    assert exported <= set(dir(snn_rl))
    for name in exported:
        assert getattr(snn_rl, name).__doc__


def test_no_name_hides_a_command() -> None:
    assert set(snn_rl.__all__).isdisjoint(COMMANDS)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        snn_rl.nothing  # noqa: B018
