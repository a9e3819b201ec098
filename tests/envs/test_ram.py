"""Memory of the Atari console, and which of its bytes can be seen."""

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from snn_rl.envs.ram import BYTES, Memory, visible
from snn_rl.envs.state import make_state_env

PONG = "PongNoFrameskip-v4"


def test_the_memory_holds_the_bytes_of_the_last_two_frames() -> None:
    memory = Memory(gym.make(PONG), observed=True)
    first, _ = memory.reset(seed=0)
    before = memory.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first, [*before, *before])
    for action in (0, 2, 2, 3, 3, 0):
        obs, *_ = memory.step(action)
        now = memory.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
        np.testing.assert_array_equal(obs, [*now, *before])
        before = now


@pytest.fixture(scope="module")
def pong() -> tuple[set[int], set[int], NDArray[np.uint8]]:
    """Bytes of Pong that a teacher observes after the newest frame and after the frame before."""
    env = make_state_env(PONG, 8, frames=1)
    env.reset()
    rng, seen = np.random.default_rng(0), []
    for _ in range(60):
        seen.append(np.array(env.step(rng.integers(6, size=8))[0])[:, 0])
    states = np.concatenate(seen)
    games = [each.unwrapped for each in env.unwrapped.envs]  # type: ignore[attr-defined]
    memory = [np.array(game.ale.getRAM()) for game in games]
    newest, earlier = np.split(visible(games, states), 2)
    for game, same in zip(games, memory, strict=True):
        np.testing.assert_array_equal(game.ale.getRAM(), same)
    env.close()
    return set(np.flatnonzero(newest)), set(np.flatnonzero(earlier)), states


def test_visible_bytes_of_pong_hold_what_the_picture_shows(
    pong: tuple[set[int], set[int], NDArray[np.uint8]],
) -> None:
    newest, earlier, states = pong
    assert {21, 49, 54} <= newest  # row of the opponent's paddle; column and row of the ball
    assert earlier == {60}  # row of the agent's paddle, which is drawn one frame later
    varying = set(np.flatnonzero((states != states[0]).any(0)))
    # Counters, and copies of the paddles' rows
    assert newest | earlier <= varying - {4, 9, 12, 50, 51}


def test_the_byte_of_the_frame_before_is_the_one_that_is_drawn(
    pong: tuple[set[int], set[int], NDArray[np.uint8]],
) -> None:
    _, _, states = pong
    drawn, row, row_before = states[:, 51], states[:, 60], states[:, BYTES + 60]
    np.testing.assert_array_equal(drawn, row_before)
    assert (drawn != row).mean() > 0.1
