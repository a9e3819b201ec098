"""`make_env`: the vectorized pixel environments that agents train and are evaluated in."""

import difflib
import re
import warnings
from collections.abc import Callable
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import StickyAction
from numpy.typing import NDArray
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecTransposeImage,
)

from snn_rl.envs.cartpole import CartPolePixels

gym.register_envs(ale_py)

ATARI, CARTPOLE = "atari", "cartpole"
STACK, DIFFERENCE = "stack", "difference"
FRAMES = (STACK, DIFFERENCE)
FRAME_SKIP = 4


class UnknownEnv(ValueError):
    """An environment id that cannot be made; the message says which can."""


def atari_ids() -> list[str]:
    """Every Atari id that can be trained on."""
    return sorted(i for i in gym.registry if i.endswith("NoFrameskip-v4"))


def family(env_id: str) -> str:
    """The family of an environment id: "atari" or "cartpole".

    Raises:
        UnknownEnv: No such environment; the message names the nearest ids.
    """
    if env_id in ("CartPole-v0", "CartPole-v1"):
        return CARTPOLE
    known = atari_ids()
    if env_id in known:
        return ATARI
    game = re.fullmatch(r"(?:ALE/)?(\w+?)(?:NoFrameskip|Deterministic)?-v\d+", env_id)
    if game and f"{game[1]}NoFrameskip-v4" in known:
        raise UnknownEnv(
            f"env={env_id} skips frames by itself or is an old version, and the wrappers skip them "
            f"again: use env={game[1]}NoFrameskip-v4"
        )
    # by the game's name alone: every id shares the long ending, which would make all look alike
    names = {i.removesuffix("NoFrameskip-v4").lower(): i for i in known} | {
        "cartpole": "CartPole-v1"
    }
    name = re.sub(r"^ale/|(noframeskip|deterministic)?-?v?\d*$", "", env_id.lower())
    near = [names[n] for n in difflib.get_close_matches(name, names, n=3, cutoff=0.6)]
    near = near or difflib.get_close_matches(env_id, known, n=3, cutoff=0.8)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else "use CartPole-v1 or <Game>NoFrameskip-v4"
    )
    raise UnknownEnv(f"unknown env={env_id}: {hint}")


def make_env(
    env_id: str,
    n_envs: int = 1,
    seed: int = 0,
    training: bool = True,
    frame_stack: int = 4,
    frames: str = STACK,
    sticky: float = 0.0,
    cap: int = 27_000,
    render: bool = False,
) -> VecEnv:
    """Makes a vectorized environment with images [channels, height, width], uint8.

    Atari goes through Stable-Baselines3's AtariWrapper (no-op starts, skip 4, 84x84 grey). A
    Monitor sits inside it, so the returns in `info["episode"]` are unclipped whole games. Lives
    begin as in training, see `FireOnLifeLoss`.

    Args:
        env_id: CartPole-v0/v1 (seen as pixels) or <Game>NoFrameskip-v4.
        n_envs: Environments side by side; the i-th is seeded with seed + i.
        seed: Of the environments.
        training: Atari only: clip rewards to their sign and end an episode at each life lost.
        frame_stack: Frames per observation.
        frames: "stack", or "difference": the newest frame and its change (2 channels).
        sticky: Probability that an action is replaced by the one before: ALE's
            repeat_action_probability, per emulator frame, on Atari; per step on CartPole.
        cap: An episode is truncated after this many agent steps.
        render: Make `render()` return RGB pictures.

    Raises:
        UnknownEnv: No such environment.
    """
    kind = family(env_id)
    kwargs: dict[str, Any] = {"disable_env_checker": True}
    if render:
        kwargs["render_mode"] = "rgb_array"
    wrapper: Callable[..., gym.Env[Any, Any]]
    if kind == ATARI:
        kwargs |= {
            "repeat_action_probability": sticky,
            "max_num_frames_per_episode": cap * FRAME_SKIP,
        }

        def wrapper(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
            if not training and "FIRE" in env.unwrapped.get_action_meanings():  # type: ignore[attr-defined]
                env = FireOnLifeLoss(env)
            return AtariWrapper(env, terminal_on_life_loss=training, clip_reward=training)

    else:
        limit = gym.spec(env_id).max_episode_steps or cap
        kwargs["max_episode_steps"] = min(limit, cap)

        def wrapper(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
            return CartPolePixels(StickyAction(env, sticky) if sticky > 0 else env)

    with warnings.catch_warnings():
        # gymnasium advises ALE/*-v5, which skips frames by itself
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        venv = make_vec_env(
            env_id, n_envs=n_envs, seed=seed, env_kwargs=kwargs, wrapper_class=wrapper
        )
    if frames == DIFFERENCE:
        venv = VecFrameDifference(venv)
    elif frame_stack > 1:
        venv = VecFrameStack(venv, frame_stack)
    return VecTransposeImage(venv)


class FireOnLifeLoss(gym.Wrapper[Any, Any, Any, Any]):
    """Begins every life of a whole game as Stable-Baselines3's wrappers begin one in training.

    They end an episode with each life, let a decision pass and press FIRE for another (and take a
    third action, which is left to the agent here). An agent
    trained so never had to press it, and in games that wait for FIRE would wait for ever.

    Args:
        env: Single emulator frames.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        fire = env.unwrapped.get_action_meanings().index("FIRE")  # type: ignore[attr-defined]
        self._opening = [0] * FRAME_SKIP + [fire] * FRAME_SKIP
        self._waiting: list[int] = []
        self._lives = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Starts a game."""
        obs, info = self.env.reset(**kwargs)
        self._waiting, self._lives = [], info["lives"]
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action, or what opens a life."""
        if self._waiting:
            action = self._waiting.pop(0)
        obs, reward, terminated, truncated, info = self.env.step(action)
        if info["lives"] < self._lives:
            self._waiting = list(self._opening)
        self._lives = info["lives"]
        return obs, reward, terminated, truncated, info


class VecFrameDifference(VecEnvWrapper):
    """Observes the newest frame and its change since the one before.

    Observations are [height, width, 2]: the frame, and 128 + (frame - before) / 2, so that a
    picture which does not change is mid-grey. An episode's first frame has no change.
    """

    def __init__(self, venv: VecEnv):
        box = venv.observation_space
        assert isinstance(box, spaces.Box) and box.shape[-1] == 1, "grey frames only"
        super().__init__(venv, spaces.Box(0, 255, (*box.shape[:-1], 2), np.uint8))
        self._before = np.zeros((venv.num_envs, *box.shape), np.uint8)

    def reset(self) -> NDArray[np.uint8]:
        """Resets all environments."""
        frame = np.asarray(self.venv.reset())
        self._before = frame
        return self._pair(frame, frame)

    def step_wait(self) -> tuple[NDArray[np.uint8], Any, Any, Any]:
        """Waits for the step; terminal observations are paired with the frame before them."""
        stepped, rewards, dones, infos = self.venv.step_wait()
        frame = np.asarray(stepped)
        before = self._before.copy()
        for i, done in enumerate(dones):
            if done:
                end = infos[i]["terminal_observation"]
                infos[i]["terminal_observation"] = self._pair(end, before[i])
                before[i] = frame[i]
        self._before = frame
        return self._pair(frame, before), rewards, dones, infos

    @staticmethod
    def _pair(frame: NDArray[np.uint8], before: NDArray[np.uint8]) -> NDArray[np.uint8]:
        change = (frame.astype(np.int16) - before.astype(np.int16)) // 2 + 128
        return np.concatenate([frame, change.astype(np.uint8)], axis=-1)
