"""Registration of environment families, and the errors for unknown ids."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from snn_rl.envs import ATARI, ATARI_IDS, CARTPOLE, UnknownEnv, families, family, make_env
from snn_rl.envs.families import EnvOptions, register_env_family

PONG, INVADERS, CARTPOLE_ID = (
    "PongNoFrameskip-v4",
    "SpaceInvadersNoFrameskip-v4",
    "CartPole-v1",
)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("PongNoFrameskp-v4", PONG),
        ("pong", PONG),
        ("Pomg-v4", PONG),
        ("spaceinvader", INVADERS),
        ("CartPol-v1", CARTPOLE_ID),
        ("CartPole-v2", CARTPOLE_ID),
    ],
)
def test_unknown_id_suggests_a_similar_one(wrong: str, meant: str) -> None:
    with pytest.raises(UnknownEnv, match="did you mean") as caught:
        make_env(wrong)
    assert wrong in str(caught.value)
    assert meant in str(caught.value)


def test_unknown_id_without_a_similar_one_lists_the_forms_of_ids() -> None:
    with pytest.raises(UnknownEnv, match="use CartPole-v1, <Game>NoFrameskip-v4, or module:id"):
        family("qqqqqqqq")


@pytest.mark.parametrize("form", ["ALE/{}-v5", "{}-v4", "{}-v0", "{}Deterministic-v4"])
@pytest.mark.parametrize("game", ["Pong", "SpaceInvaders"])
def test_id_with_its_own_frame_skip_is_rejected(form: str, game: str) -> None:
    with pytest.raises(UnknownEnv, match=f"use env={game}NoFrameskip-v4$"):
        make_env(form.format(game))


def test_families_of_the_package() -> None:
    assert family(CARTPOLE_ID).name == family("CartPole-v0").name == CARTPOLE
    assert {family(env_id).name for env_id in ATARI_IDS} == {ATARI}
    assert {PONG, INVADERS} <= set(ATARI_IDS)


class Counter(gym.Env[Any, int]):
    """A picture that shows the last action, in episodes without an end."""

    action_space = spaces.Discrete(3)

    def __init__(self, channels: int = 1, dtype: Any = np.uint8):
        self.observation_space = spaces.Box(0, 255, (8, 8, channels), dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros((8, 8, 1), np.uint8), {}

    def step(self, action: int) -> Any:
        return np.full((8, 8, 1), action, np.uint8), 1.0, False, False, {}

    def render(self) -> Any:
        return np.zeros((4, 4, 3), np.uint8)


@pytest.fixture(autouse=True)
def _own_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


def test_registered_family_gets_monitor_cap_and_sticky_actions() -> None:
    seen: list[tuple[str, EnvOptions]] = []

    def make(env_id: str, options: EnvOptions) -> Counter:
        seen.append((env_id, options))
        return Counter()

    register_env_family("counters", ["Counter-v0"], make)
    env = make_env("Counter-v0", n_envs=2, frame_stack=2, cap=5, sticky=0.5, training=False)
    assert seen == [("Counter-v0", EnvOptions(training=False, sticky=0.5, cap=5))] * 2
    assert env.observation_space.shape == (2, 8, 8)
    env.reset()
    infos, shown = [], []
    for step in range(40):
        obs, _, dones, info = env.step(np.full(2, 1 + step % 2))
        infos.append((dones[0], info[0].get("episode"), info[0]["TimeLimit.truncated"]))
        shown.append(int(np.asarray(obs)[0, -1, 0, 0]))
    ends = [info for info in infos if info[0]]
    assert len(ends) == 8 and all(truncated for _, _, truncated in ends)
    assert all(episode["r"] == episode["l"] == 5 for _, episode, _ in ends)
    repeated = [a for step, a in enumerate(shown) if a not in (0, 1 + step % 2)]
    assert repeated, "sticky actions repeat the previous action"
    known, unwrapped = family("Counter-v0"), env.get_attr("unwrapped")[0]
    assert known.action_names(unwrapped) == ["0", "1", "2"]
    assert known.picture(unwrapped).shape == (4, 4, 3)


@pytest.mark.parametrize("options", [{"dtype": np.float32}, {"channels": 1}])
def test_observations_other_than_images_are_rejected(options: dict[str, Any]) -> None:
    env = Counter(**options)
    if env.observation_space.dtype == np.uint8:
        env.observation_space = spaces.Box(0, 255, (8, 8), np.uint8)
    register_env_family("counters", ["Counter-v0"], lambda env_id, options: env)
    with pytest.raises(ValueError, match="env=Counter-v0: observations must be images"):
        make_env("Counter-v0")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module outside the package that registers Counter-v0 when it is imported."""
    name = "some_games_of_a_test"
    (tmp_path / f"{name}.py").write_text(
        "import gymnasium as gym, numpy as np, snn_rl.envs as envs\n"
        "class Black(gym.Env):\n"
        "    observation_space = gym.spaces.Box(0, 255, (8, 8, 1), np.uint8)\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "envs.register_env_family('black', ['Black-v0'], lambda env_id, options: Black())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_module_of_an_id_is_imported(module: str) -> None:
    with pytest.raises(UnknownEnv, match="unknown env=Black-v0"):
        family("Black-v0")
    assert family(f"{module}:Black-v0").name == "black"
    assert make_env(f"{module}:Black-v0", frame_stack=1).observation_space.shape == (1, 8, 8)
    with pytest.raises(UnknownEnv, match="did you mean Black-v0"):
        family(f"{module}:Blak-v0")


def test_missing_module_of_an_id_is_named() -> None:
    with pytest.raises(UnknownEnv, match="there is no module no_such_games to import"):
        family("no_such_games:Black-v0")
