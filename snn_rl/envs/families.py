"""Built-in and user-defined environment families."""

import difflib
import importlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray


class UnknownEnv(ValueError):
    """Error for an environment id of no family. The message suggests similar ids."""


@dataclass(frozen=True)
class EnvOptions:
    """Options of a single environment.

    Attributes:
        training: True for training episodes: Atari rewards are clipped to their sign, and an
            episode ends with each lost life. CartPole without pixels rewards a failure with -1 and
            everything else with 0, and starts episodes in a larger region.
        sticky: Probability that an action is replaced by the previous action, per emulator frame
            on Atari (ALE's repeat_action_probability) and per step elsewhere.
        steady: Share of the environments of a vectorized environment that have no sticky actions.
            Single environments ignore this option.
        cap: Number of agent steps after which an episode is truncated.
        full_action_space: True to use all 18 actions of the Atari console instead of those that
            the game uses. Other families ignore this option.
        pixels: False for environments that observe `EnvFamily.state` and draw no images. Families
            without a state ignore this option.
    """

    training: bool = True
    sticky: float = 0.0
    steady: float = 0.0
    cap: int = 27_000
    full_action_space: bool = False
    pixels: bool = True


@dataclass(frozen=True)
class EnvFamily:
    """Environments that are built the same way and share their presets.

    Attributes:
        name: Name of the family and of its preset file in configs/settings, if it has one.
        ids: Ids of its environments.
        make: Function that builds one environment from its id and options.
        picture: Function that returns the RGB picture [height, width, 3] of an unwrapped
            environment.
        action_names: Function that returns the names of an unwrapped environment's actions.
        state: Function that returns the state [numbers] of an environment with its wrappers, from
            which a privileged teacher learns; None if the family offers no state.
        visible: Function (unwrapped environments, visited states [N, numbers]) that returns a
            boolean mask [numbers] of the state variables that can be seen in the pictures; None if
            all of them can. The environments have no sticky actions and are in different states.
            The function must leave these states unchanged.
    """

    name: str
    ids: Collection[str]
    make: Callable[[str, EnvOptions], gym.Env[Any, Any]]
    picture: Callable[[Any], NDArray[np.uint8]]
    action_names: Callable[[Any], list[str]]
    state: Callable[[Any], NDArray[Any]] | None = None
    visible: Callable[[Sequence[Any], NDArray[Any]], NDArray[np.bool_]] | None = None


# Modules in this package that register a family when they are imported.
BUILT_IN = ("atari", "cartpole")
_FAMILIES: dict[str, EnvFamily] = {}


def _families() -> Collection[EnvFamily]:
    for name in BUILT_IN:
        importlib.import_module(f"snn_rl.envs.{name}")
    return _FAMILIES.values()


def _rendered(env: Any) -> NDArray[np.uint8]:
    return np.asarray(env.render(), np.uint8)


def _numbered(env: Any) -> list[str]:
    return [str(action) for action in range(env.action_space.n)]


def register_env_family(
    name: str,
    ids: Collection[str],
    make: Callable[[str, EnvOptions], gym.Env[Any, Any]],
    picture: Callable[[Any], NDArray[np.uint8]] = _rendered,
    action_names: Callable[[Any], list[str]] = _numbered,
    state: Callable[[Any], NDArray[Any]] | None = None,
    visible: Callable[[Sequence[Any], NDArray[Any]], NDArray[np.bool_]] | None = None,
) -> None:
    """Registers a family of environments for `make_env` and the `env` setting.

    Call this function in an importable module, for example `my_games`. Every command then takes
    `env=my_games:ID`.

    Args:
        name: Name of the family; an existing family of this name is replaced.
        ids: Ids of its environments.
        make: Function (id, `EnvOptions`) that builds one environment with observations
            [height, width, channels], uint8, and discrete actions. Sticky actions, the step cap
            and Stable-Baselines3's Monitor are added, unless the environment contains a Monitor.
        picture: See `EnvFamily`; by default the environment's `render()`.
        action_names: See `EnvFamily`; by default the numbers of the actions.
        state: See `EnvFamily`. A family with a state must support `EnvOptions.pixels`.
        visible: See `EnvFamily`.
    """
    _FAMILIES[name] = EnvFamily(name, ids, make, picture, action_names, state, visible)


def family(env_id: str) -> EnvFamily:
    """Returns the family of an environment.

    Args:
        env_id: Id of the environment. In `module:id` the module is imported first.

    Raises:
        UnknownEnv: The module does not exist, or no family has this id.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ModuleNotFoundError(name=module)
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
            raise UnknownEnv(f"env={env_id}: there is no module {module} to import") from None
    for each in _families():
        if name in each.ids:
            return each
    raise UnknownEnv(_advice(env_id))


def _advice(env_id: str) -> str:
    """Returns the error message for an unknown id."""
    ids = [each for known in _families() for each in known.ids]
    # Titles are compared: the long common ending of Atari ids would make all of them similar.
    titles = {_title(each): each for each in ids}
    atari = titles.get(_title(env_id), "")
    if re.search(r"-v\d+$", env_id) and atari.endswith("NoFrameskip-v4"):
        return (
            f"env={env_id} skips frames itself or is an old version, but the wrappers already "
            f"skip frames: use env={atari}"
        )
    near = [titles[each] for each in difflib.get_close_matches(_title(env_id), titles)]
    near = near or difflib.get_close_matches(env_id, ids, cutoff=0.8)
    if near:
        return f"unknown env={env_id}: did you mean {' or '.join(near)}?"
    return (
        f"unknown env={env_id}: use CartPole-v1, <Game>NoFrameskip-v4, or module:id with a module "
        "that calls snn_rl.register_env_family"
    )


def _title(env_id: str) -> str:
    name = env_id.rpartition(":")[2].lower()
    return re.sub(r"^ale/|(noframeskip|deterministic)?-?v?\d*$", "", name)
