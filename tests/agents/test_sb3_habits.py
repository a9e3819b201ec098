"""Common uses of Stable-Baselines3's DQN, with `SpikingDQN`."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecVideoRecorder

from snn_rl.agents import SpikingDQN
from snn_rl.core.networks import SpikingNetwork
from snn_rl.envs import make_env

# DQN's arguments in rl-zoo's dqn.yml, section atari, reduced in size
ZOO = {
    "buffer_size": 40,
    "learning_rate": 1e-4,
    "batch_size": 4,
    "learning_starts": 8,
    "target_update_interval": 10,
    "train_freq": 4,
    "gradient_steps": 1,
    "exploration_fraction": 0.1,
    "exploration_final_eps": 0.01,
    "optimize_memory_usage": False,
}


def make_agent(env: VecEnv | str, **settings: Any) -> SpikingDQN:
    kwargs = {**ZOO, "device": "cpu", "seed": 0, **settings}
    return SpikingDQN("SpikingCnnPolicy", env, policy_kwargs={"timesteps": 1}, **kwargs)


def cartpole(**settings: Any) -> VecEnv:
    return make_env("CartPole-v1", frame_stack=2, **settings)


def agent_on_cartpole(env: VecEnv) -> SpikingDQN:
    kwargs = {"timesteps": 1, "network": "cartpole"}
    return SpikingDQN("SpikingCnnPolicy", env, policy_kwargs=kwargs, device="cpu", **ZOO)


def test_policy_aliases_name_the_same_policy() -> None:
    aliases = SpikingDQN.policy_aliases
    assert aliases["SpikingCnnPolicy"] is aliases["SpikingDQNPolicy"]


def test_training_on_make_atari_env() -> None:
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=1, seed=0), n_stack=4)
    agent = make_agent(env)
    assert isinstance(agent, DQN)
    assert isinstance(agent.network, SpikingNetwork) and agent.network.timesteps == 1
    assert agent.network.spec.input_shape == (4, 84, 84)
    agent.learn(24)
    assert agent.num_timesteps == 24 and agent._n_updates == (24 - ZOO["learning_starts"]) // 4
    assert np.isfinite(agent.last_loss)


def test_evaluate_policy() -> None:
    agent = agent_on_cartpole(cartpole())
    env = cartpole(training=False, cap=7)
    returns, lengths = evaluate_policy(agent, env, n_eval_episodes=2, return_episode_rewards=True)
    assert returns == lengths and len(returns) == 2  # one point per step
    assert all(0 < length <= 7 for length in lengths)


def test_checkpoint_and_eval_callbacks(tmp_path: Path) -> None:
    agent = agent_on_cartpole(cartpole())
    callbacks = [
        CheckpointCallback(10, str(tmp_path / "all"), save_replay_buffer=True),
        EvalCallback(
            cartpole(training=False, cap=5),
            best_model_save_path=str(tmp_path / "best"),
            eval_freq=10,
            n_eval_episodes=1,
            verbose=0,
        ),
    ]
    agent.learn(20, callback=callbacks)
    agent.save(tmp_path / "end")  # callbacks run before the update of their step
    names = {path.name for path in (tmp_path / "all").iterdir()}
    steps = (10, 20)
    assert names == {
        *(f"rl_model_{n}_steps.safetensors" for n in steps),
        *(f"rl_model_replay_buffer_{n}_steps.npz" for n in steps),
    }
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["best_model.safetensors"]

    # With the callback's suffix, and without a suffix
    for name in ("all/rl_model_20_steps.zip", "all/rl_model_20_steps", "end"):
        loaded = SpikingDQN.load(tmp_path / name, env=cartpole(), device="cpu")
        assert loaded.num_timesteps == 20
    expected = agent.tensors()
    assert all(torch.equal(t, expected[key]) for key, t in loaded.tensors().items())
    loaded.load_replay_buffer(tmp_path / "all" / "rl_model_replay_buffer_20_steps.pkl")
    ours, theirs = loaded.replay_buffer, agent.replay_buffer
    assert ours is not None and theirs is not None
    assert ours.size() == 19  # the callback also runs before its step is stored
    assert (np.asarray(ours.observations[:19]) == np.asarray(theirs.observations[:19])).all()


def test_video_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = []

    def clip(frames: list[Any], fps: int) -> Any:
        clips.append(frames)
        return SimpleNamespace(write_videofile=lambda path, **_: Path(path).write_bytes(b"mp4"))

    # moviepy, which the recorder writes with, wants an older pillow than ours
    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    module = ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = clip  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    env = VecVideoRecorder(cartpole(training=False), str(tmp_path), lambda step: step == 0, 5)
    agent = agent_on_cartpole(env)
    observations = env.reset()
    for _ in range(6):
        actions, _ = agent.predict(observations, deterministic=True)
        observations, _, _, _ = env.step(actions)
    env.close()
    (frames,) = clips
    assert len(frames) == 6 and all(frame.shape == (400, 600, 3) for frame in frames)
    assert any((frame != frames[0]).any() for frame in frames)
    assert len(list(tmp_path.glob("*.mp4"))) == 1
