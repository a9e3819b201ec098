"""Observations, seeds and episode ends of `make_env`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.envs import make_env
from snn_rl.envs.make import DIFFERENCE

PONG, CARTPOLE = "PongNoFrameskip-v4", "CartPole-v1"

Step = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


def play(env: VecEnv, actions: Sequence[int]) -> tuple[NDArray[np.uint8], list[Step]]:
    """Returns the first observation and the steps, with the same action in all environments."""
    first = np.array(env.reset())
    steps = []
    for action in actions:
        obs, rewards, dones, infos = env.step(np.full(env.num_envs, action))
        # Vectorized environments reuse their arrays.
        steps.append((np.array(obs), rewards.copy(), dones.copy(), list(infos)))
    env.close()
    return first, steps


def frames(env: VecEnv, actions: Sequence[int]) -> NDArray[np.uint8]:
    first, steps = play(env, actions)
    return np.stack([first, *(step[0] for step in steps)])


def some_actions(count: int, n: int, seed: int = 0) -> list[int]:
    return [int(a) for a in np.random.default_rng(seed).integers(n, size=count)]


# --- observations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "options", "shape"),
    [
        (PONG, {"frame_stack": 4}, (4, 84, 84)),
        (PONG, {"frame_stack": 1}, (1, 84, 84)),
        (PONG, {"frames": DIFFERENCE}, (2, 84, 84)),
        (CARTPOLE, {"frame_stack": 3}, (3, 40, 120)),
        (CARTPOLE, {"frames": DIFFERENCE}, (2, 40, 120)),
    ],
)
def test_observation_shapes(env_id: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    env = make_env(env_id, n_envs=2, **options)
    assert env.observation_space.shape == shape
    assert env.observation_space.dtype == np.uint8
    first, steps = play(env, [0])
    assert first.shape == steps[0][0].shape == (2, *shape)


def test_frame_stack_holds_the_newest_frame_last() -> None:
    actions = some_actions(12, 6)
    single = frames(make_env(PONG, seed=1, frame_stack=1), actions)
    stacked = frames(make_env(PONG, seed=1, frame_stack=4), actions)
    for t in range(3, len(single)):
        np.testing.assert_array_equal(stacked[t, 0], single[t - 3 : t + 1, 0, 0])


def test_difference_frames_match_single_frames() -> None:
    actions = [0] * 40  # constant force: both poles fall several times
    options: dict[str, Any] = {"n_envs": 2, "seed": 3}
    last, single = play(make_env(CARTPOLE, frame_stack=1, **options), actions)
    seen, pairs = play(make_env(CARTPOLE, frames=DIFFERENCE, **options), actions)

    def expected(frame: NDArray[np.uint8], before: NDArray[np.uint8]) -> NDArray[np.float64]:
        change = np.floor((frame.astype(float) - before.astype(float)) / 2) + 128
        return np.stack([frame.astype(float), change])

    for i in range(2):
        np.testing.assert_array_equal(seen[i], expected(last[i, 0], last[i, 0]))
    ends = 0
    for (frame, _, dones, infos), (pair, _, pair_dones, pair_infos) in zip(
        single, pairs, strict=True
    ):
        np.testing.assert_array_equal(dones, pair_dones)
        for i, done in enumerate(dones):
            before = last[i, 0]
            if done:
                end = infos[i]["terminal_observation"][0]
                np.testing.assert_array_equal(
                    pair_infos[i]["terminal_observation"], expected(end, before)
                )
                ends += 1
                before = frame[i, 0]  # the first frame of an episode has no change
            np.testing.assert_array_equal(pair[i], expected(frame[i, 0], before))
        last = frame
    assert ends >= 4
    assert any((step[0][:, 1] != 128).any() for step in pairs)


def test_render_returns_rgb_pictures() -> None:
    env = make_env(PONG)
    env.reset()
    picture = env.render()
    env.close()
    assert picture is not None
    assert picture.shape[2] == 3
    assert np.ptp(picture) > 0


# --- randomness -------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "n"), [(PONG, 6), (CARTPOLE, 2)])
@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_same_seed_gives_the_same_observations(env_id: str, n: int, sticky: float) -> None:
    actions = some_actions(30, n)

    def run(seed: int) -> NDArray[np.uint8]:
        return frames(make_env(env_id, n_envs=2, seed=seed, sticky=sticky), actions)

    np.testing.assert_array_equal(run(5), run(5))
    assert (run(5) != run(7)).any()


def test_environment_i_has_seed_plus_i() -> None:
    actions = some_actions(15, 2)
    together = frames(make_env(CARTPOLE, n_envs=2, seed=3), actions)
    alone = frames(make_env(CARTPOLE, seed=4), actions)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])


@pytest.mark.parametrize(("env_id", "n"), [(PONG, 6), (CARTPOLE, 2)])
def test_sticky_actions_change_the_episode(env_id: str, n: int) -> None:
    actions = some_actions(40, n)
    plain = frames(make_env(env_id, seed=2), actions)
    sticky = frames(make_env(env_id, seed=2, sticky=0.25), actions)
    assert (plain[1:] != sticky[1:]).any()


@pytest.mark.parametrize(("share", "steady"), [(0.0, []), (0.25, [3, 7]), (0.5, [1, 3, 5, 7])])
def test_some_environments_have_no_sticky_actions(share: float, steady: list[int]) -> None:
    actions = some_actions(40, 2)
    plain, sticky, mixed = (
        frames(make_env(CARTPOLE, n_envs=8, seed=2, **options), actions)
        for options in ({}, {"sticky": 0.5}, {"sticky": 0.5, "steady": share})
    )
    for i in range(8):
        same, other = (plain, sticky) if i in steady else (sticky, plain)
        assert (mixed[:, i] == same[:, i]).all() and (mixed[:, i] != other[:, i]).any()


# --- ends of episodes -------------------------------------------------------------------------


def test_cap_truncates_cartpole() -> None:
    _, steps = play(make_env(CARTPOLE, cap=5), [0, 1] * 5)
    assert [bool(step[2][0]) for step in steps] == ([False] * 4 + [True]) * 2
    assert all(step[3][0]["TimeLimit.truncated"] for step in steps if step[2][0])


def test_fallen_pole_is_not_a_truncation() -> None:
    _, steps = play(make_env(CARTPOLE), [0] * 15)
    ends = [step[3][0] for step in steps if step[2][0]]
    assert ends
    assert not any(info["TimeLimit.truncated"] for info in ends)
