"""RAM of the Atari console, and the bytes that can be seen in the picture."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from snn_rl.envs.ram import BYTES, RecentRAM, _replay, visible
from snn_rl.envs.state import make_state_env

PONG, BREAKOUT = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"


def test_the_bytes_after_the_last_frames_are_kept() -> None:
    env = RecentRAM(gym.make(PONG), observed=True)
    first, _ = env.reset(seed=0)
    rams = [env.unwrapped.ale.getRAM()] * 4  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, np.concatenate(rams))
    for action in (0, 2, 2, 3, 3, 0):
        obs, *_ = env.step(action)
        rams = [env.unwrapped.ale.getRAM(), *rams[:3]]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(obs, np.concatenate(rams))


def explored(env_id: str) -> tuple[list[Any], NDArray[np.uint8]]:
    """Returns unwrapped environments in different states, and the states visited before."""
    env = make_state_env(env_id, 8, frames=1)
    env.reset()
    rng, seen = np.random.default_rng(0), []
    for _ in range(60):
        seen.append(np.array(env.step(rng.integers(env.action_space.n, size=8))[0])[:, 0])  # type: ignore[attr-defined]
    return [each.unwrapped for each in env.unwrapped.envs], np.concatenate(seen)  # type: ignore[attr-defined]


def test_visible_bytes_of_pong_hold_what_the_picture_shows() -> None:
    games, states = explored(PONG)
    rams = [np.array(game.ale.getRAM()) for game in games]
    newest, before, *earlier = visible(games, states).reshape(4, BYTES)
    for game, same in zip(games, rams, strict=True):
        np.testing.assert_array_equal(game.ale.getRAM(), same)
    # Rows of the opponent's paddle and of the ball, column of the ball
    assert {21, 54, 49} <= set(np.flatnonzero(newest))
    assert np.flatnonzero(before).tolist() == [60]  # row of the agent's paddle
    assert not np.any(earlier)
    # Counters, and copies of the paddles' rows
    assert not newest[[4, 9, 12, 50, 51]].any()
    # Byte 51 is a copy of the row at which the paddle is drawn.
    drawn, row, row_before = states[:, 51], states[:, 60], states[:, BYTES + 60]
    np.testing.assert_array_equal(drawn, row_before)
    assert (drawn != row).mean() > 0.1


def test_a_byte_is_observed_after_the_newest_frame_that_the_picture_shows() -> None:
    games, states = explored(BREAKOUT)
    mask = visible(games, states).reshape(4, BYTES)
    assert mask.sum(0).max() == 1
    assert mask[0, [99, 101, 72]].all()  # column and row of the ball, column of the paddle
    assert not mask[:2, 70].any()  # position of the knob, which is read two frames before


@pytest.mark.parametrize("env_id", [PONG, "QbertNoFrameskip-v4"])
def test_a_byte_that_keeps_its_value_does_not_show(env_id: str) -> None:
    (game, *_), _ = explored(env_id)
    ram = game.ale.getRAM()
    _replay(game, [0, 0])
    expected = _replay(game, [0, 0])
    assert all(_replay(game, [0, 0], (i, int(ram[i]))) == expected for i in range(0, BYTES, 4))
