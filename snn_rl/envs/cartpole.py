"""CartPole seen as pixels.

Gymnasium's own renderer (pygame) is the bottleneck of training from pixels, so the same picture is
drawn here with OpenCV; a test holds it against Gymnasium's. Only the strip in which the pole and
the cart move is drawn.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SCREEN_WIDTH, SCREEN_HEIGHT = 600, 400
STRIP = slice(160, 320)  # the rows that hold the pole and the cart
OBS_HEIGHT, OBS_WIDTH = 40, 120

try:
    import cv2
except ImportError:  # no libGL: the commands say what to do about it, see snn_rl.utils.opencv
    cv2 = None  # type: ignore[assignment]

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_CART_WIDTH, _CART_HEIGHT, _POLE_WIDTH, _CART_Y = 50.0, 30.0, 10.0, 100.0
# Luma of the renderer's colours (0.299 R + 0.587 G + 0.114 B): cart, pole, axle
_BLACK, _POLE, _AXLE = 0, 161, 139


def draw(
    state: NDArray[np.floating[Any]], x_threshold: float = 2.4, length: float = 0.5
) -> NDArray[np.uint8]:
    """Draws Gymnasium's CartPole picture in grey, cropped to `STRIP`.

    Args:
        state: (x, x_dot, theta, theta_dot) in metres and radians.
        x_threshold: Half the width of the world, in metres.
        length: Half the pole's length, in metres.

    Returns:
        [160, 600], white background.
    """
    scale = SCREEN_WIDTH / (2 * x_threshold)
    pole_length = scale * 2 * length
    x = float(state[0]) * scale + SCREEN_WIDTH / 2
    theta = float(state[2])
    picture = np.full((STRIP.stop - STRIP.start, SCREEN_WIDTH), 255, np.uint8)

    def point(px: float, py: float) -> tuple[int, int]:
        # Gymnasium draws with y upwards and flips the picture at the end
        row = SCREEN_HEIGHT - 1 - py - STRIP.start
        return round(px * (1 << _SHIFT)), round(row * (1 << _SHIFT))

    def polygon(corners: list[tuple[float, float]], grey: int) -> None:
        points = np.array([point(*corner) for corner in corners], np.int32)
        cv2.fillConvexPoly(picture, points, grey, cv2.LINE_AA, _SHIFT)

    left, right = x - _CART_WIDTH / 2, x + _CART_WIDTH / 2
    low, high = _CART_Y - _CART_HEIGHT / 2, _CART_Y + _CART_HEIGHT / 2
    polygon([(left, low), (left, high), (right, high), (right, low)], _BLACK)

    axle = _CART_Y + _CART_HEIGHT / 4
    half = _POLE_WIDTH / 2
    cos, sin = np.cos(-theta), np.sin(-theta)
    corners = []
    for a, b in (
        (-half, -half),
        (-half, pole_length - half),
        (half, pole_length - half),
        (half, -half),
    ):
        corners.append((a * cos - b * sin + x, a * sin + b * cos + axle))
    polygon(corners, _POLE)

    cv2.circle(
        picture, point(int(x), int(axle)), int(half) << _SHIFT, _AXLE, -1, cv2.LINE_AA, _SHIFT
    )
    line = SCREEN_HEIGHT - 1 - int(_CART_Y) - STRIP.start
    picture[line] = _BLACK
    return picture


class CartPolePixels(gym.ObservationWrapper[NDArray[np.uint8], int, NDArray[np.float32]]):
    """Shows CartPole as a small grey image instead of its state.

    Args:
        env: CartPole-v0 or CartPole-v1.

    Observations are [40, 120, 1], uint8, white on black (inverted, so that the empty background
    drives no neuron).
    """

    def __init__(self, env: gym.Env[NDArray[np.float32], int]):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (OBS_HEIGHT, OBS_WIDTH, 1), np.uint8)

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Draws the state and shrinks it, area-averaged, to the size of the observation."""
        cart: Any = self.env.unwrapped
        picture = draw(observation, cart.x_threshold, cart.length)
        small = cv2.resize(picture, (OBS_WIDTH, OBS_HEIGHT), interpolation=cv2.INTER_AREA)
        return np.asarray(255 - small, np.uint8)[..., None]
