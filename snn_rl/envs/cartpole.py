"""CartPole with image observations.

Gymnasium's renderer (pygame) would be the bottleneck of training. The same picture is drawn here
with OpenCV, cropped to the rows in which the cart and the pole move.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from snn_rl.envs.families import EnvOptions, register_env_family
from snn_rl.envs.make import monitored

try:
    import cv2
except ImportError:  # without libGL; the commands report it, see snn_rl.utils.opencv
    cv2 = None  # type: ignore[assignment]

CARTPOLE = "cartpole"
SCREEN_WIDTH, SCREEN_HEIGHT = 600, 400
STRIP = slice(160, 320)  # rows of the cart and the pole
OBS_HEIGHT, OBS_WIDTH = 40, 120

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
# Bounds of the initial state (x, x_dot, theta, theta_dot) in the training of a teacher
_STARTS = np.array([1.0, 0.2, 0.2, 0.2])
_CART_WIDTH, _CART_HEIGHT, _POLE_WIDTH, _CART_Y = 50.0, 30.0, 10.0, 100.0
# Luma of the renderer's colors: 0.299 R + 0.587 G + 0.114 B
_BLACK, _POLE, _AXLE, _WHITE = 0, 161, 139, 255


def draw(
    state: NDArray[np.floating[Any]], x_threshold: float = 2.4, length: float = 0.5
) -> NDArray[np.uint8]:
    """Draws Gymnasium's picture of CartPole in grayscale, cropped to `STRIP`.

    Args:
        state: (x, x_dot, theta, theta_dot) in meters and radians.
        x_threshold: Half the width of the world in meters.
        length: Half the length of the pole in meters.

    Returns:
        Picture [160, 600] on a white background.
    """
    scale = SCREEN_WIDTH / (2 * x_threshold)
    pole_length = scale * 2 * length
    x = float(state[0]) * scale + SCREEN_WIDTH / 2
    theta = float(state[2])
    picture = np.full((STRIP.stop - STRIP.start, SCREEN_WIDTH), _WHITE, np.uint8)

    def point(px: float, py: float) -> tuple[int, int]:
        # Gymnasium draws with y pointing up and flips the picture at the end.
        row = SCREEN_HEIGHT - 1 - py - STRIP.start
        return round(px * (1 << _SHIFT)), round(row * (1 << _SHIFT))

    def polygon(corners: list[tuple[float, float]], gray: int) -> None:
        points = np.array([point(*corner) for corner in corners], np.int32)
        cv2.fillConvexPoly(picture, points, gray, cv2.LINE_AA, _SHIFT)

    left, right = x - _CART_WIDTH / 2, x + _CART_WIDTH / 2
    low, high = _CART_Y - _CART_HEIGHT / 2, _CART_Y + _CART_HEIGHT / 2
    polygon([(left, low), (left, high), (right, high), (right, low)], _BLACK)

    axle, half = _CART_Y + _CART_HEIGHT / 4, _POLE_WIDTH / 2
    cos, sin = np.cos(-theta), np.sin(-theta)
    top = pole_length - half
    ends = ((-half, -half), (-half, top), (half, top), (half, -half))
    polygon([(a * cos - b * sin + x, a * sin + b * cos + axle) for a, b in ends], _POLE)

    cv2.circle(
        picture, point(int(x), int(axle)), int(half) << _SHIFT, _AXLE, -1, cv2.LINE_AA, _SHIFT
    )
    picture[SCREEN_HEIGHT - 1 - int(_CART_Y) - STRIP.start] = _BLACK
    return picture


class CartPolePixels(gym.ObservationWrapper[NDArray[np.uint8], int, NDArray[np.float32]]):
    """CartPole with small grayscale images in place of its state.

    Observations are [40, 120, 1], uint8, white on black, so that the empty background drives no
    neuron.

    Args:
        env: CartPole-v0 or CartPole-v1.
    """

    def __init__(self, env: gym.Env[NDArray[np.float32], int]):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (OBS_HEIGHT, OBS_WIDTH, 1), np.uint8)

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Returns the picture of a state, averaged over blocks of 4x5 pixels and inverted."""
        cart: Any = self.env.unwrapped
        picture = draw(observation, cart.x_threshold, cart.length)
        small = cv2.resize(picture, (OBS_WIDTH, OBS_HEIGHT), interpolation=cv2.INTER_AREA)
        return np.asarray(_WHITE - small, np.uint8)[..., None]


def _gymnasium_colors() -> NDArray[np.uint8]:
    """Returns the RGB color [256, 3] of every gray value of `draw`."""
    colors = [(0, 0, 0), (202, 152, 101), (255, 255, 255)]
    channels = [
        np.interp(np.arange(256), (_BLACK, _POLE, _WHITE), channel)
        for channel in zip(*colors, strict=True)
    ]
    palette: NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    palette[_AXLE] = (129, 132, 203)
    return palette


_PALETTE = _gymnasium_colors()


def _picture(cart: Any) -> NDArray[np.uint8]:
    """Draws the strip in Gymnasium's colors, without pygame."""
    return np.asarray(_PALETTE[draw(cart.state, cart.x_threshold, cart.length)])


class FailureReward(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards a failure with -1 and everything else with 0 (Barto, Sutton, and Anderson, 1983).

    With a reward of 1 per step, the Q-values of a teacher would have to rise to 100 before they
    tell good actions from bad ones.

    Args:
        env: Environment whose episodes terminate at a failure.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes the action."""
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, -float(terminated), terminated, truncated, info


class ExploringStarts(gym.Wrapper[Any, Any, Any, Any]):
    """Starts episodes in a larger region than Gymnasium (Sutton and Barto, 2018, section 5.3).

    A good teacher rarely fails, so it would rarely visit the states before a failure.

    Args:
        env: CartPole-v0 or CartPole-v1.
    """

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode."""
        _, info = self.env.reset(**kwargs)
        cart: Any = self.env.unwrapped
        cart.state = cart.np_random.uniform(-_STARTS, _STARTS)
        return np.array(cart.state, np.float32), info


def _make(env_id: str, options: EnvOptions) -> gym.Env[Any, Any]:
    if not options.pixels:
        env: gym.Env[Any, Any] = gym.make(env_id, disable_env_checker=True)
        if not options.training:
            return monitored(env, options)
        return FailureReward(monitored(ExploringStarts(env), options))
    return CartPolePixels(gym.make(env_id, render_mode="rgb_array", disable_env_checker=True))


def _state(env: Any) -> NDArray[np.float32]:
    return np.array(env.unwrapped.state, np.float32)


def _visible(envs: Sequence[Any], states: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns the mask of the position and the angle.

    The velocities already contain the effect of the last action, which the picture shows one step
    later.
    """
    return np.array([True, False, True, False])


register_env_family(
    CARTPOLE,
    ("CartPole-v0", "CartPole-v1"),
    _make,
    picture=_picture,
    action_names=lambda env: ["left", "right"],
    state=_state,
    visible=_visible,
)
