"""Rewards, lives and episode ends of Atari games."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from snn_rl.envs import family, make_env
from snn_rl.envs.atari import FRAME_SKIP

PONG, INVADERS = "PongNoFrameskip-v4", "SpaceInvadersNoFrameskip-v4"

Step = tuple[NDArray[np.float32], NDArray[np.bool_], dict[str, Any]]


def full_game(training: bool, env_id: str = INVADERS) -> list[Step]:
    """Takes random actions until all lives are lost; returns rewards, dones and infos."""
    env = make_env(env_id, seed=0, training=training)
    env.reset()
    rng = np.random.default_rng(0)
    steps: list[Step] = []
    while not (steps and "episode" in steps[-1][2]):
        _, rewards, dones, infos = env.step(rng.integers(6, size=1))
        steps.append((rewards.copy(), dones.copy(), infos[0]))
    env.close()
    return steps


@pytest.mark.parametrize("env_id", [INVADERS, "DemonAttackNoFrameskip-v4"])
def test_evaluation_runs_full_games_with_unclipped_rewards(env_id: str) -> None:
    steps = full_game(training=False, env_id=env_id)
    rewards = np.array([step[0][0] for step in steps])
    end = steps[-1][2]
    assert set(rewards) - {0.0, 1.0}, "clipped"
    assert rewards.sum() == end["episode"]["r"]
    assert [step[1][0] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert end["lives"] == 0
    assert not end["TimeLimit.truncated"]


def test_training_clips_rewards_and_ends_an_episode_with_each_life() -> None:
    steps = full_game(training=True)
    rewards = np.array([step[0][0] for step in steps])
    assert set(rewards) == {0.0, 1.0}
    assert sum(step[1][0] for step in steps) == 3, "Space Invaders has three lives"
    # The Monitor inside the wrappers records the unclipped return of the full game.
    assert steps[-1][2]["episode"]["r"] > rewards.sum()


def test_evaluation_presses_fire_after_a_lost_life() -> None:
    env = make_env("BreakoutNoFrameskip-v4", seed=0, training=False)
    env.reset()
    for _ in range(1_000):
        infos = env.step(np.array([3]))[3]  # moves to the left, never FIRE
        if "episode" in infos[0]:
            break
    env.close()
    assert "episode" in infos[0], "all five lives are lost"


def test_cap_truncates_an_episode() -> None:
    cap = 60
    env = make_env(PONG, training=False, cap=cap)
    env.reset()
    steps = [env.step(np.zeros(1, int)) for _ in range(cap)]
    env.close()
    ends = [(t, step[3][0]) for t, step in enumerate(steps, 1) if step[2][0]]
    (t, info), *more = ends
    assert not more
    assert info["TimeLimit.truncated"]
    # The cap counts emulator frames, which include up to 30 no-ops before the first action.
    assert info["episode"]["l"] == cap * FRAME_SKIP
    assert cap - np.ceil(30 / FRAME_SKIP) - 1 <= t <= cap


def test_a_game_takes_its_own_actions_or_all_of_the_console() -> None:
    for full, count in ((False, 6), (True, 18)):
        env = make_env(PONG, full_action_space=full)
        names = family(PONG).action_names(env.get_attr("unwrapped")[0])
        assert env.action_space == spaces.Discrete(count) and len(names) == count
        env.close()
