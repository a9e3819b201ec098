"""Memory of the Atari console, as a privileged teacher observes it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

BYTES = 128
_LOOK = 2  # emulator frames; many games draw an object in every other frame only
_PAST = 4  # emulator frames of an agent step
_WAIT = 0  # action NOOP


class Memory(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the memory after the last two emulator frames.

    Args:
        env: Environment with single emulator frames.
        observed: True to observe the memory instead of the screen.

    Attributes:
        memory: Bytes after the newest frame, then those after the frame before, [256], uint8.
    """

    def __init__(self, env: gym.Env[Any, Any], observed: bool):
        super().__init__(env)
        self._observed = observed
        if observed:
            self.observation_space = spaces.Box(0, 255, (2 * BYTES,), np.uint8)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the game."""
        obs, info = self.env.reset(**kwargs)
        self.memory = np.tile(_ram(self.unwrapped), 2)
        return self.memory if self._observed else obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.memory = np.concatenate([_ram(self.unwrapped), self.memory[:BYTES]])
        seen = self.memory if self._observed else obs
        return seen, reward, terminated, truncated, info


def visible(envs: Sequence[Any], states: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tells which numbers of `Memory.memory` can be seen in the pictures so far, [256].

    A byte can be seen if another value changes one of the next pictures. In many games, an action
    changes such a byte before the picture. Then only the value of the frame before can be seen.

    Args:
        envs: Unwrapped environments without sticky actions, in different states. Their states do
            not change.
        states: Visited states [N, 256], with the values that a byte can take.
    """
    shown, early = np.zeros((2, BYTES), np.bool_)
    values = [np.unique(states[:, byte]) for byte in range(BYTES)]
    for k, env in enumerate(envs):
        ram, waited = _ram(env), _play(env, [_WAIT] * _LOOK)
        if _play(env, [_WAIT] * _LOOK) != waited:
            continue  # not all games are restored completely
        early |= _early(env)
        for byte in np.flatnonzero(~shown):
            others = values[byte][values[byte] != ram[byte]]
            if others.size:
                other = others[k * len(others) // len(envs)]
                played = _play(env, [_WAIT] * _LOOK, (int(byte), int(other)))
                shown[byte] = played.pictures != waited.pictures
    return np.concatenate([shown & ~early, shown & early])


class _Played(NamedTuple):
    pictures: tuple[bytes, ...]
    ram: bytes


def _play(env: Any, actions: Sequence[int], change: tuple[int, int] | None = None) -> _Played:
    """Plays emulator frames from the current state, and restores it.

    Args:
        env: Unwrapped environment.
        actions: Action of each frame.
        change: Byte that takes another value before the first frame, and the value.
    """
    ale = env.ale
    start = ale.cloneState(include_rng=True)
    if change:
        ale.setRAM(*change)
    pictures = []
    for action in actions:
        ale.act(action)
        pictures.append(ale.getScreenGrayscale().tobytes())
    played = _Played(tuple(pictures), ale.getRAM().tobytes())
    ale.restoreState(start)
    return played


def _early(env: Any) -> NDArray[np.bool_]:
    """Tells which bytes one of the last actions can change while all pictures remain equal."""
    endings = defaultdict(set)
    for frame in range(_PAST):
        for action in env.ale.getMinimalActionSet():
            actions = [_WAIT] * _PAST
            actions[frame] = action
            played = _play(env, actions)
            endings[played.pictures].add(played.ram)
    early = np.zeros(BYTES, np.bool_)
    for rams in endings.values():
        values = np.stack([np.frombuffer(ram, np.uint8) for ram in rams])
        early |= (values != values[0]).any(0)
    return early


def _ram(env: Any) -> NDArray[np.uint8]:
    return np.array(env.ale.getRAM())
