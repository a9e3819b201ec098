"""Executes every code block of README.md in shrunken form."""

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stable_baselines3 import DQN

from snn_rl.envs import make_env

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [
    command.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    for command in line.split("&&")
]
PYTHON = [block for language, block in BLOCKS if language == "python"]
INSTALLATION = [
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install -c constraints.txt -e .",
]
COMMANDS = [command for command in SHELL if command not in INSTALLATION]
# The settings that make each command finish within seconds.
SHRINK = {
    "train": [
        *("threads=1", "video=false", "episodes=1", "T_start=1", "checkpoint_steps=80"),
        *("rollout.n_envs=2", "rollout.cap=15", "dqn.steps=100", "dqn.learning_starts=40"),
        *("dqn.batch_size=8", "dqn.buffer_size=200", "dqn.selection_games=1", "finetune.steps=0"),
        *("iir.steps=40", "iir.t1_steps=0", "iir.batch_size=8", "iir.conversion_samples=32"),
        *("iir.selection_games=0", "iir.selection_sticky_games=0"),
    ],
    "play": ["play.output=gif", "play.max_steps=5"],
}


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


def test_installation_equals_that_of_ci_and_docs() -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").replace("source ", ". ")
    assert INSTALLATION[0] in ci
    assert INSTALLATION[1] in ci
    assert re.search(r"-m pip install --quiet --no-compile -c constraints\.txt -e '\.\[dev\]'", ci)
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8").replace(" && ", "\n")
        assert "\n".join(INSTALLATION) in text


def test_first_command_sets_up_and_trains() -> None:
    train = "python -m snn_rl.train env=CartPole-v1 T=1"
    assert " && ".join([*INSTALLATION, train]) in README.splitlines()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Changes to an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("command", COMMANDS)
def test_shell_command_runs(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == ".ci/run":
        subprocess.run(["bash", "-n", ROOT / command], check=True)
        return
    if "ann=dqn_pong.zip" in command:
        env = make_env("PongNoFrameskip-v4", frame_stack=4)
        DQN("CnnPolicy", env, buffer_size=1, device="cpu").save(folder / "dqn_pong.zip")
    program, *words = command.removeprefix("python -m ").split()
    name = words[0] if program == "snn-rl" else program.removeprefix("snn_rl.")
    module = "snn_rl" if program == "snn-rl" else program
    monkeypatch.setattr(sys, "argv", [program, *words, *SHRINK[name]])
    runpy.run_module(module, run_name="__main__")
    if name == "train":
        assert list(folder.glob("runs/*/seed0/report.md"))
        assert list(folder.glob("runs/*/seed0/T1/network.safetensors"))
    else:
        assert list(folder.glob("runs/*/zoo/T1/play.gif"))


@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(block: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # an episode of CartPole takes a tenth of the time of Pong, whose agent `snn-rl play` loads
    shrunken = block.replace("PongNoFrameskip-v4", "CartPole-v1").replace("=20", "=1")
    exec(compile(shrunken, "README.md", "exec"), {})
    result = re.search(r"(\S+) ± ", capsys.readouterr().out)
    assert result is not None
    assert float(result[1]) > 400
