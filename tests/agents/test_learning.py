"""Learning itself: a game is learned from pixels, and kept through conversion to one timestep."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import SpikingDQN, evaluate
from snn_rl.convert import convert

MakeCatch = Callable[..., VecEnv]


def make_agent(env: VecEnv, timesteps: int | None, **settings: Any) -> SpikingDQN:
    return SpikingDQN(
        "SpikingDQNPolicy",
        env,
        buffer_size=10_000,
        batch_size=32,
        train_freq=1,
        seed=0,
        device="cpu",
        policy_kwargs={"network": "cartpole", "timesteps": timesteps, "bias": True},
        **settings,
    )


def score(agent: SpikingDQN, make_catch: MakeCatch, epsilon: float = 0.0) -> float:
    """Mean return over 60 games; 1 is perfect, -1 the worst."""
    return evaluate(agent.q_net, make_catch, 60, seed=1000, epsilon=epsilon, side_by_side=30).mean


@pytest.fixture(scope="module")
def ann(make_catch: MakeCatch) -> SpikingDQN:
    pass


def test_tmp(make_catch):
    import time

    for kw in (
        dict(double=True),
        dict(double=False, n_steps=3),
    ):
        t = time.time()
        agent = make_agent(
            make_catch(8, 0),
            None,
            learning_rate=1e-3,
            learning_starts=500,
            exploration_fraction=0.4,
            exploration_final_eps=0.05,
            target_update_interval=200,
            gamma=0.95,
            **kw,
        )
        print("random", score(agent, make_catch, 1.0), "untrained", score(agent, make_catch))
        for i in range(6):
            agent.learn(2000 * (i + 1) - agent.num_timesteps, reset_num_timesteps=False)
            print(kw, i, time.time() - t, agent._n_updates, score(agent, make_catch))
    buf = agent.replay_buffer
    data = agent.q_net.images(
        torch.as_tensor(buf.observations[:200].reshape(-1, *buf.observations.shape[2:]))
    )[:256]
    for T in (1, 5):
        snn = convert(agent.network, T, data)
        t = time.time()
        st = make_agent(
            make_catch(8, 1),
            T,
            learning_rate=1e-3,
            learning_starts=0,
            objective="distill",
            teacher=agent.network,
            exploration_initial_eps=0.05,
            exploration_final_eps=0.05,
        )
        st.load_network(snn)
        print(T, "converted", score(st, make_catch))
        for i in range(4):
            st.learn(1000 * (i + 1) - st.num_timesteps, reset_num_timesteps=False)
            print(T, i, time.time() - t, st._n_updates, score(st, make_catch))
    assert 0
