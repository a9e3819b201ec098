"""Stage of the privileged teacher: resumed training, files and evaluation."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import plan, teaching, training
from snn_rl.agents.chain import AgentChain
from snn_rl.agents.checks import check_values
from snn_rl.agents.replay.journal import Journal
from snn_rl.agents.state_policy import StateNetwork, StateScale
from snn_rl.agents.teaching import Teaching, load_teacher, save_teacher
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    AgentNotes,
    StageEvaluation,
    read_counters,
    read_notes,
    read_settings,
)
from snn_rl.chain.stages import Stage
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.utils.errors import UserError

SETTINGS = (
    *("env=CartPole-v1", "teacher=state", "device=cpu", "episodes=2", "rollout.cap=30"),
    *("state.steps=400", "state.checkpoint_steps=100", "state.n_envs=4", "state.hidden=16-8"),
    *("state.learning_starts=40", "state.explore_steps=40", "state.batch_size=16"),
    *("state.quantiles=5", "state.buffer_size=200", "state.horizon_updates=30"),
    *("state.epsilon_steps=200", "state.gradient_steps=1", "state.tau_start=0.005"),
    *("state.n_steps_start=5", "state.trace_decay=null", "state.train_freq=1"),
)
PQN = (
    *("state.trace_decay=0.9", "state.train_freq=4", "state.gradient_steps=2"),
    "state.buffer_size=16",  # one training phase
)
NETWORK = "network.safetensors"


def config(*extra: str) -> Config:
    return compose(Config, [*SETTINGS, *extra])


def stage(settings: Config) -> Stage:
    first = plan.chain(settings)[0]
    assert first.privileged
    return first


def assert_same(one: Path, other: Path) -> None:
    """Compares the networks and the checkpoints, except for the wall-clock times."""
    for file in (NETWORK, training.STATE):
        (expected, meta), (found, other_meta) = (load_tensors(path / file) for path in (one, other))
        assert found.keys() == expected.keys()
        for name in expected:
            assert torch.equal(found[name], expected[name]), name
        for each in (meta, other_meta):
            each.get("counters", each).pop("wall_s")
        assert meta == other_meta


@pytest.mark.parametrize(
    ("extra", "where"),
    [
        ((), "in a segment"),
        ((), "at a checkpoint"),
        (PQN, "in a segment"),
        (PQN, "at a checkpoint"),
    ],
)
def test_a_killed_stage_ends_like_an_uninterrupted_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_fragile: Callable[[VecEnv, int], VecEnv],
    kill: type[BaseException],
    extra: tuple[str, ...],
    where: str,
) -> None:
    settings = config(*extra)
    whole, killed = Teaching(settings, tmp_path / "a"), Teaching(settings, tmp_path / "b")
    whole.fit()
    with monkeypatch.context() as patch:
        if where == "in a segment":
            make, left = killed.training_env, [115]  # one environment only provides the spaces

            def fragile(scale: StateScale, seed: int) -> VecEnv:
                left[0] -= 25
                return make_fragile(make(scale, seed), left[0] + 25)

            patch.setattr(killed, "training_env", fragile)
        else:
            prune, calls = Journal.prune, [0]

            def third_is_fatal(*args: Any) -> None:
                calls[0] += 1
                if calls[0] == 3:
                    raise kill
                prune(*args)

            patch.setattr(Journal, "prune", third_is_fatal)
        with pytest.raises(kill):
            killed.fit()
    counters = read_counters(killed.directory)
    assert counters is not None
    assert counters.segment == 3
    Teaching(settings, tmp_path / "b").fit()
    assert_same(whole.directory, killed.directory)
    chunks = [sorted(path.name for path in (tmp_path / each / "replay").iterdir()) for each in "ab"]
    assert chunks[0] == chunks[1]


def test_a_teacher_of_other_state_variables_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("state.steps=200")
    monkeypatch.setattr(teaching, "visible_columns", lambda *_: np.array([1, 2, 3]))
    Teaching(settings, tmp_path).fit()
    monkeypatch.setattr(teaching, "visible_columns", lambda *_: np.array([0, 2, 3]))
    with pytest.raises(UserError, match="was trained with other state variables"):
        Teaching(settings, tmp_path).fit()


def test_the_saved_network_is_the_averaged_one_with_its_scale(tmp_path: Path) -> None:
    teaching = Teaching(config(), tmp_path)
    teaching.fit()
    network, state = load_teacher(tmp_path / NETWORK), load_tensors(tmp_path / training.STATE)[0]
    for name, weights in network.state_dict().items():
        assert torch.equal(weights, state[f"policy.q_net_target.network.{name}"]), name
    trained = state["policy.q_net.network.layers.0.weight"]
    assert not torch.equal(network.state_dict()["layers.0.weight"], trained)
    scale = teaching.scale()
    np.testing.assert_array_equal(network.scale.columns, scale.columns)
    np.testing.assert_array_equal(network.scale.mean, scale.mean)
    notes = read_notes(tmp_path / NETWORK)
    assert (notes.stage, notes.steps, notes.selection) == ("teacher", 400, None)
    # One update follows each step after the random steps, except the last one of a segment.
    assert notes.updates == (400 - 40) // 4 - 4


def test_the_chain_evaluates_the_teacher_without_and_with_sticky_actions(tmp_path: Path) -> None:
    settings = config()
    chain = AgentChain(settings, tmp_path, {})
    chain.fit(stage(settings))
    chain.evaluate(stage(settings))
    path = tmp_path / "teacher" / run_directory.METRICS
    metrics = StageEvaluation.read(path)
    assert metrics.evaluation == plan.trials(settings)
    assert len(metrics.greedy.returns) == len(metrics.sticky.returns) == 2
    assert all(0 < length <= 30 for length in metrics.greedy.lengths)
    before = path.stat().st_mtime_ns
    chain.evaluate(stage(settings))  # the same episodes
    assert path.stat().st_mtime_ns == before


def test_some_environments_of_teacher_and_student_are_steady(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = compose(
        Config, ["env=PongNoFrameskip-v4", "teacher=state", "state.n_envs=8", "rollout.n_envs=4"]
    )
    scale = StateScale(np.array([49, 50]), np.zeros(2), np.ones(2), np.ones(2), np.zeros(0, int))
    teacher = SimpleNamespace(network=SimpleNamespace(scale=scale, frames=4))
    monkeypatch.setattr(AgentChain, "_privileged_teacher", teacher)
    chain = AgentChain(settings, tmp_path, {})
    student = next(each for each in plan.chain(settings) if each.analog and not each.privileged)
    envs = (
        Teaching(settings, tmp_path).training_env(scale, 0),
        chain._training_env(student, 0),
        Teaching(settings, tmp_path)._evaluation_env(scale, 4, 0, sticky=0.25),
    )
    expected = ([0.25, 0.25, 0.25, 0.0] * 2, [0.25, 0.25, 0.25, 0.0], [0.25] * 4)
    for env, probabilities in zip(envs, expected, strict=True):
        games = [each.ale for each in env.unwrapped.get_attr("unwrapped")]
        assert [game.getFloat("repeat_action_probability") for game in games] == probabilities
        env.close()


def test_settings_of_the_stages_hold_those_of_the_teacher(tmp_path: Path) -> None:
    settings, other = config(), config("state.tau=0.5", "network=cartpole", "dqn.lr=0.5")
    teacher = plan.stage_settings(settings, stage(settings))
    write_json(tmp_path / run_directory.SETTINGS, teacher)
    assert read_settings(tmp_path) == teacher
    changed = plan.stage_settings(other, stage(other))
    assert {key for key in teacher if teacher[key] != changed[key]} == {"state.tau"}
    ann = plan.stage_settings(settings, plan.chain(settings)[1])
    assert (ann["teacher"], ann["state.tau"]) == ("state", 0.002)
    plain = compose(Config, ["env=CartPole-v1"])
    assert not any(
        key.startswith("state.") for key in plan.stage_settings(plain, plan.chain(plain)[0])
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("state.hidden=16-x", "state.hidden=16-x: expected sizes"),
        ("state.hidden=0", "state.hidden=0: expected sizes"),
        ("state.ranges=20-0", "state.ranges=20-0: expected ranges such as 20-100"),
        ("ann=any.zip", "cannot be combined with ann"),
        ("init=any.zip", "cannot be combined with init"),
        ("state.steps=40", "must exceed state.learning_starts=40"),
        ("state.checkpoint_steps=4", "must exceed state.n_envs=4"),
        ("state.buffer_size=20", "times the 5 steps of the longest n-step returns"),
        (
            "state.trace_decay=0.9 state.train_freq=51",
            "at least 204 (state.n_envs * state.train_freq)",
        ),
        ("state.trace_decay=0.9 state.batch_size=5", "must not exceed the 4 transitions"),
        ("state.train_freq=200", "the stage teacher would end without a gradient step"),
        ("iir.objective=td", "whose networks learn advantages"),
    ],
)
def test_settings_that_cannot_work_are_refused(extra: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_values(config(*extra.split()))


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    numbers = (np.full(3, each, np.float32) for each in (0, 1, 1))
    scale = StateScale(np.array([1, 3, 6]), *numbers, compared=np.array([0, 2]))
    notes = AgentNotes(env="CartPole-v1", seed=0, stage="teacher", steps=1, updates=1, wall_s=0.0)
    network = StateNetwork(scale, 4, 2, [8], 3, [2, 5])
    save_teacher(tmp_path / NETWORK, network, notes)
    loaded = load_teacher(tmp_path / NETWORK)
    obs = torch.rand(5, 4, 3).round()
    assert torch.equal(loaded(obs), network(obs))
    network.quantiles = 4
    save_teacher(tmp_path / NETWORK, network, notes)
    with pytest.raises(UserError, match="does not hold the network it describes"):
        load_teacher(tmp_path / NETWORK)
