"""Loading of agents from the zoo, directories and files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

from snn_rl import zoo
from snn_rl.agents.loading import Agent, load
from snn_rl.chain.run_directory import NETWORK, SETTINGS
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork
from snn_rl.envs import make_env
from snn_rl.files.atomic import read_json, write_json
from snn_rl.utils.errors import UserError

CARTPOLE = "CartPole-v1"
SHIPPED = zoo.ROOT / CARTPOLE


def observations(count: int = 6) -> np.ndarray:
    env = make_env(CARTPOLE, n_envs=count, frame_stack=3)
    env.reset()
    for step in range(5):
        obs, *_ = env.step(np.full(count, step % 2))
    env.close()
    return np.asarray(obs)


def same(one: Agent, other: Agent) -> bool:
    obs = observations()
    return torch.equal(one.q_net.decide(obs).q_values, other.q_net.decide(obs).q_values)


@pytest.mark.parametrize("T", [1, 5])
def test_included_agent_is_loaded_by_its_environment(T: int) -> None:
    agent = load(CARTPOLE, T=T, device="cpu")
    assert isinstance(agent.network, SpikingNetwork) and agent.network.timesteps == T
    assert (agent.stage, agent.env) == (f"T{T}", CARTPOLE)
    actions, state = agent.predict(observations())
    assert actions.shape == (6,) and set(actions) <= {0, 1} and state is None
    one, _ = agent.predict(observations()[0])
    assert one == actions[0]


def test_evaluation_prints_and_returns_a_good_number(capsys: pytest.CaptureFixture[str]) -> None:
    agent = load(CARTPOLE, device="cpu")
    assert agent.stage == "T1", "the fewest timesteps are the default"
    results = agent.evaluate(episodes=2)
    assert results.mean > 400
    captured = capsys.readouterr()
    assert captured.out.startswith(f"T1 greedy: {results.mean:.2f} ± {results.std:.2f} over 2 ")
    assert "T1 greedy: 100%" in captured.err


def test_directories_and_files_give_the_same_agent(tmp_path: Path) -> None:
    agent = load(CARTPOLE, T=5, device="cpu")
    for source in (SHIPPED / "T5", str(SHIPPED / "T5" / NETWORK)):
        assert same(load(source, device="cpu"), agent)
    run = tmp_path / "runs" / "seed0"
    shutil.copytree(SHIPPED, run)
    assert same(load(run, T=5, device="cpu"), agent)
    assert load(run, device="cpu").stage == "T1"
    assert isinstance(load(run / "ann", device="cpu").network, AnalogNetwork)

    agent.save(tmp_path / "saved.safetensors")
    saved = load(tmp_path / "saved.safetensors", device="cpu")
    assert same(saved, agent)
    assert (saved.stage, saved.env) == ("T5", CARTPOLE)
    assert saved.make_env(2, 0).observation_space.shape == (3, 40, 120)


def test_files_of_other_libraries_are_loaded(tmp_path: Path) -> None:
    env = make_env(CARTPOLE, frame_stack=3)
    dqn = DQN("CnnPolicy", env, buffer_size=10, device="cpu", seed=0)
    dqn.save(tmp_path / "dqn")
    agent = load(tmp_path / "dqn.zip", env=CARTPOLE, device="cpu")
    obs = observations()
    with torch.no_grad():
        expected = dqn.q_net(torch.as_tensor(obs))
    torch.testing.assert_close(agent.q_net.decide(obs).q_values, expected)
    assert (agent.stage, agent.env) == ("ann", CARTPOLE)

    torch.save(dqn.q_net.state_dict(), tmp_path / "dqn.pth")
    options = {"image": (40, 120), "strides": [4, 2, 1]}
    assert same(load(tmp_path / "dqn.pth", device="cpu", **options), agent)
    with pytest.raises(UserError, match="pass its id as env="):
        load(tmp_path / "dqn.pth", device="cpu", **options).evaluate()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("env", None, "missing key 'env'"),
        ("env", ["CartPole-v1"], "env: expected str"),
        ("env", "NoSuchGame-v0", "unknown env=NoSuchGame-v0"),
        ("env", "no.such.module:Game", "there is no module no.such.module"),
        ("env", "..:Game", "there is no module"),
        ("network", 7, "network: expected str"),
        ("network", "nonsense", "network=nonsense: must be one of"),
        ("network", "40000", "does not fit"),
        ("bias", "yes", "bias: expected bool"),
        ("rollout.frame_stack", "3", "rollout.frame_stack: expected int"),
        ("rollout.frame_stack", 0, "frame_stack=0: must be between 1 and 32"),
        ("rollout.frame_stack", 32, "the network expects 3 channels"),
        ("rollout.frames", "none", "frames=none: must be one of"),
        ("rollout.cap", None, "rollout.cap: expected int"),
    ],
)
def test_changed_settings_of_a_stage_are_rejected(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    stage = tmp_path / "T1"
    shutil.copytree(SHIPPED / "T1", stage)
    settings = read_json(stage / SETTINGS) | {name: value}
    write_json(stage / SETTINGS, {k: v for k, v in settings.items() if (k, v) != ("env", None)})
    with pytest.raises(UserError, match=message):
        load(stage, device="cpu")


@pytest.mark.parametrize(
    ("source", "T", "message"),
    [
        ("Pong-v4", 1, r"no agent Pong-v4: .*CartPole-v1, PongNoFrameskip-v4"),
        ("dqn_pong.zip", None, "no agent dqn_pong.zip: expected a file"),
        (CARTPOLE, 3, "CartPole-v1 has no finished agent with T=3, only the stages ann, T5, T1"),
    ],
)
def test_missing_agents_are_named(source: str, T: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(source, T)
