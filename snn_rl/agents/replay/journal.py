"""The replay buffer on disk: an append-only journal of compressed, plain arrays.

A buffer of 100,000 Atari transitions takes gigabytes, too much to rewrite at every checkpoint. Each
checkpoint appends one chunk with the rows that are new, and most of a row is redundant: its
observation is the row before's next observation, and its frame stack shifts by one frame. Where the
buffer knows that the frames are the same they are left out; all else is stored in full.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.files.archive import read_arrays
from snn_rl.files.atomic import write_atomic
from snn_rl.utils.errors import UserError

Array = NDArray[Any]
Stored = dict[str, Array]
# What numpy, zipfile and zlib raise, between them, on a damaged archive
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_FIELDS = ("actions", "rewards", "dones", "timeouts")


def encode(buffer: FrameReplayBuffer, start: int, stop: int) -> Stored:
    """What has to be stored of rows that the buffer holds, so that `decode` restores them exactly.

    Args:
        buffer: It knows which frames are the same.
        start: The first row, counted since the buffer's first.
        stop: Behind the last.
    """
    index = np.arange(start, stop) % buffer.buffer_size
    frames = buffer.store.frames
    obs, following = buffer.store.slots[:, index]
    shifted = (following[:, :, :-1] == obs[:, :, 1:]).all(2)
    chained = np.zeros(shifted.shape, bool)
    chained[1:] = (obs[1:] == following[:-1]).all(2)
    return {
        "newest": frames[following[:, :, -1:]],
        "shifted": shifted,
        "chained": chained,
        "full_obs": frames[obs[~chained]],
        "full_next": frames[following[~shifted]],
        **{name: getattr(buffer, name)[index] for name in _FIELDS},
    }


def decode(stored: Stored) -> Iterator[tuple[Array, Array]]:
    """Yields the observations and the ones that followed, row by row, each [envs, ...]."""
    full_obs, full_next = iter(stored["full_obs"]), iter(stored["full_next"])
    shape = (stored["shifted"].shape[1], *stored["full_obs"].shape[1:])
    following = np.empty(shape, stored["newest"].dtype)
    rows = zip(stored["newest"], stored["shifted"], stored["chained"], strict=True)
    for newest, shifted, chained in rows:
        obs, following = following.copy(), np.empty_like(following)
        for env in np.flatnonzero(~chained):
            obs[env] = next(full_obs)
        following[:, :-1], following[:, -1:] = obs[:, 1:], newest
        for env in np.flatnonzero(~shifted):
            following[env] = next(full_next)
        yield obs, following


def _check(stored: Stored) -> None:
    """Raises what `_DAMAGE` lists where arrays are missing or do not belong together."""
    shifted, chained, newest = stored["shifted"], stored["chained"], stored["newest"]
    count, envs = shifted.shape
    channels = stored["full_obs"].shape[1]
    expected = {
        "newest": (count, envs, 1, *newest.shape[3:]),
        "chained": (count, envs),
        "full_obs": (int((~chained).sum()), channels, *newest.shape[3:]),
        "full_next": (int((~shifted).sum()), channels, *newest.shape[3:]),
        "actions": (count, envs, *stored["actions"].shape[2:]),
        **dict.fromkeys(_FIELDS[1:], (count, envs)),
    }
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise ValueError(f"{name} is {stored[name].shape}, not {shape}")
    if chained[:1].any():
        raise ValueError("the first row follows from none")


def write_rows(buffer: FrameReplayBuffer, start: int, stored: Stored) -> None:
    """Puts rows where they stood, and sets the buffer's position behind them."""
    size = buffer.buffer_size
    stop = start + len(stored["dones"])
    first = max(start, stop - size)
    for row, (obs, following) in enumerate(decode(stored), start):
        if row >= first:
            buffer.observations[row % size] = obs
            buffer.next_observations[row % size] = following
    index = np.arange(first, stop) % size
    for name in _FIELDS:
        getattr(buffer, name)[index] = stored[name][first - start :]
    buffer.pos = stop % size
    buffer.full = buffer.full or stop >= size


def save_chunk(path: Path, start: int, stored: Stored) -> None:
    """Writes encoded rows that begin at `start`, atomically."""
    arrays = {"start": np.array(start), **stored}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomic(path, write)


def load_chunk(path: Path, limit: int = 2**31) -> tuple[int, Stored]:
    """Reads what `save_chunk` wrote.

    Args:
        path: The file.
        limit: Bytes that it may hold, unpacked.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        stored = read_arrays(path, limit)
        start = int(stored.pop("start"))
        _check(stored)
        return start, stored
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or not a replay chunk ({error})") from None


def save_buffer(path: Path, buffer: FrameReplayBuffer) -> None:
    """Writes a whole buffer as one chunk."""
    stop = buffer.pos + (buffer.buffer_size if buffer.full else 0)
    start = stop - buffer.size()
    save_chunk(path, start, encode(buffer, start, stop))


def load_buffer(path: Path, buffer: FrameReplayBuffer) -> None:
    """Fills a buffer from one chunk.

    Raises:
        UserError: The file is damaged, or its rows are of other shapes.
    """
    _fill(buffer, *load_chunk(path, _room(buffer)), path)


def _room(buffer: FrameReplayBuffer) -> int:
    """Bytes that a chunk holds at most: as many rows as the buffer, all in whole stacks."""
    transitions = buffer.buffer_size * buffer.n_envs
    return 3 * transitions * int(np.prod(buffer.obs_shape)) + 64 * transitions + 2**20


def _fill(buffer: FrameReplayBuffer, start: int, stored: Stored, path: Path) -> None:
    shape = (stored["shifted"].shape[1], *stored["full_obs"].shape[1:])
    wanted = buffer.observations.shape[1:]
    if shape != wanted:
        raise UserError(f"{path} holds transitions of shape {shape}; this run needs {wanted}")
    write_rows(buffer, start, stored)


class Journal:
    """The rows that a chain of stages has added to its replay buffer.

    Args:
        directories: One per stage, from the first; this stage's is the last and alone written to.
    """

    def __init__(self, directories: Sequence[Path]):
        self.directories = list(directories)

    def append(self, buffer: FrameReplayBuffer, start: int, stop: int) -> None:
        """Writes the rows start to stop (those the buffer still holds) as one chunk."""
        if start == stop:
            return  # a chunk is named by its end: an empty one would replace the one before
        start = max(start, stop - buffer.buffer_size)
        path = self.directories[-1] / f"{stop:012d}.npz"
        save_chunk(path, start, encode(buffer, start, stop))

    def restore(self, buffer: FrameReplayBuffer, stop: int) -> None:
        """Fills an empty buffer with the rows before `stop`; forgets any chunk behind it.

        Raises:
            UserError: A chunk is damaged or missing.
        """
        for chunk in self._chunks(self.directories[-1:]):
            if int(chunk.stem) > stop:
                chunk.unlink()
        wanted = [c for c in self._chunks(self.directories) if int(c.stem) <= stop]
        needed = [c for c in wanted if int(c.stem) > stop - buffer.buffer_size]
        filled = max(0, stop - buffer.buffer_size)
        for chunk in needed:
            start, stored = load_chunk(chunk, _room(buffer))
            if start > filled:
                break
            _fill(buffer, start, stored, chunk)
            filled = start + len(stored["dones"])
        if filled != stop:
            raise UserError(f"{self.directories[-1]} lacks the replay rows from {filled} on")

    def prune(self, buffer: FrameReplayBuffer, stop: int) -> None:
        """Deletes this stage's chunks that a buffer ending at `stop` no longer holds."""
        for chunk in self._chunks(self.directories[-1:]):
            if int(chunk.stem) <= stop - buffer.buffer_size:
                chunk.unlink()

    @staticmethod
    def _chunks(directories: Sequence[Path]) -> list[Path]:
        found = [chunk for directory in directories for chunk in directory.glob("[0-9]*.npz")]
        return sorted(found, key=lambda chunk: int(chunk.stem))
