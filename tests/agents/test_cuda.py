"""Tests of agents on a GPU, skipped without a GPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import CarriedDQN, SpikingDQN, evaluate
from snn_rl.agents.retraining import iir, observe
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_agents_learn_and_their_files_load(
    make_catch: Callable[..., VecEnv], tmp_path: Path
) -> None:
    policy = {"network": "8c6s6-32", "timesteps": 2, "optimizer_kwargs": {"fused": True}}
    agent = SpikingDQN(
        "SpikingCnnPolicy",
        make_catch(),
        policy_kwargs=policy,
        n_steps=3,
        double=True,
        bf16=True,
        learning_starts=20,
        buffer_size=200,
        batch_size=16,
        device="cuda",
        seed=0,
    )
    agent.learn(100)
    agent.save(tmp_path / "agent.safetensors")
    for device in ("cuda", "cpu"):
        loaded = SpikingDQN.load(tmp_path / "agent.safetensors", make_catch(), device=device)
        loaded.learn(40)


def test_a_carried_agent_learns(make_catch: Callable[..., VecEnv]) -> None:
    agent = CarriedDQN(
        "SpikingCnnPolicy",
        make_catch(),
        policy_kwargs={"network": "8c6s6-32", "timesteps": 1, "carry_state": True},
        burn_in=2,
        window=2,
        learning_starts=20,
        buffer_size=200,
        batch_size=8,
        device="cuda",
        seed=0,
    )
    agent.learn(100)
    _, state = agent.predict(np.asarray(agent.get_env().reset()))  # type: ignore[union-attr]
    assert state is not None and all(isinstance(rest, np.ndarray) for rest in state)


def test_the_chain_in_python(make_catch: Callable[..., VecEnv]) -> None:
    env = make_catch()
    agent = SpikingDQN(
        "SpikingCnnPolicy",
        env,
        policy_kwargs={"network": "8c6s6-32"},
        learning_starts=20,
        buffer_size=200,
        batch_size=16,
        device="cuda",
        seed=0,
    )
    agent.learn(100)
    teacher = agent.network
    assert isinstance(teacher, AnalogNetwork)
    assert observe(teacher, env, count=32, steps=30).device.type == "cuda"
    last = iir(agent, env, steps=40, teacher_steps=40, batch_size=8, buffer_size=200)
    assert isinstance(last.network, SpikingNetwork) and last.network.timesteps == 1
    assert quantize(last.network).head.weight.device.type == "cuda"

    def games(count: int, seed: int) -> VecEnv:
        return make_catch(count, seed)

    # the event-driven engine runs on the CPU while the teacher is on the GPU
    result = evaluate(last.q_net.to("cpu"), games, 4, 0, teacher=agent.q_net)
    assert result.agreement is not None
