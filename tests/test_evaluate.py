"""The evaluate command on a small run."""

import errno
import os
import shutil
import sys

import numpy as np
import pytest
import torch

from snn_rl import evaluate, train
from snn_rl.chain import run_directory
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.core.networks import NetworkSpec, SpikingNetwork, SpikingOptions
from snn_rl.core.networks.q_networks import cartpole
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import save_network

CAP = 12


def command(module, *arguments):
    """Runs a command with command-line arguments in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *arguments])
        run_command(Config, module.main, module.__doc__)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Trains ANN -> T1 with two frames and a low step limit, which differ from the preset."""
    directory = tmp_path_factory.mktemp("runs") / "cartpole"
    threads = torch.get_num_threads()
    command(
        train,
        *("env=CartPole-v1", "T=1", "T_start=1", f"run_dir={directory}", "threads=1"),
        *("rollout.frame_stack=2", f"rollout.cap={CAP}", "rollout.n_envs=2", "episodes=1"),
        *("dqn.steps=60", "dqn.learning_starts=40", "iir.steps=20", "checkpoint_steps=100"),
        *(
            "iir.t1_steps=0",
            "dqn.selection_games=2",
            "iir.batch_size=8",
            "dqn.batch_size=8",
            "video=false",
        ),
    )
    yield directory
    torch.set_num_threads(threads)


def test_the_ann_and_the_stage_are_evaluated_in_both_columns(run_dir, capsys):
    command(
        evaluate,
        "env=CartPole-v1",
        "T=1",
        "T_start=1",
        f"run_dir={run_dir}",
        "episodes=4",
        "threads=1",
    )
    text = capsys.readouterr().out
    results = read_json(run_dir / "T1" / run_directory.EVALUATION)
    assert results["layers"] == ["conv1", "conv2", "conv3"]
    for title, column in (
        ("ANN greedy", results["ann"]["greedy"]),
        ("ANN sticky", results["ann"]["sticky"]),
        ("T1 greedy", results["greedy"]),
        ("T1 sticky", results["sticky"]),
    ):
        returns = column["returns"]
        assert f"{title}: " + " ".join(f"{r:g}" for r in returns) in text
        assert len(returns) == 4
        # the reward of CartPole is 1 per step; the step limit of the run ends long episodes
        assert returns == column["lengths"]
        assert max(returns) <= CAP
        assert column["capped"] <= sum(r == CAP for r in returns)
        assert column["mean"] == pytest.approx(np.mean(returns))
        assert f"{column['mean']:.2f}" in text
        assert len(column["spike_rates"]) == 3
    assert f"{results['energy']['int32']:.2f}  int32" in text


def test_a_read_only_run_prints_its_results(run_dir, tmp_path, capsys, monkeypatch):
    arguments = ("env=CartPole-v1", f"run_dir={run_dir}", "episodes=1", "eval.seed=9", "threads=1")

    def read_only(source, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", read_only)
        with pytest.raises(SystemExit) as stop:
            command(evaluate, *arguments)
    assert stop.value.code == 2
    text, error = capsys.readouterr()
    assert "mean return" in text
    line = error.splitlines()[-1]
    assert line.startswith(f"error: cannot write {run_dir / 'T1' / 'evaluation.json'}: Read-only")
    assert line.endswith("for example with output=PATH")
    output = tmp_path / "new" / "results.json"
    command(evaluate, *arguments, f"output={output}")
    assert read_json(output)["evaluation"]["seed"] == 9
    files = list(run_dir.glob("*/evaluation.json"))
    assert all(read_json(file)["evaluation"]["seed"] != 9 for file in files)


def test_the_ann_is_evaluated_only_once_on_the_same_episodes(run_dir, capsys):
    arguments = ("env=CartPole-v1", f"run_dir={run_dir}", "episodes=2", "threads=1", "eval.seed=7")
    command(evaluate, *arguments)
    first = read_json(run_dir / "T1" / run_directory.EVALUATION)
    assert "has already been evaluated on these episodes" not in capsys.readouterr().out
    command(evaluate, *arguments)
    assert "has already been evaluated on these episodes" in capsys.readouterr().out
    assert read_json(run_dir / "T1" / run_directory.EVALUATION) == first
    command(evaluate, *arguments, "eval.epsilon=0.5")
    assert "has already been evaluated on these episodes" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["env=CartPole-v1", "dqn.steps=7"], ["does not accept dqn.steps", "its run"]),
        (["env=CartPole-v1", "network=mnih"], ["does not accept network"]),
        (["env=CartPole-v1", "play.fps=7"], ["does not accept play.fps"]),
        (["env=CartPole-v1", "episodes=0"], ["episodes=0"]),
        (["env=CartPole-v1", "output=/tmp"], ["output=/tmp is a directory", "file name"]),
        (["env=CartPole-v1", "T=0"], ["T=0"]),
        (["env=CartPole-v0"], ["expected a run of CartPole-v0, got CartPole-v1"]),
        (
            ["env=CartPole-v1", "T=2", "direct=true"],
            ["no finished T2-direct", "python -m snn_rl.train env=CartPole-v1 T=2", "direct=true"],
        ),
    ],
)
def test_invalid_settings_give_one_line(run_dir, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        command(evaluate, f"run_dir={run_dir}", *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_a_network_that_does_not_fit_the_env_gives_one_line(run_dir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    spec: NetworkSpec = cartpole((4, 40, 120), 2)
    save_network(copy / "T1" / run_directory.NETWORK, SpikingNetwork(spec, SpikingOptions(1)))
    with pytest.raises(SystemExit) as stop:
        command(evaluate, "env=CartPole-v1", f"run_dir={copy}")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "does not fit env=CartPole-v1" in message
    assert "(4, 40, 120)" in message
    assert "(2, 40, 120)" in message


def test_damaged_settings_of_a_stage_give_one_line(run_dir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / "T1" / run_directory.SETTINGS).write_text("{")
    with pytest.raises(SystemExit):
        command(evaluate, "env=CartPole-v1", f"run_dir={copy}")
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "damaged" in message
