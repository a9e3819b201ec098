"""The replay buffer on disk: an append-only journal of compressed, plain arrays.

A buffer of 100,000 Atari transitions takes gigabytes, too much to rewrite at every checkpoint. Each
checkpoint appends one chunk with the rows that are new, and most of a row is redundant: its
observation is the row before's next observation, and its frame stack shifts by one frame. Both are
checked, not assumed; what does not follow from them is stored in full.
"""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from snn_rl.archive import read_arrays
from snn_rl.checkpoint import write_atomic
from snn_rl.errors import UserError

Array = NDArray[Any]
Rows = dict[str, Array]
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
_FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def encode(rows: Rows) -> Rows:
    """Drops from consecutive rows what follows from the rest.

    Args:
        rows: Arrays [rows, envs, ...] of the buffer; observations [rows, envs, channels, h, w].

    Returns:
        Arrays from which `decode` restores them exactly.
    """
    obs, following = rows["observations"], rows["next_observations"]
    newest = following.shape[2] - 1
    shifted = (following[:, :, :newest] == obs[:, :, 1:]).all(axis=(2, 3, 4))
    chained = np.zeros(obs.shape[:2], bool)
    chained[1:] = (obs[1:] == following[:-1]).all(axis=(2, 3, 4))
    return {
        "newest": following[:, :, newest:],
        "shifted": shifted,
        "chained": chained,
        "full_obs": obs[~chained],
        "full_next": following[~shifted],
        **{name: rows[name] for name in _FIELDS[2:]},
    }


def decode(stored: Rows) -> Rows:
    """The inverse of `encode`."""
    newest, shifted, chained = stored["newest"], stored["shifted"], stored["chained"]
    count, envs = shifted.shape
    image = stored["full_obs"].shape[1:]
    obs = np.empty((count, envs, *image), newest.dtype)
    following = np.empty_like(obs)
    obs[~chained] = stored["full_obs"]
    following[~shifted] = stored["full_next"]
    for row in range(count):
        if row:
            obs[row][chained[row]] = following[row - 1][chained[row]]
        mine = shifted[row]
        following[row][mine, :-1] = obs[row][mine, 1:]
        following[row][mine, -1:] = newest[row][mine]
    rest = {name: stored[name] for name in _FIELDS[2:]}
    return {"observations": obs, "next_observations": following, **rest}


def read_rows(buffer: ReplayBuffer, start: int, stop: int) -> Rows:
    """Rows start to stop, counted since the buffer's first, that it still holds."""
    index = np.arange(start, stop) % buffer.buffer_size
    return {name: getattr(buffer, name)[index] for name in _FIELDS}


def write_rows(buffer: ReplayBuffer, start: int, rows: Rows) -> None:
    """Puts rows where they stood, and sets the buffer's position behind them."""
    stop = start + len(rows["dones"])
    first = max(start, stop - buffer.buffer_size)
    index = np.arange(first, stop) % buffer.buffer_size
    for name in _FIELDS:
        getattr(buffer, name)[index] = rows[name][first - start :]
    buffer.pos = stop % buffer.buffer_size
    buffer.full = buffer.full or stop >= buffer.buffer_size


def save_chunk(path: Path, start: int, rows: Rows) -> None:
    """Writes rows that begin at `start`, atomically."""
    arrays = {"start": np.array(start), **encode(rows)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomic(path, write)


def load_chunk(path: Path, limit: int = 2**31) -> tuple[int, Rows]:
    """Reads what `save_chunk` wrote.

    Args:
        path: The file.
        limit: Bytes that it may hold, unpacked.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        stored = read_arrays(path, limit)
        return int(stored.pop("start")), decode(stored)
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or not a replay chunk ({error})") from None


def save_buffer(path: Path, buffer: ReplayBuffer) -> None:
    """Writes a whole buffer as one chunk."""
    stop = buffer.pos + (buffer.buffer_size if buffer.full else 0)
    start = stop - buffer.size()
    save_chunk(path, start, read_rows(buffer, start, stop))


def load_buffer(path: Path, buffer: ReplayBuffer) -> None:
    """Fills a buffer from one chunk.

    Raises:
        UserError: The file is damaged, or its rows are of other shapes.
    """
    _fill(buffer, *load_chunk(path, _room(buffer)), path)


def _room(buffer: ReplayBuffer) -> int:
    """Bytes that a chunk holds at most: none has more rows than the buffer."""
    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    return 2 * sum(array.nbytes for array in arrays) + 2**20


def _fill(buffer: ReplayBuffer, start: int, rows: Rows, path: Path) -> None:
    shape, wanted = rows["observations"].shape[1:], buffer.observations.shape[1:]
    if shape != wanted:
        raise UserError(f"{path} holds transitions of shape {shape}; this run needs {wanted}")
    write_rows(buffer, start, rows)


class Journal:
    """The rows that a chain of stages has added to its replay buffer.

    Args:
        directories: One per stage, from the first; this stage's is the last and alone written to.
    """

    def __init__(self, directories: Sequence[Path]):
        self.directories = list(directories)

    def append(self, buffer: ReplayBuffer, start: int, stop: int) -> None:
        """Writes the rows start to stop (those the buffer still holds) as one chunk."""
        if start == stop:
            return  # a chunk is named by its end: an empty one would replace the one before
        start = max(start, stop - buffer.buffer_size)
        path = self.directories[-1] / f"{stop:012d}.npz"
        save_chunk(path, start, read_rows(buffer, start, stop))

    def restore(self, buffer: ReplayBuffer, stop: int) -> None:
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
            start, rows = load_chunk(chunk, _room(buffer))
            if start > filled:
                break
            _fill(buffer, start, rows, chunk)
            filled = start + len(rows["dones"])
        if filled != stop:
            raise UserError(f"{self.directories[-1]} lacks the replay rows from {filled} on")

    def prune(self, buffer: ReplayBuffer, stop: int) -> None:
        """Deletes this stage's chunks that a buffer ending at `stop` no longer holds."""
        for chunk in self._chunks(self.directories[-1:]):
            if int(chunk.stem) <= stop - buffer.buffer_size:
                chunk.unlink()

    @staticmethod
    def _chunks(directories: Sequence[Path]) -> list[Path]:
        found = [chunk for directory in directories for chunk in directory.glob("[0-9]*.npz")]
        return sorted(found, key=lambda chunk: int(chunk.stem))
