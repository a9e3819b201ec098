"""Atari games through Stable-Baselines3's wrappers."""

import re
from typing import Any

import ale_py
import gymnasium as gym
from stable_baselines3.common.atari_wrappers import (
    AtariWrapper,
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    NoopResetEnv,
)
from stable_baselines3.common.monitor import Monitor

from snn_rl.envs.families import EnvOptions, register_env_family
from snn_rl.envs.ram import FRAME_SKIP, RecentRAM, visible

gym.register_envs(ale_py)

ATARI = "atari"
ATARI_IDS = tuple(sorted(each for each in gym.registry if each.endswith("NoFrameskip-v4")))


class FireOnLifeLoss(gym.Wrapper[Any, Any, Any, Any]):
    """Starts every life of a full game in the same way as training does.

    In training, Stable-Baselines3's wrappers end an episode with each life, skip one decision and
    press FIRE during the next. (They also take a third action, which is left to the agent here.)
    An agent trained in this way never presses FIRE itself and would wait forever in games that
    start a life with FIRE.

    Args:
        env: Environment with single emulator frames.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        fire = env.unwrapped.get_action_meanings().index("FIRE")  # type: ignore[attr-defined]
        self._opening = [0] * FRAME_SKIP + [fire] * FRAME_SKIP
        self._pending: list[int] = []
        self._lives = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the game."""
        obs, info = self.env.reset(**kwargs)
        self._pending, self._lives = [], info["lives"]
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action, or the next action of a life's start."""
        if self._pending:
            action = self._pending.pop(0)
        obs, reward, terminated, truncated, info = self.env.step(action)
        if info["lives"] < self._lives:
            self._pending = list(self._opening)
        self._lives = info["lives"]
        return obs, reward, terminated, truncated, info


class FrameSkip(gym.Wrapper[Any, Any, Any, Any]):
    """Repeats every action, like Stable-Baselines3's MaxAndSkipEnv without its maximum of frames.

    Args:
        env: Environment with single emulator frames.
        skip: Number of emulator frames per action.
    """

    def __init__(self, env: gym.Env[Any, Any], skip: int = FRAME_SKIP):
        super().__init__(env)
        self._skip = skip

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Repeats the action until the episode ends; returns the sum of the rewards."""
        total = 0.0
        for _ in range(self._skip):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


def _make(env_id: str, options: EnvOptions) -> gym.Env[Any, Any]:
    env: gym.Env[Any, Any] = gym.make(
        env_id,
        obs_type="rgb" if options.pixels else "ram",
        render_mode="rgb_array",
        disable_env_checker=True,
        repeat_action_probability=options.sticky,
        max_num_frames_per_episode=options.cap * FRAME_SKIP,
        full_action_space=options.full_action_space,
    )
    env = RecentRAM(env, observed=not options.pixels)
    env = Monitor(env)  # inside the wrappers, so that it records unclipped returns of full games
    if not options.training and "FIRE" in env.unwrapped.get_action_meanings():  # type: ignore[attr-defined]
        env = FireOnLifeLoss(env)
    if options.pixels:
        return AtariWrapper(
            env, terminal_on_life_loss=options.training, clip_reward=options.training
        )
    return _without_images(env, options.training)


def _without_images(env: gym.Env[Any, Any], training: bool) -> gym.Env[Any, Any]:
    """Applies the wrappers of AtariWrapper in the same order, except those that process images."""
    fires = "FIRE" in env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    env = FrameSkip(NoopResetEnv(env))
    if training:
        env = EpisodicLifeEnv(env)
    if fires:
        env = FireResetEnv(env)
    return ClipRewardEnv(env) if training else env


def _action_names(env: Any) -> list[str]:
    names = env.get_action_meanings()
    return [" ".join(re.findall("UP|DOWN|LEFT|RIGHT|FIRE|NOOP", name)).lower() for name in names]


register_env_family(
    ATARI,
    ATARI_IDS,
    _make,
    action_names=_action_names,
    state=lambda env: env.get_wrapper_attr("recent"),
    visible=visible,
)
