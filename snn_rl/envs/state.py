"""Vectorized environments that observe the emulator's state instead of its screen, or beside it.

A privileged teacher learns from the environments of `make_state_env`. They run without image
processing. Except in training on CartPole, their episodes, random streams, and rewards equal those
of `make_env`. The environments of `make_taught_env` add the teacher's observations to those
of `make_env`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecFrameStack
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from snn_rl.envs.families import EnvOptions, family
from snn_rl.envs.make import make_env, single_envs

Array = NDArray[Any]


def make_state_env(
    env_id: str,
    n_envs: int = 1,
    seed: int = 0,
    columns: Array | None = None,
    frames: int = 4,
    **options: Any,
) -> VecEnv:
    """Builds a vectorized environment with observations [frames, columns] of states.

    Frames before the start of an episode are 0.

    Args:
        env_id: Id of an environment whose family has a state, see `EnvFamily`.
        n_envs: Number of environments; environment i has the seed `seed + i`.
        seed: Seed of the first environment.
        columns: Indices of the observed state variables; None for all.
        frames: Number of states per observation.
        **options: Fields of `EnvOptions`, except `pixels`.

    Raises:
        ValueError: The family of the environment has no state.
    """
    _reader(env_id)
    venv = single_envs(env_id, n_envs, seed, EnvOptions(pixels=False, **options))
    return VecFrameStack(VecState(venv, columns), frames, channels_order="first")


def make_taught_env(env_id: str, columns: Array, states: int, **options: Any) -> "VecTaught":
    """Builds an environment of `make_env` that also offers the observations of a teacher.

    Args:
        env_id: Id of an environment whose family has a state, see `EnvFamily`.
        columns: Indices of the state variables that the teacher observes.
        states: Number of states per observation of the teacher.
        **options: Other arguments of `make_env`.

    Raises:
        ValueError: The family of the environment has no state.
    """
    read = _reader(env_id)
    return VecTaught(make_env(env_id, **options), read, columns, states)


def visible_columns(env_id: str, env: VecEnv, states: Array) -> Array:
    """Returns the indices of the state variables that vary and can be seen.

    A teacher that observes anything else would prefer actions for reasons that its student, which
    observes images, cannot know.

    Args:
        env_id: Id of the environments.
        env: Environments of `make_state_env` without sticky actions, in different states.
        states: Visited states [N, numbers], with the values that a variable can take.

    Raises:
        ValueError: No state variable varies and can be seen.
    """
    chosen = (states != states[0]).any(0)
    visible = family(env_id).visible
    if visible is not None:
        assert isinstance(env.unwrapped, DummyVecEnv)
        chosen &= visible([each.unwrapped for each in env.unwrapped.envs], states)
    if not chosen.any():
        raise ValueError("no visible state variable varies in random play")
    return np.flatnonzero(chosen)


def check_state(env_id: str) -> None:
    """Checks that an environment without images observes the state of its family.

    Raises:
        ValueError: The family has no state, or the observations of its environments differ from it.
    """
    read = _reader(env_id)
    env = single_envs(env_id, 1, 0, EnvOptions(pixels=False))
    observed = np.asarray(env.reset())[0]
    assert isinstance(env.unwrapped, DummyVecEnv)
    state = np.asarray(read(env.unwrapped.envs[0]))
    env.close()
    if observed.ndim != 1 or observed.dtype != state.dtype or not np.array_equal(observed, state):
        raise ValueError(
            f"env={env_id} without pixels must observe what its state function returns "
            f"({state.dtype} {state.shape}), got {observed.dtype} {observed.shape}"
        )


def _reader(env_id: str) -> Callable[[Any], Array]:
    """Returns the function that reads the state of an environment with its wrappers."""
    read = family(env_id).state
    if read is None:
        raise ValueError(f"env={env_id} has no state that a teacher could observe")
    return read


class VecState(VecEnvWrapper):
    """Vectorized environments that observe state variables, [1, n].

    Args:
        venv: Environments that observe their state, [numbers].
        columns: Indices of the observed numbers; None for all.
    """

    def __init__(self, venv: VecEnv, columns: Array | None = None):
        box = venv.observation_space
        assert isinstance(box, spaces.Box) and len(box.shape) == 1
        self._columns = np.arange(box.shape[0]) if columns is None else np.asarray(columns)
        low, high = (each[None, self._columns] for each in (box.low, box.high))
        super().__init__(venv, spaces.Box(low, high, dtype=box.dtype))

    def reset(self) -> Array:
        """Resets all environments."""
        return self._observed(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step."""
        states, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones):
            infos[i]["terminal_observation"] = self._observed(infos[i]["terminal_observation"])
        return self._observed(states), rewards, dones, infos

    def _observed(self, states: Any) -> Array:
        return np.asarray(states)[..., None, self._columns]


class VecTaught(VecEnvWrapper):
    """Environments of `make_env` that also offer the observations of `make_state_env`.

    Args:
        venv: Environments of `make_env`.
        read: Function that returns the state of an environment with its wrappers.
        columns: Indices of the state variables that the teacher observes.
        frames: Number of states per observation of the teacher.

    Attributes:
        states: Current observations of the teacher, [n_envs, frames, columns].
    """

    def __init__(self, venv: VecEnv, read: Callable[[Any], Array], columns: Array, frames: int):
        super().__init__(venv)
        assert isinstance(venv.unwrapped, DummyVecEnv)
        self._envs = venv.unwrapped.envs
        self._read = read
        self._columns = columns
        self._frames = frames

    def reset(self) -> Any:
        """Resets all environments."""
        obs = self.venv.reset()
        newest = self._newest()
        self.states = np.zeros((len(newest), self._frames, newest.shape[1]), newest.dtype)
        self.states[:, -1] = newest
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step; the states of ended episodes are those of the next episode."""
        stepped = self.venv.step_wait()
        dones = stepped[2]
        self.states = np.roll(self.states, -1, axis=1)
        self.states[dones] = 0
        self.states[:, -1] = self._newest()
        return stepped

    def _newest(self) -> Array:
        return np.stack([self._read(env)[self._columns] for env in self._envs])
