"""Agents learn Catch from pixels, and keep it at one timestep."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import SpikingDQN, evaluate
from snn_rl.core.conversion import convert
from snn_rl.core.networks import SpikingOptions

MakeCatch = Callable[..., VecEnv]

NETWORK = "16c6s6-128"  # one position of the first convolution for each cell
NEAR_PERFECT = 0.9  # at most three misses in 60 episodes


def make_agent(
    make_catch: MakeCatch, timesteps: int | None, seed: int, lr: float = 1e-3, **settings: Any
) -> SpikingDQN:
    return SpikingDQN(
        "SpikingDQNPolicy",
        make_catch(8, seed),
        learning_rate=lr,
        buffer_size=10_000,
        batch_size=32,
        train_freq=1,
        target_update_interval=50,
        exploration_final_eps=0.05,
        gamma=0.95,
        double=True,
        seed=seed,
        device="cpu",
        policy_kwargs={"network": NETWORK, "timesteps": timesteps, "bias": True},
        **settings,
    )


def score(agent: SpikingDQN, make_catch: MakeCatch, epsilon: float = 0.0) -> float:
    """Returns the mean return of 60 new episodes, from -1 (worst) to 1 (perfect)."""
    return evaluate(agent.q_net, make_catch, 60, seed=1000, epsilon=epsilon, side_by_side=30).mean


@pytest.fixture(scope="module")
def ann(make_catch: MakeCatch) -> SpikingDQN:
    """An analog agent after 4,000 steps and about 400 updates."""
    agent = make_agent(make_catch, None, seed=0, learning_starts=500, exploration_fraction=0.4)
    return agent.learn(4_000)


def test_random_and_untrained_agents_miss(ann: SpikingDQN, make_catch: MakeCatch) -> None:
    assert score(ann, make_catch, epsilon=1.0) < 0
    assert score(make_agent(make_catch, None, seed=1), make_catch) < 0


def test_analog_agent_learns_catch(ann: SpikingDQN, make_catch: MakeCatch) -> None:
    assert score(ann, make_catch) >= NEAR_PERFECT


@pytest.mark.parametrize(("objective", "steps"), [("distill", 1_200), ("td", 2_400)])
def test_retrained_agent_with_one_timestep_is_as_good(
    ann: SpikingDQN, make_catch: MakeCatch, objective: str, steps: int
) -> None:
    assert isinstance(ann.replay_buffer, ReplayBuffer)
    seen = torch.as_tensor(ann.replay_buffer.observations[:32]).flatten(0, 1)
    agent = make_agent(
        make_catch,
        1,
        seed=2,
        lr=5e-4,
        learning_starts=0,
        exploration_initial_eps=0.05,
        objective=objective,
        teacher=ann.network,
    )
    agent.load_network(convert(ann.network, ann.q_net.images(seen), SpikingOptions(1)))
    # Conversion alone loses performance, which retraining has to restore.
    assert score(agent, make_catch) < NEAR_PERFECT
    agent.replay_buffer = deepcopy(ann.replay_buffer)  # as between the stages of a chain
    agent.learn(steps)
    assert score(agent, make_catch) >= NEAR_PERFECT
