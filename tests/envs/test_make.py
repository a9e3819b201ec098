from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.envs import ATARI, CARTPOLE, UnknownEnv, atari_ids, family, make_env
from snn_rl.envs.make import DIFFERENCE, FRAME_SKIP

PONG, INVADERS, POLE = "PongNoFrameskip-v4", "SpaceInvadersNoFrameskip-v4", "CartPole-v1"

Step = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]


def play(env: VecEnv, actions: Sequence[int]) -> tuple[NDArray[np.uint8], list[Step]]:
    """The first observation, and what each action (the same in all environments) brings."""
    first = np.array(env.reset())
    steps = []
    for action in actions:
        obs, rewards, dones, infos = env.step(np.full(env.num_envs, action))
        # copies: vectorized environments reuse their arrays
        steps.append((np.array(obs), rewards.copy(), dones.copy(), list(infos)))
    env.close()
    return first, steps


def frames(env: VecEnv, actions: Sequence[int]) -> NDArray[np.uint8]:
    first, steps = play(env, actions)
    return np.stack([first, *(step[0] for step in steps)])


def some_actions(count: int, n: int, seed: int = 0) -> list[int]:
    return [int(a) for a in np.random.default_rng(seed).integers(n, size=count)]


# --- ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("PongNoFrameskp-v4", PONG),
        ("pong", PONG),
        ("Pomg-v4", PONG),
        ("spaceinvader", INVADERS),
        ("CartPol-v1", POLE),
        ("CartPole-v2", POLE),
    ],
)
def test_unknown_id_names_what_was_meant(wrong: str, meant: str) -> None:
    with pytest.raises(UnknownEnv, match="did you mean") as caught:
        make_env(wrong)
    assert wrong in str(caught.value)
    assert meant in str(caught.value)


def test_id_without_a_neighbour_says_what_ids_look_like() -> None:
    with pytest.raises(UnknownEnv, match="use CartPole-v1 or <Game>NoFrameskip-v4"):
        family("qqqqqqqq")


@pytest.mark.parametrize("form", ["ALE/{}-v5", "{}-v4", "{}-v0", "{}Deterministic-v4"])
@pytest.mark.parametrize("game", ["Pong", "SpaceInvaders"])
def test_id_that_skips_frames_itself_is_refused_with_the_id_to_use(form: str, game: str) -> None:
    with pytest.raises(UnknownEnv, match=f"use env={game}NoFrameskip-v4$"):
        make_env(form.format(game))


def test_families() -> None:
    assert family(POLE) == family("CartPole-v0") == CARTPOLE
    assert {family(env_id) for env_id in atari_ids()} == {ATARI}
    assert {PONG, INVADERS} <= set(atari_ids())


# --- observations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "options", "shape"),
    [
        (PONG, {"frame_stack": 4}, (4, 84, 84)),
        (PONG, {"frame_stack": 1}, (1, 84, 84)),
        (PONG, {"frames": DIFFERENCE}, (2, 84, 84)),
        (POLE, {"frame_stack": 3}, (3, 40, 120)),
        (POLE, {"frames": DIFFERENCE}, (2, 40, 120)),
    ],
)
def test_observation_shapes(env_id: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    env = make_env(env_id, n_envs=2, **options)
    assert env.observation_space.shape == shape
    assert env.observation_space.dtype == np.uint8
    first, steps = play(env, [0])
    assert first.shape == steps[0][0].shape == (2, *shape)


def test_a_stack_holds_the_last_frames_newest_last() -> None:
    actions = some_actions(12, 6)
    single = frames(make_env(PONG, seed=1, frame_stack=1), actions)
    stacked = frames(make_env(PONG, seed=1, frame_stack=4), actions)
    for t in range(3, len(single)):
        np.testing.assert_array_equal(stacked[t, 0], single[t - 3 : t + 1, 0, 0])


def test_difference_frames_against_single_frames() -> None:
    actions = [0] * 40  # pushed one way, both poles fall several times
    options: dict[str, Any] = {"n_envs": 2, "seed": 3}
    last, single = play(make_env(POLE, frame_stack=1, **options), actions)
    seen, pairs = play(make_env(POLE, frames=DIFFERENCE, **options), actions)

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
                before = frame[i, 0]  # the new episode's first frame has nothing before it
            np.testing.assert_array_equal(pair[i], expected(frame[i, 0], before))
        last = frame
    assert ends >= 4
    assert any((step[0][:, 1] != 128).any() for step in pairs)


def test_pictures_are_rgb_where_asked_for() -> None:
    env = make_env(PONG, render=True)
    env.reset()
    picture = env.render()
    env.close()
    assert picture is not None
    assert picture.shape[2] == 3
    assert np.ptp(picture) > 0


# --- randomness -------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "n"), [(PONG, 6), (POLE, 2)])
@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_same_seed_same_observations(env_id: str, n: int, sticky: float) -> None:
    actions = some_actions(30, n)

    def run(seed: int) -> NDArray[np.uint8]:
        return frames(make_env(env_id, n_envs=2, seed=seed, sticky=sticky), actions)

    np.testing.assert_array_equal(run(5), run(5))
    assert (run(5) != run(7)).any()


def test_each_environment_has_the_seed_after_the_one_before() -> None:
    actions = some_actions(15, 2)
    together = frames(make_env(POLE, n_envs=2, seed=3), actions)
    alone = frames(make_env(POLE, seed=4), actions)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])


@pytest.mark.parametrize(("env_id", "n"), [(PONG, 6), (POLE, 2)])
def test_sticky_actions_change_the_course_of_a_game(env_id: str, n: int) -> None:
    actions = some_actions(40, n)
    plain = frames(make_env(env_id, seed=2), actions)
    sticky = frames(make_env(env_id, seed=2, sticky=0.25), actions)
    assert (plain[1:] != sticky[1:]).any()


# --- rewards and ends -------------------------------------------------------------------------


def whole_game(training: bool, env_id: str = INVADERS) -> list[Step]:
    """Firing and moving at random until all lives are lost."""
    env = make_env(env_id, seed=0, training=training)
    env.reset()
    rng = np.random.default_rng(0)
    steps: list[Step] = []
    while not any("episode" in info for step in steps[-1:] for info in step[3]):
        obs, rewards, dones, infos = env.step(rng.integers(6, size=1))
        steps.append((np.array(obs), rewards.copy(), dones.copy(), list(infos)))
    env.close()
    return steps


@pytest.mark.parametrize("env_id", [INVADERS, "DemonAttackNoFrameskip-v4"])
def test_evaluation_sees_whole_unclipped_games(env_id: str) -> None:
    steps = whole_game(training=False, env_id=env_id)
    rewards = np.array([step[1][0] for step in steps])
    end = steps[-1][3][0]
    assert set(rewards) - {0.0, 1.0}, "clipped"
    assert rewards.sum() == end["episode"]["r"]
    assert [step[2][0] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert end["lives"] == 0
    assert not end["TimeLimit.truncated"]


def test_training_clips_rewards_and_ends_episodes_with_each_life() -> None:
    steps = whole_game(training=True)
    rewards = np.array([step[1][0] for step in steps])
    assert set(rewards) == {0.0, 1.0}
    assert sum(step[2][0] for step in steps) == 3, "Space Invaders has three lives"
    # the Monitor inside still counts the unclipped, whole game
    assert steps[-1][3][0]["episode"]["r"] > rewards.sum()


def test_a_lost_life_does_not_stop_a_game_that_waits_for_fire() -> None:
    env = make_env("BreakoutNoFrameskip-v4", seed=0, training=False)
    env.reset()
    for _ in range(1_000):
        infos = env.step(np.array([3]))[3]  # to the left, never FIRE
        if "episode" in infos[0]:
            break
    env.close()
    assert "episode" in infos[0], "all five lives are lost"


def test_cap_truncates_atari() -> None:
    cap = 60
    _, steps = play(make_env(PONG, training=False, cap=cap), [0] * cap)
    ends = [(t, step[3][0]) for t, step in enumerate(steps, 1) if step[2][0]]
    (t, info), *more = ends
    assert not more
    assert info["TimeLimit.truncated"]
    # the cap counts emulator frames, and the up to 30 no-ops before the agent's first are some
    assert info["episode"]["l"] == cap * FRAME_SKIP
    assert cap - np.ceil(30 / FRAME_SKIP) - 1 <= t <= cap


def test_cap_truncates_cartpole() -> None:
    _, steps = play(make_env(POLE, cap=5), [0, 1] * 5)
    assert [bool(step[2][0]) for step in steps] == ([False] * 4 + [True]) * 2
    assert all(step[3][0]["TimeLimit.truncated"] for step in steps if step[2][0])


def test_a_fallen_pole_is_no_truncation() -> None:
    _, steps = play(make_env(POLE), [0] * 15)
    ends = [step[3][0] for step in steps if step[2][0]]
    assert ends
    assert not any(info["TimeLimit.truncated"] for info in ends)
