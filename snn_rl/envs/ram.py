"""RAM of the Atari console, as a privileged teacher observes it."""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

BYTES = 128
FRAME_SKIP = 4  # emulator frames per agent step
_LOOKAHEAD = 2  # emulator frames; many games draw an object in every other frame only
_NOOP = 0


class RecentRAM(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that keeps the console's RAM after each of the last `FRAME_SKIP` emulator frames.

    Args:
        env: Environment with single emulator frames.
        observed: True to observe the RAM instead of the screen.

    """

    def __init__(self, env: gym.Env[Any, Any], observed: bool):
        super().__init__(env)
        self._observed = observed
        if observed:
            self.observation_space = spaces.Box(0, 255, (FRAME_SKIP * BYTES,), np.uint8)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the game."""
        obs, info = self.env.reset(**kwargs)
        self._rams = deque([_ram(self.unwrapped)] * FRAME_SKIP, maxlen=FRAME_SKIP)
        return self.recent if self._observed else obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._rams.appendleft(_ram(self.unwrapped))
        return self.recent if self._observed else obs, reward, terminated, truncated, info

    @property
    def recent(self) -> NDArray[np.uint8]:
        """RAM after the newest frame, after the frame before, and so on, [512].

        After a reset, all of them are equal.
        """
        return np.concatenate(self._rams)


def visible(envs: Sequence[Any], states: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns a mask of the numbers in `RecentRAM.recent` that the pictures reveal, [512].

    A byte belongs to the mask if another value changes one of the next pictures. In many games, an
    action changes such a byte before it changes the picture. The mask then contains the value of
    the byte after the newest frame for which this is not the case.

    Args:
        envs: Unwrapped environments without sticky actions, in different states. Their states do
            not change.
        states: Visited states [N, 512], with the values that a byte can take.
    """
    shown = np.zeros(BYTES, np.bool_)
    early = np.zeros((FRAME_SKIP, BYTES), np.bool_)
    values = [np.unique(states[:, byte]) for byte in range(BYTES)]
    wait = [_NOOP] * _LOOKAHEAD
    for k, env in enumerate(envs):
        # ALE does not restore the action that a sticky action repeats.
        assert env.ale.getFloat("repeat_action_probability") == 0
        _replay(env, wait)  # the first restore can change the next pictures
        expected = _replay(env, wait)
        if _replay(env, wait) != expected:
            continue  # ALE does not restore every game completely
        early |= _early(env)
        ram = _ram(env)
        for byte in np.flatnonzero(~shown):
            others = values[byte][values[byte] != ram[byte]]
            if others.size:
                other = others[k * len(others) // len(envs)]
                replay = _replay(env, wait, (int(byte), int(other)))
                shown[byte] = replay.pictures != expected.pictures
    newest = ~early & (np.cumsum(~early, axis=0) == 1)
    mask: NDArray[np.bool_] = (newest & shown).ravel()
    return mask


class _Replay(NamedTuple):
    """Picture and RAM after each of the played frames."""

    pictures: tuple[bytes, ...]
    rams: tuple[bytes, ...]


def _replay(env: Any, actions: Sequence[int], change: tuple[int, int] | None = None) -> _Replay:
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
    pictures, rams = [], []
    for action in actions:
        ale.act(action)
        pictures.append(ale.getScreenGrayscale().tobytes())
        rams.append(ale.getRAM().tobytes())
    ale.restoreState(start)
    return _Replay(tuple(pictures), tuple(rams))


def _early(env: Any) -> NDArray[np.bool_]:
    """Returns a mask of the bytes that can differ although all pictures are equal.

    Plays an agent step with each action in one of its frames, and NOOP in the others.

    Returns:
        Mask after each frame of the agent step, newest first, [4, 128].
    """
    replays = defaultdict(set)
    for frame in range(FRAME_SKIP):
        for action in env.ale.getLegalActionSet():
            actions = [_NOOP] * FRAME_SKIP
            actions[frame] = action
            replay = _replay(env, actions)
            replays[replay.pictures].add(b"".join(reversed(replay.rams)))
    early = np.zeros(FRAME_SKIP * BYTES, np.bool_)
    for found in replays.values():
        rams = np.stack([np.frombuffer(each, np.uint8) for each in found])
        early |= (rams != rams[0]).any(0)
    return early.reshape(FRAME_SKIP, BYTES)


def _ram(env: Any) -> NDArray[np.uint8]:
    return np.asarray(env.ale.getRAM())  # a copy
