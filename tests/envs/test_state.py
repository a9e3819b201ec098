"""States observed by a privileged teacher, compared with the environments of `make_env`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.envs import family, make_env
from snn_rl.envs.families import _FAMILIES, register_env_family
from snn_rl.envs.state import check_state, make_state_env, make_taught_env, visible_columns

PONG, BREAKOUT, INVADERS = (
    f"{game}NoFrameskip-v4" for game in ("Pong", "Breakout", "SpaceInvaders")
)
CARTPOLE = "CartPole-v1"


def states(env: VecEnv, env_id: str) -> list[NDArray[Any]]:
    read = family(env_id).state
    assert read is not None
    return [np.array(read(each)) for each in env.envs]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env_id", "training"), [(PONG, False), (BREAKOUT, True), (BREAKOUT, False), (INVADERS, True)]
)
def test_atari_episodes_equal_those_with_images(env_id: str, training: bool) -> None:
    options: dict[str, Any] = {"n_envs": 2, "seed": 3, "training": training, "sticky": 0.25}
    pixels, fast = make_env(env_id, cap=100, **options), make_state_env(env_id, cap=100, **options)
    assert isinstance(fast.action_space, spaces.Discrete)
    pixels.reset()
    obs = np.array(fast.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(130):
        np.testing.assert_array_equal(obs[:, -1], states(pixels.unwrapped, env_id))
        actions = rng.integers(fast.action_space.n, size=2)
        _, rewards, dones, infos = pixels.step(actions)
        stepped, same_rewards, same_dones, same_infos = fast.step(actions)
        obs = np.array(stepped)
        np.testing.assert_array_equal(rewards, same_rewards)
        np.testing.assert_array_equal(dones, same_dones)
        for info, same in zip(infos, same_infos, strict=True):
            assert info["TimeLimit.truncated"] == same["TimeLimit.truncated"]
            if "episode" in info:
                ends += 1
                assert info["episode"]["r"] == same["episode"]["r"]
                assert info["episode"]["l"] == same["episode"]["l"]
    assert ends
    pixels.close()
    fast.close()


def test_cartpole_episodes_equal_those_with_images() -> None:
    pixels, fast = (
        make_env(CARTPOLE, seed=1, sticky=0.25, training=False),
        make_state_env(CARTPOLE, seed=1, sticky=0.25, training=False),
    )
    pixels.reset()
    obs = np.array(fast.reset())
    rng = np.random.default_rng(0)
    for _ in range(60):
        np.testing.assert_array_equal(obs[:, -1], states(pixels.unwrapped, CARTPOLE))
        action = rng.integers(2, size=1)
        _, _, dones, _ = pixels.step(action)
        stepped, _, same, _ = fast.step(action)
        obs = np.array(stepped)
        np.testing.assert_array_equal(dones, same)


def test_training_without_images_rewards_only_the_failure_of_cartpole() -> None:
    train = make_state_env(CARTPOLE, cap=30, sticky=0.25)
    train.reset()
    failures = lasted = 0
    rng = np.random.default_rng(0)
    for _ in range(200):
        _, reward, done, infos = train.step(rng.integers(2, size=1))
        lasted += 1
        failed = bool(done[0]) and not infos[0]["TimeLimit.truncated"]
        failures += failed
        assert reward[0] == (-1 if failed else 0)
        assert ("episode" in infos[0]) == done[0]
        if done[0]:
            assert infos[0]["episode"]["r"] == lasted  # returns count steps, as in evaluation
            lasted = 0
    assert failures


def test_training_without_images_starts_cartpole_in_a_larger_region() -> None:
    train = make_state_env(CARTPOLE, n_envs=200, frames=1)
    play = make_state_env(CARTPOLE, n_envs=200, frames=1, training=False)
    largest = np.abs(train.reset()).max((0, 1))
    assert (largest > [0.9, 0.18, 0.18, 0.18]).all() and (largest < [1.0, 0.2, 0.2, 0.2]).all()
    assert np.abs(play.reset()).max() < 0.05
    # The first step continues from the observed start.
    x, x_dot = np.array(train.reset())[:, 0, :2].T
    stepped = np.asarray(train.step(np.zeros(200, int))[0])[:, 0, 0]
    np.testing.assert_allclose(stepped, x + 0.02 * x_dot, atol=1e-6)


def test_observations_hold_the_chosen_columns_of_the_last_states() -> None:
    columns, actions = np.array([0, 2]), [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    whole = make_state_env(CARTPOLE, frames=1, training=False)
    chosen = make_state_env(CARTPOLE, frames=3, columns=columns, training=False)
    space = chosen.observation_space
    assert isinstance(space, spaces.Box)
    assert space.shape == (3, 2)
    assert space.dtype == np.float32
    episode = [np.array(whole.reset())[0, -1, columns]]
    first = np.array(chosen.reset())[0]
    np.testing.assert_array_equal(first, [[0, 0], [0, 0], episode[0]])
    for action in actions:
        single, _, dones, whole_infos = whole.step(np.array([action]))
        stack, _, _, infos = chosen.step(np.array([action]))
        if dones[0]:
            end = whole_infos[0]["terminal_observation"][-1, columns]
            np.testing.assert_array_equal(infos[0]["terminal_observation"], [*episode[-2:], end])
            start = np.array(single)[0, -1, columns]
            np.testing.assert_array_equal(np.array(stack)[0], [[0, 0], [0, 0], start])
            break
        episode.append(np.array(single)[0, -1, columns])
        expected = [np.zeros(2), np.zeros(2), *episode][-3:]
        np.testing.assert_array_equal(np.array(stack)[0], expected)
    else:
        raise AssertionError("a constant force ends the episode")


def test_a_family_tells_which_state_variables_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_FAMILIES, "hidden", None)
    numbers, asked = np.array([[0, 1, 2, 3], [0, 5, 4, 7]], np.float32), []

    def visible(envs: Any, states: Any) -> NDArray[np.bool_]:
        asked.append((envs, states))
        return np.array([True, False, True, True])

    known = family(CARTPOLE)
    register_env_family("hidden", ("H-v0",), known.make, state=known.state, visible=visible)
    monkeypatch.setitem(_FAMILIES, "hidden", _FAMILIES["hidden"])
    env = make_state_env(CARTPOLE, 2)
    columns = visible_columns("H-v0", env, numbers)
    np.testing.assert_array_equal(columns, [2, 3])  # number 0 does not vary
    ((envs, states),) = asked
    assert envs == [each.unwrapped for each in env.unwrapped.envs]  # type: ignore[attr-defined]
    assert states is numbers


def test_all_varying_columns_are_chosen_without_a_visibility_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(_FAMILIES, "shown", None)
    register_env_family("shown", ("S-v0",), family(CARTPOLE).make, state=family(CARTPOLE).state)
    env = make_state_env(CARTPOLE)
    numbers = np.array([[0, 1, 2, 3], [0, 1, 4, 3], [0, 5, 2, 3]], np.float32)
    np.testing.assert_array_equal(visible_columns("S-v0", env, numbers), [1, 2])
    with pytest.raises(ValueError, match="no visible state variable varies"):
        visible_columns("S-v0", env, numbers[:1])


def test_only_the_velocities_of_cartpole_depend_on_the_last_action() -> None:
    pixels, numbers = [], []
    for action in (0, 1):
        pair = make_env(CARTPOLE, seed=3), make_state_env(CARTPOLE, seed=3)
        for env in pair:
            env.reset()
            for each in (1, action):
                stepped = np.asarray(env.step(np.array([each]))[0])[0]
            (pixels if env is pair[0] else numbers).append(stepped[-1])
    np.testing.assert_array_equal(*pixels)
    hidden = numbers[0] != numbers[1]
    visited = np.stack([np.zeros(4, np.float32), *numbers])
    columns = visible_columns(CARTPOLE, make_state_env(CARTPOLE), visited)
    np.testing.assert_array_equal(columns, np.flatnonzero(~hidden))


@pytest.mark.parametrize("env_id", [PONG, CARTPOLE])
def test_a_taught_env_offers_the_observations_of_both_environments(env_id: str) -> None:
    options: dict[str, Any] = {"n_envs": 2, "seed": 5, "sticky": 0.25, "cap": 20}
    options["training"] = env_id == PONG  # CartPole starts differently when a teacher trains
    columns = np.array([0, 2, 3])
    taught = make_taught_env(env_id, columns, 4, **options)
    pixels = make_env(env_id, **options)
    state = make_state_env(env_id, columns=columns, frames=4, **options)
    assert isinstance(taught.action_space, spaces.Discrete)
    np.testing.assert_array_equal(taught.reset(), pixels.reset())
    np.testing.assert_array_equal(taught.states, state.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(45):
        actions = rng.integers(taught.action_space.n, size=2)
        obs, rewards, dones, _ = taught.step(actions)
        for expected, found in zip(pixels.step(actions)[:3], (obs, rewards, dones), strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(taught.states, state.step(actions)[0])
        ends += int(np.asarray(dones).sum())
    assert ends >= 3


def test_a_family_without_a_state_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_FAMILIES, "blind", None)  # restores the registry after the test
    register_env_family("blind", ("Blind-v0",), family(CARTPOLE).make)
    with pytest.raises(ValueError, match="env=Blind-v0 has no state"):
        make_state_env("Blind-v0")
    with pytest.raises(ValueError, match="env=Blind-v0 has no state"):
        make_taught_env("Blind-v0", np.arange(1), 4)


def test_an_environment_without_images_must_observe_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for env_id in (PONG, CARTPOLE):
        check_state(env_id)
    make, read = family(CARTPOLE).make, family(CARTPOLE).state
    assert read is not None
    for state in (lambda env: read(env)[::-1], lambda env: read(env).astype(np.float64)):
        monkeypatch.setitem(_FAMILIES, "mistaken", None)
        register_env_family(
            "mistaken", ("Mistaken-v0",), lambda _, o: make(CARTPOLE, o), state=state
        )
        with pytest.raises(ValueError, match="env=Mistaken-v0 without pixels must observe"):
            check_state("Mistaken-v0")
    always_pixels = lambda _, options: make(CARTPOLE, replace(options, pixels=True))  # noqa: E731
    register_env_family("mistaken", ("Mistaken-v0",), always_pixels, state=read)
    with pytest.raises(ValueError, match=r"got uint8 \(40, 120, 1\)"):
        check_state("Mistaken-v0")
