"""Tests that the package accepts the settings of the GPU benchmark."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from snn_rl.agents import checks
from snn_rl.configs.compose import compose
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.images import checks as image_checks

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def modules() -> Iterator[dict[str, ModuleType]]:
    yield {name: load(name) for name in ("common", "smoke", "pong", "vgg16")}
    for name in ("common", "smoke", "pong", "vgg16"):
        del sys.modules[name]


def accept(module: str, arguments: list[str]) -> None:
    """Checks the settings of a command without running the command."""
    if module == "snn_rl.classify":
        image_checks.check_values(compose(ClassifyConfig, arguments))
    else:
        checks.check_values(compose(Config, arguments))


def test_all_steps_of_the_smoke_test_are_accepted(modules, tmp_path):
    chains = modules["smoke"].chains(tmp_path, "cpu", "full")
    steps = [step for chain in chains.values() for step in chain]
    for module, arguments in steps:
        assert importlib.util.find_spec(module)
        if "=" in "".join(arguments):
            accept(module, arguments)
    assert modules["smoke"].chains(tmp_path, "cpu", "tiny").keys() < chains.keys()


def test_the_trainings_are_accepted(modules):
    pong, vgg16 = modules["pong"], modules["vgg16"]
    accept("snn_rl.train", [*pong.SETTINGS, "dqn.steps=80000"])
    accept("snn_rl.classify", [*vgg16.SETTINGS, "fit.epochs=2"])
    assert pong.ann_steps(Path("nowhere"), 500.0) % 40_000 == 0


def test_a_command_is_logged_and_stopped_at_its_time_limit(modules, tmp_path):
    log = tmp_path / "logs" / "log"
    done = modules["common"].run_module(log, 60.0, "snn_rl.train", "--help")
    assert done["code"] == 0 and "Train an agent" in log.read_text()
    killed = modules["common"].run_module(log, 0.01, "snn_rl.train", "--help")
    assert killed["code"] is None


def test_run_rejects_unknown_arguments(tmp_path):
    command = ["bash", str(FOLDER / "run.sh"), str(tmp_path), "part=smoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "part=smoke" in done.stderr
