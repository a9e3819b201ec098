"""Vectorized environments for training and evaluation."""

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import StickyAction, TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecTransposeImage,
)

from snn_rl.envs.families import EnvFamily, EnvOptions, family

STACK, DIFFERENCE = "stack", "difference"
FRAMES = (STACK, DIFFERENCE)


def make_env(
    env_id: str,
    n_envs: int = 1,
    seed: int = 0,
    frame_stack: int = 4,
    frames: str = STACK,
    **options: Any,
) -> VecEnv:
    """Builds a vectorized environment with observations [channels, height, width], uint8.

    Atari games use Stable-Baselines3's AtariWrapper (no-op starts, frame skip 4, 84x84 grayscale).
    `info["episode"]` holds the unclipped return of a full game, also in training.

    Args:
        env_id: CartPole-v0 or CartPole-v1 (as images), <Game>NoFrameskip-v4, or `module:id` of a
            family that the module registers, see `register_env_family`.
        n_envs: Number of environments; environment i has the seed `seed + i`.
        seed: Seed of the first environment.
        frame_stack: Number of frames per observation.
        frames: "stack", or "difference" for two channels: the newest frame and its change.
        **options: Fields of `EnvOptions`: training=True, sticky=0.0, steady=0.0,
            cap=27_000, full_action_space=False.

    Raises:
        UnknownEnv: No family has this id.
        ValueError: The family's observations are not images.
    """
    venv = single_envs(env_id, n_envs, seed, EnvOptions(**options))
    space = venv.observation_space
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        raise ValueError(
            f"env={env_id}: observations must be images [height, width, channels], uint8, "
            f"not {space}"
        )
    if frames == DIFFERENCE:
        venv = VecFrameDifference(venv)
    elif frame_stack > 1:
        venv = VecFrameStack(venv, frame_stack)
    return VecTransposeImage(venv)


def single_envs(env_id: str, n_envs: int, seed: int, options: EnvOptions) -> VecEnv:
    """Builds seeded environments without frame stacks; environment i has the seed `seed + i`.

    Raises:
        UnknownEnv: No family has this id.
    """
    known, name = family(env_id), env_id.rpartition(":")[2]
    each = [options] * n_envs
    for i in range(n_envs):
        # spread evenly, so that environment i does not depend on their number
        if int((i + 1) * options.steady) > int(i * options.steady):
            each[i] = replace(options, sticky=0.0)
    venv = DummyVecEnv(
        [partial(_make_single, known, name, own, seed + i) for i, own in enumerate(each)]
    )
    venv.seed(seed)
    return venv


def _make_single(known: EnvFamily, name: str, options: EnvOptions, seed: int) -> gym.Env[Any, Any]:
    with warnings.catch_warnings():
        # Gymnasium recommends ALE/*-v5, which skips frames itself, and CartPole-v1.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        env = known.make(name, options)
    if not is_wrapped(env, Monitor):
        env = monitored(env, options)
    env.action_space.seed(seed)
    return env


def monitored(env: gym.Env[Any, Any], options: EnvOptions) -> gym.Env[Any, Any]:
    """Adds sticky actions, the step cap, and Stable-Baselines3's Monitor."""
    if options.sticky > 0:
        env = StickyAction(env, options.sticky)
    return Monitor(TimeLimit(env, options.cap))


class VecFrameDifference(VecEnvWrapper):
    """Vectorized environments that observe the newest frame and its change.

    Observations are [height, width, 2]: the frame, and 128 + (frame - previous frame) / 2, which is
    mid-gray where nothing changes. The first frame of an episode has no change.

    Args:
        venv: Environments with single grayscale frames [height, width, 1].
    """

    def __init__(self, venv: VecEnv):
        box = venv.observation_space
        assert isinstance(box, spaces.Box) and box.shape[-1] == 1, "frames must be grayscale"
        super().__init__(venv, spaces.Box(0, 255, (*box.shape[:-1], 2), np.uint8))
        self._previous = np.zeros((venv.num_envs, *box.shape), np.uint8)

    def reset(self) -> NDArray[np.uint8]:
        """Resets all environments."""
        frame = np.asarray(self.venv.reset())
        self._previous = frame
        return self._pair(frame, frame)

    def step_wait(self) -> tuple[NDArray[np.uint8], Any, Any, Any]:
        """Waits for the step; a terminal observation is paired with the frame before it."""
        stepped, rewards, dones, infos = self.venv.step_wait()
        frame = np.asarray(stepped)
        previous = self._previous.copy()
        for i, done in enumerate(dones):
            if done:
                end = infos[i]["terminal_observation"]
                infos[i]["terminal_observation"] = self._pair(end, previous[i])
                previous[i] = frame[i]
        self._previous = frame
        return self._pair(frame, previous), rewards, dones, infos

    @staticmethod
    def _pair(frame: NDArray[np.uint8], previous: NDArray[np.uint8]) -> NDArray[np.uint8]:
        change = (frame.astype(np.int16) - previous.astype(np.int16)) // 2 + 128
        return np.concatenate([frame, change.astype(np.uint8)], axis=-1)
