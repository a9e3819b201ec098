"""Vectorized environments that observe the emulator's state instead of its screen.

A privileged teacher learns from these environments. They run without image processing, and their
episodes, rewards, and random streams equal those of `make_env`.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from snn_rl.envs.families import EnvOptions, family
from snn_rl.envs.make import single_envs

Array = NDArray[Any]


def make_state_env(
    env_id: str,
    n_envs: int = 1,
    seed: int = 0,
    columns: Array | None = None,
    frames: int = 4,
    **options: Any,
) -> VecEnv:
    """Builds a vectorized environment with observations [frames, columns + 1] of states.

    The last number of a frame is the action taken before the state, and 0 at the start of an
    episode. Frames before the start of an episode are 0.

    Args:
        env_id: Id of an environment whose family has a state, see `EnvFamily`.
        n_envs: Number of environments; environment i has the seed `seed + i`.
        seed: Seed of the first environment.
        columns: Indices of the observed numbers of the state; None for all.
        frames: Number of states per observation.
        **options: Fields of `EnvOptions`, except `pixels`.

    Raises:
        ValueError: The family of the environment has no state.
    """
    if family(env_id).state is None:
        raise ValueError(f"env={env_id} has no state that a teacher could observe")
    venv = single_envs(env_id, n_envs, seed, EnvOptions(pixels=False, **options))
    return VecFrameStack(VecState(venv, columns), frames, channels_order="first")


class VecState(VecEnvWrapper):
    """Vectorized environments that observe numbers of the state and the last action, [1, n + 1].

    Args:
        venv: Environments that observe their state, [numbers].
        columns: Indices of the observed numbers; None for all.
    """

    def __init__(self, venv: VecEnv, columns: Array | None = None):
        box = venv.observation_space
        assert isinstance(box, spaces.Box) and len(box.shape) == 1
        assert isinstance(venv.action_space, spaces.Discrete)
        self._columns = np.arange(box.shape[0]) if columns is None else np.asarray(columns)
        low = np.append(box.low[self._columns], 0)[None].astype(box.dtype)
        high = np.append(box.high[self._columns], venv.action_space.n - 1)[None].astype(box.dtype)
        super().__init__(venv, spaces.Box(low, high, dtype=box.dtype))
        self._actions = np.zeros(venv.num_envs, np.int64)

    def reset(self) -> Array:
        """Resets all environments."""
        self._actions = np.zeros(self.num_envs, np.int64)
        return self._observed(np.asarray(self.venv.reset()), self._actions)

    def step_async(self, actions: Array) -> None:
        """Starts the step."""
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step; a terminal observation contains the last action of its episode."""
        states, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones):
            end = np.asarray(infos[i]["terminal_observation"])
            infos[i]["terminal_observation"] = self._observed(end, self._actions[i])
        actions = np.where(dones, 0, self._actions)
        return self._observed(np.asarray(states), actions), rewards, dones, infos

    def _observed(self, states: Array, actions: Array) -> Array:
        """Returns observations [..., 1, n + 1] for states [..., numbers] and actions [...]."""
        last = np.asarray(actions, states.dtype)[..., None]
        return np.concatenate([states[..., self._columns], last], axis=-1)[..., None, :]
