"""Rendering of an agent's decisions, and their output to a window, an mp4 or a gif.

All pictures are RGB.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont

from snn_rl.files.atomic import write_atomic
from snn_rl.utils.opencv import opencv

Picture = NDArray[np.uint8]  # [height, width, 3], RGB
Color = tuple[int, int, int]

BACKGROUND: Color = (14, 17, 23)
CELL: Color = (36, 42, 54)
TEXT: Color = (232, 236, 241)
MUTED: Color = (139, 148, 160)
SPIKE: Color = (255, 190, 60)
BAR: Color = (84, 104, 132)

MARGIN, HEADER = 24, 72
_LABEL = 34  # height of a layer's name and the gap below its map
_UNIT = 4  # width of a dense unit, in gaps
TALL, WIDE = (1280, 720), (1280, 560)  # canvas (width, height) for tall and wide frames
_TITLE, _NUMBER, _SMALL = 22, 17, 14  # font sizes
_CRF = "23"  # x264's default quality


@dataclass(frozen=True)
class Moment:
    """One decision of an agent."""

    picture: Picture  # rendered frame of the environment
    # mean spikes per timestep of each hidden layer, [channels, height, width] or [units]
    activity: Sequence[NDArray[np.float32]]
    # spikes per neuron of each hidden layer, summed over the timesteps
    spike_rates: Sequence[float]
    q_values: NDArray[np.float32]  # Q-values, [actions]
    action: int  # index of the chosen action
    score: float  # return so far
    step: int  # number of earlier decisions in the episode


@dataclass(frozen=True)
class Labels:
    """Labels that stay the same throughout a video, for T timesteps and the hidden layers."""

    env: str
    timesteps: int
    layers: Sequence[str]
    actions: Sequence[str]


# --- pictures ----------------------------------------------------------------------------------


def enlarge(picture: Picture, width: int, height: int) -> Picture:
    """Enlarges a picture by the largest whole factor that fits a box, without smoothing."""
    factor = max(1, min(width // picture.shape[1], height // picture.shape[0]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def overlay(moment: Moment, labels: Labels) -> Picture:
    """Renders the frame beside the spikes of every layer and the Q-value of every action."""
    height, width = moment.picture.shape[:2]
    tall = width < 2 * height
    canvas = Image.new("RGB", TALL if tall else WIDE, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    frame = enlarge(moment.picture, *((480, 630) if tall else (600, 160)))
    canvas.paste(Image.fromarray(frame), (MARGIN, HEADER))
    if tall:
        q_left, q_top, q_width = canvas.width - MARGIN - 256, HEADER, 256
        layers_right = q_left - 32
    else:
        q_left, q_top, q_width = MARGIN, HEADER + frame.shape[0] + 32, frame.shape[1]
        layers_right = canvas.width - MARGIN
    _draw_header(draw, moment, labels, canvas.width)
    _draw_layers(canvas, moment, labels, (MARGIN + frame.shape[1] + 32, layers_right))
    _draw_q_values(draw, moment, labels, (q_left, q_top, q_width, canvas.height - MARGIN - q_top))
    return np.asarray(canvas)


def _draw_header(draw: ImageDraw.ImageDraw, moment: Moment, labels: Labels, width: int) -> None:
    steps = "one timestep" if labels.timesteps == 1 else f"{labels.timesteps} timesteps"
    _text(draw, (MARGIN, 36), labels.env, _TITLE)
    left = MARGIN + _font(_TITLE).getlength(labels.env) + 16
    _text(draw, (left, 36), f"T={labels.timesteps}: decides in {steps}", _NUMBER, MUTED)
    _text(draw, (width - MARGIN, 36), f"return {moment.score:g}", _TITLE, SPIKE, "rm")
    _text(draw, (width - MARGIN - 160, 36), f"decision {moment.step}", _NUMBER, MUTED, "rm")


def _draw_layers(
    canvas: Image.Image, moment: Moment, labels: Labels, columns: tuple[int, int]
) -> None:
    draw, (left, right) = ImageDraw.Draw(canvas), columns
    shapes = tuple(activity.shape for activity in moment.activity)
    room = canvas.height - HEADER - MARGIN - len(shapes) * _LABEL
    plans = arrange(shapes, right - left, room)
    gap = (room - sum(plan.height for plan in plans)) / max(1, len(shapes) - 1)
    top = float(HEADER)
    rows = zip(labels.layers, moment.activity, moment.spike_rates, plans, strict=True)
    for name, activity, rate, plan in rows:
        size = f"{len(activity)} neurons"
        if activity.ndim == 3:
            size = f"{len(activity)} maps of {activity.shape[2]}x{activity.shape[1]}"
        amount = f"{100 * rate:.1f} % fire"
        if labels.timesteps > 1:
            amount = f"{rate:.2f} spikes per neuron"
        _text(draw, (left, top + 10), name, _NUMBER)
        _text(draw, (left + 64, top + 10), size, _SMALL, MUTED)
        _text(draw, (right, top + 10), amount, _NUMBER, SPIKE, "rm")
        canvas.paste(Image.fromarray(tile(activity, plan)), (left, round(top) + 26))
        top += plan.height + _LABEL + gap


def _draw_q_values(
    draw: ImageDraw.ImageDraw, moment: Moment, labels: Labels, box: tuple[int, int, int, int]
) -> None:
    left, top, width, height = box
    _text(draw, (left, top + 8), "Q-values", _NUMBER)
    row = min(48, (height - 32) // len(labels.actions))
    low, high = float(moment.q_values.min()), float(moment.q_values.max())
    label, number = min(int(width * 0.45), 120), 64
    for i, (name, q) in enumerate(zip(labels.actions, moment.q_values, strict=True)):
        y = top + 32 + i * row
        bar_color, text_color = (SPIKE, TEXT) if i == moment.action else (BAR, MUTED)
        # Bars show differences: the worst action has a short bar, the best a full one.
        share = 0.06 + 0.94 * ((float(q) - low) / (high - low) if high > low else 1.0)
        end = left + label + round((width - label - number) * share)
        draw.rounded_rectangle((left + label, y + 4, end, y + row - 6), 3, fill=bar_color)
        middle, size = y + row // 2 - 1, _SMALL if row > 20 else 12
        _text(draw, (left, middle), name, size, text_color)
        _text(draw, (left + width, middle), f"{q:.3f}", size, text_color, "rm")
    if len(labels.actions) > 9:  # no room for the legend
        return
    bottom = top + height - 8
    often = "" if labels.timesteps == 1 else " (bright: often)"
    for line, color, text in ((2, SPIKE, f"neuron that fires{often}"), (1, CELL, "silent neuron")):
        y = bottom - 22 * line
        draw.rectangle((left, y - 5, left + 10, y + 5), fill=color)
        _text(draw, (left + 20, y), text, _SMALL, MUTED)
    _text(draw, (left, bottom), "gold bar: the action played", _SMALL, MUTED)


@dataclass(frozen=True)
class Tiling:
    """Arrangement of a layer's feature maps or units in a grid.

    The scale is the number of pixels per neuron of a map, or per gap between units.
    """

    columns: int
    width: int
    height: int
    scale: float


@cache
def arrange(shapes: tuple[tuple[int, ...], ...], width: int, height: int) -> tuple[Tiling, ...]:
    """Chooses tilings of equal width for several layers, stacked within a height.

    The shape of a layer is (channels, height, width) or (units,).
    """
    choices = [_tilings(shape, width) for shape in shapes]
    chosen = [0] * len(shapes)  # starts with a single row of maps per layer

    def grow() -> bool:
        """Enlarges the layer with the smallest neurons that still fits when enlarged."""
        room = height - sum(tilings[n].height for tilings, n in zip(choices, chosen, strict=True))
        for i in sorted(range(len(shapes)), key=lambda i: choices[i][chosen[i]].scale):
            larger = choices[i][chosen[i] + 1 :][:1]
            if larger and larger[0].height - choices[i][chosen[i]].height <= room:
                chosen[i] += 1
                return True
        return False

    while grow():
        pass
    return tuple(tilings[n] for tilings, n in zip(choices, chosen, strict=True))


def _tilings(shape: tuple[int, ...], width: int) -> list[Tiling]:
    """Returns all tilings with full rows, from the lowest to the highest."""
    count, h, w = _cell(shape)
    tilings = []
    for columns in (n for n in range(count, 0, -1) if count % n == 0):
        scale = width / (columns * w)
        tilings.append(Tiling(columns, width, max(1, round(count // columns * h * scale)), scale))
    return tilings


def _cell(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns the number of maps, and the height and width of a map with its gap."""
    if len(shape) == 1:
        return shape[0], _UNIT + 1, _UNIT + 1
    return shape[0], shape[1] + 1, shape[2] + 1


def tile(activity: NDArray[np.float32], tiling: Tiling) -> Picture:
    """Renders a layer's spikes: the maps of a convolution side by side, or a grid of units.

    The activity is the number of spikes per neuron and timestep, [channels, height, width] or
    [units].
    """
    count, h, w = _cell(activity.shape)
    maps = activity
    if activity.ndim == 1:
        maps = np.broadcast_to(activity[:, None, None], (count, _UNIT, _UNIT))
    cells = np.empty((count, h, w, 3), np.uint8)
    cells[:] = BACKGROUND
    cells[:, : h - 1, : w - 1] = _colors()[np.rint(maps * 255).astype(np.uint8)]
    rows = count // tiling.columns
    grid = cells.reshape(rows, tiling.columns, h, w, 3).swapaxes(1, 2)
    sheet = grid.reshape(rows * h, tiling.columns * w, 3)
    factor = -(-tiling.width // sheet.shape[1])
    large = Image.fromarray(sheet.repeat(factor, 0).repeat(factor, 1))
    return np.asarray(large.resize((tiling.width, tiling.height), Image.Resampling.BOX))


@cache
def _colors() -> Picture:
    """Returns the color map from a silent to a firing neuron, [256, 3]."""
    share = np.sqrt(np.linspace(0.0, 1.0, 256))[:, None]
    return np.asarray(np.rint(share * SPIKE + (1 - share) * np.array(CELL)), np.uint8)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _text(
    draw: ImageDraw.ImageDraw,
    where: tuple[float, float],
    text: str,
    size: int,
    color: Color = TEXT,
    anchor: str = "lm",
) -> None:
    draw.text(where, text, fill=color, font=_font(size), anchor=anchor)


# --- output --------------------------------------------------------------------------------------


def has_display() -> bool:
    """Returns True if OpenCV can open a window.

    The check runs in a subprocess, because OpenCV aborts the process if there is no display.
    """
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    code = "import cv2; cv2.namedWindow('snn_rl'); cv2.waitKey(1)"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def show(pictures: Iterable[Picture], fps: int, title: str) -> None:
    """Shows pictures in a window until they end or the user presses q or Escape."""
    cv2 = opencv()
    for picture in pictures:
        cv2.imshow(title, picture[..., ::-1])  # OpenCV expects BGR
        if cv2.waitKey(max(1, 1000 // fps)) in (ord("q"), 27):
            break
    cv2.destroyAllWindows()


def write_mp4(path: Path, pictures: Iterable[Picture], fps: int) -> None:
    """Writes an H.264 video that browsers play while it loads, atomically.

    The pictures have equal sizes. An odd last row or column is cropped.
    """
    import av  # takes 0.2 s, and most commands write no video

    def encode(file: Path) -> None:
        options = {"movflags": "faststart"}
        with av.open(str(file), "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": _CRF})
            stream.pix_fmt = "yuv420p"  # needs even sizes
            for i, picture in enumerate(pictures):
                stored = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
                if i == 0:
                    stream.height, stream.width = stored.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    write_atomic(path, encode)


def write_gif(path: Path, pictures: Iterable[Picture], fps: int) -> None:
    """Writes a looping GIF, at most 640 pixels wide, atomically and frame by frame.

    Pillow would keep all pictures in memory until the end. Pixels that do not change are
    transparent.
    """
    duration = max(2, round(100 / fps)) * 10  # ms
    clear = 63  # transparent color, after 63 others

    def encode(file: Path) -> None:
        before = None
        with file.open("wb") as output:
            for picture in pictures:
                small = Image.fromarray(picture).reduce(-(-picture.shape[1] // 640))
                now = np.asarray(small)
                colors = small.quantize(clear, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
                indices = np.array(colors)
                if before is None:
                    output.write(b"GIF89a" + struct.pack("<HHBBB", *small.size, 0, 0, 0))
                    output.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # endless
                else:
                    indices[(now == before).all(-1)] = clear
                before = now
                box = Image.fromarray(indices != clear).getbbox() or (0, 0, 1, 1)
                frame = Image.fromarray(indices).crop(box)
                palette = colors.getpalette() or []
                frame.putpalette(palette + [0] * (3 * clear + 3 - len(palette)))
                options = {"duration": duration, "transparency": clear, "disposal": 1}
                output.writelines(
                    GifImagePlugin.getdata(frame, box[:2], include_color_table=True, **options)
                )
            output.write(b";")

    write_atomic(path, encode)
