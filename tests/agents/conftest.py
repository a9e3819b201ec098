"""Catch, an environment that agents learn in seconds, and environments that end the process."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from snn_rl.agents.state_policy import StateQNetwork, StateScale
from snn_rl.envs.state import make_state_env

ROWS, COLUMNS, CELL = 7, 5, 6


class Catch(gym.Env[NDArray[np.uint8], int]):
    """A ball falls from a random column; the paddle below moves left, stays or moves right.

    Only the last of 6 steps is rewarded: 1 for a catch, -1 for a miss. Random actions catch about
    one ball in four. Observations are [2, 42, 30], with cells of 6x6 pixels. The two channels are
    the current and the previous frame, as in a frame stack.
    """

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (2, ROWS * CELL, COLUMNS * CELL), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(COLUMNS)), COLUMNS // 2
        self.frame = self._draw()
        return np.stack([self.frame, self.frame]), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.paddle = int(np.clip(self.paddle + action - 1, 0, COLUMNS - 1))
        self.row += 1
        end = self.row == ROWS - 1
        reward = (1.0 if self.ball == self.paddle else -1.0) if end else 0.0
        before, self.frame = self.frame, self._draw()
        return np.stack([before, self.frame]), reward, end, False, {}

    def _draw(self) -> NDArray[np.uint8]:
        cells = np.zeros((ROWS, COLUMNS), np.uint8)
        cells[self.row, self.ball] = 255
        cells[-1, self.paddle] = 255
        return cells.repeat(CELL, 0).repeat(CELL, 1)


@pytest.fixture(scope="session")
def pole_scale() -> StateScale:
    """Standardization of CartPole's four numbers for a teacher that observes all of them."""
    std = np.array([0.15, 0.6, 0.1, 0.8], np.float32)
    return StateScale(np.arange(4), np.zeros(4, np.float32), std, std, np.arange(0))


@pytest.fixture(scope="session")
def count_falls() -> Callable[[StateQNetwork], int]:
    """Function that counts the ends of 8 CartPole episodes and their successors in 100 steps.

    30 to 40 episodes end with random actions.
    """

    def count(q_net: StateQNetwork) -> int:
        env = make_state_env("CartPole-v1", 8, 100, training=False)
        obs, ended = np.asarray(env.reset()), 0
        for _ in range(100):
            stepped, _, dones, _ = env.step(q_net.decide(obs).actions)
            obs = np.asarray(stepped)
            ended += int(dones.sum())
        return ended

    return count


@pytest.fixture(scope="session")
def make_catch() -> Callable[..., VecEnv]:
    """Function (n_envs, seed) that builds vectorized Catch environments with Monitors."""

    def make(n_envs: int = 2, seed: int = 0) -> VecEnv:
        return make_vec_env(Catch, n_envs=n_envs, seed=seed)

    return make


class Killed(BaseException):
    """The end of a process; only the test catches it."""


class Fragile(VecEnvWrapper):
    """Vectorized environment that ends the process after some steps."""

    def __init__(self, venv: VecEnv, lifetime: int):
        super().__init__(venv)
        self.lifetime = lifetime

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        self.lifetime -= 1
        if self.lifetime < 0:
            raise Killed
        return self.venv.step_wait()


@pytest.fixture(scope="session")
def kill() -> type[BaseException]:
    """Exception that stands for the end of a process."""
    return Killed


@pytest.fixture(scope="session")
def make_fragile() -> Callable[[VecEnv, int], VecEnv]:
    """Function (venv, lifetime) that returns environments that raise `kill` after some steps."""
    return Fragile
