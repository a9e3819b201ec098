"""The picture drawn with OpenCV, held against Gymnasium's own renderer.

That renderer cuts every corner down to whole pixels (pygame.gfxdraw takes integers), ours keeps
the fraction. So Gymnasium's outlines lie between 0 and 1 pixel beside ours, half a pixel on
average, and nothing else may differ. The tolerances below are that pixel, and nothing more.
"""

from collections.abc import Callable, Iterator

import cv2
import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from snn_rl.envs.cartpole import SCREEN_WIDTH, STRIP, CartPolePixels, draw

pytest.importorskip("pygame", reason="Gymnasium's renderer needs pygame (pygame-ce)")

State = NDArray[np.float64]
Picture = NDArray[np.uint8]

PIXEL = 4.8 / SCREEN_WIDTH  # metres
CART_ROWS, POLE_ROWS = slice(126, 138), slice(20, 110)  # of the strip, without the track's line


@pytest.fixture(scope="module")
def gymnasium_picture() -> Iterator[Callable[[State], Picture]]:
    """Draws Gymnasium's whole picture of a state, grey, [400, 600]."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        env = gym.make("CartPole-v1", render_mode="rgb_array")
        env.reset()

        def render(state: State) -> Picture:
            env.unwrapped.state = state
            return cv2.cvtColor(env.render(), cv2.COLOR_RGB2GRAY)

        yield render
        env.close()


def random_states(count: int = 120) -> list[State]:
    """A third of the carts near the edge, a third of the poles at their limit."""
    rng = np.random.default_rng(0)
    result = []
    for i in range(count):
        x, theta = rng.uniform(-2.2, 2.2), rng.uniform(-0.2, 0.2)
        if i % 3 == 1:
            x = rng.choice([-1, 1]) * rng.uniform(2.2, 2.4)
        if i % 3 == 2:
            theta = rng.choice([-1, 1]) * rng.uniform(0.18, 0.25)
        result.append(np.array([x, rng.normal(), theta, rng.normal()]))
    return result


def shrink(picture: Picture) -> NDArray[np.float64]:
    """The inverted strip, averaged over its blocks of 4x5 pixels: [40, 120]."""
    return 255 - picture.reshape(40, 4, 120, 5).mean(axis=(1, 3))


def centre(picture: Picture, rows: slice) -> float:
    """Mean column of what is drawn in these rows."""
    ink = 255.0 - picture[rows]
    return float((ink * np.arange(SCREEN_WIDTH)).sum() / ink.sum())


def disagreements(theirs: list[Picture], ours: list[Picture]) -> list[str]:
    """What differs by more than the pixel that Gymnasium's rounding explains."""
    found = []
    pairs = list(zip(theirs, ours, strict=True))
    largest = max(np.abs(shrink(a) - shrink(b)).max() for a, b in pairs)
    if largest > 255 / 4:  # one row of four, from white to black
        found.append(f"a pixel of the observation differs by {largest:.1f}")
    for name, rows in (("cart", CART_ROWS), ("pole", POLE_ROWS)):
        offsets = np.array([centre(b, rows) - centre(a, rows) for a, b in pairs])
        # a little more than [0, 1]: a tilted pole cut down in y also moves sideways, and at the
        # edge of the screen only half of the cart is there to be measured
        if offsets.min() < -0.25 or offsets.max() > 1.25:
            found.append(f"a {name} is {offsets.min():.2f} to {offsets.max():.2f} pixels off")
        if abs(offsets.mean() - 0.5) > 0.15:
            found.append(f"{name}s are {offsets.mean():.2f} pixels off on average")
    return found


def test_picture_is_gymnasiums_up_to_its_rounding(
    gymnasium_picture: Callable[[State], Picture],
) -> None:
    states = random_states()
    theirs = [gymnasium_picture(state)[STRIP] for state in states]
    assert disagreements(theirs, [draw(state) for state in states]) == []


def test_nothing_is_drawn_outside_the_strip(
    gymnasium_picture: Callable[[State], Picture],
) -> None:
    for state in random_states(30):
        picture = gymnasium_picture(state)
        assert (picture[: STRIP.start] == 255).all()
        assert (picture[STRIP.stop :] == 255).all()


def tilted(angle: float) -> Callable[[State], State]:
    return lambda state: state + np.array([0, 0, angle, 0])


def moved(metres: float) -> Callable[[State], State]:
    return lambda state: state + np.array([metres, 0, 0, 0])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda state: state * [1, 1, -1, 1], id="tilts the other way"),
        pytest.param(tilted(0.01), id="tilts 0.01 rad more"),
        pytest.param(tilted(-0.01), id="tilts 0.01 rad less"),
        pytest.param(moved(PIXEL / 2), id="half a pixel to the right"),
        pytest.param(moved(-PIXEL / 2), id="half a pixel to the left"),
    ],
)
def test_comparison_notices_a_wrong_picture(
    gymnasium_picture: Callable[[State], Picture], change: Callable[[State], State]
) -> None:
    states = random_states()
    theirs = [gymnasium_picture(state)[STRIP] for state in states]
    assert disagreements(theirs, [draw(change(state)) for state in states])


def test_comparison_notices_a_longer_pole(
    gymnasium_picture: Callable[[State], Picture],
) -> None:
    states = random_states()
    theirs = [gymnasium_picture(state)[STRIP] for state in states]
    assert disagreements(theirs, [draw(state, length=0.51) for state in states])


def test_observation_is_the_shrunken_inverted_picture(
    gymnasium_picture: Callable[[State], Picture],
) -> None:
    env = CartPolePixels(gym.make("CartPole-v1"))
    for state in random_states(30):
        seen = env.observation(state)
        assert seen.shape == env.observation_space.shape == (40, 120, 1)
        assert seen.dtype == np.uint8
        # OpenCV rounds each block's mean to a whole grey value
        assert np.abs(seen[..., 0] - shrink(draw(state))).max() <= 0.5
        assert np.abs(seen[..., 0] - shrink(gymnasium_picture(state)[STRIP])).max() <= 255 / 4 + 0.5
