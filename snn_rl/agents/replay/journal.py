"""Replay buffer on disk: a journal of compressed arrays with one chunk per checkpoint.

A buffer of 100,000 Atari transitions takes several GB, too much to write at every checkpoint, so a
chunk contains only the new rows. Most of a row is redundant: its observation equals the previous
row's next observation, and its frame stack shifts by one frame. Frames with equal slots in the
buffer are omitted. All other frames are stored.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.files.archive import read_arrays
from snn_rl.files.atomic import write_atomic
from snn_rl.utils.errors import DamagedFile

Array = NDArray[Any]
Stored = dict[str, Array]
_MAX_ROW = 10**12  # chunk names have 12 digits


def encode(buffer: FrameReplayBuffer, start: int, stop: int) -> Stored:
    """Encodes the rows from start to stop, counted since the first row of the chain."""
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
        **{name: getattr(buffer, name)[index] for name in buffer.fields},
    }


def decode(stored: Stored) -> Iterator[tuple[Array, Array]]:
    """Yields the observations and next observations of each row, [envs, ...] each."""
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
    """Raises a LookupError or ValueError if arrays are missing or do not match each other."""
    shifted, chained, newest = stored["shifted"], stored["chained"], stored["newest"]
    if not shifted.dtype == chained.dtype == bool:
        raise ValueError("shifted and chained must be boolean")
    count, envs = shifted.shape
    channels = stored["full_obs"].shape[1]
    expected = {
        "newest": (count, envs, 1, *newest.shape[3:]),
        "chained": (count, envs),
        "full_obs": (int((~chained).sum()), channels, *newest.shape[3:]),
        "full_next": (int((~shifted).sum()), channels, *newest.shape[3:]),
    }
    for name in (*FrameReplayBuffer.fields, *stored.keys() - expected.keys() - {"shifted"}):
        expected[name] = (count, envs, *stored[name].shape[2:])
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {stored[name].shape}")
    if chained[:1].any():
        raise ValueError("the first row refers to a previous row")


def write_rows(buffer: FrameReplayBuffer, start: int, stored: Stored) -> None:
    """Writes encoded rows from row `start` on to the buffer, and moves its position to the end."""
    size = buffer.buffer_size
    stop = start + len(stored["shifted"])
    first = max(start, stop - size)
    for row, (obs, following) in enumerate(decode(stored), start):
        if row >= first:
            buffer.observations[row % size] = obs
            buffer.next_observations[row % size] = following
    index = np.arange(first, stop) % size
    for name in buffer.fields:
        getattr(buffer, name)[index] = stored[name][first - start :]
    buffer.pos = stop % size
    buffer.full = buffer.full or stop >= size


def save_chunk(path: Path, start: int, stored: Stored) -> None:
    """Writes encoded rows from row `start` on to a file, atomically.

    Raises:
        ValueError: An array has Python objects. NumPy before 2.2 would pickle them.
    """
    arrays: dict[str, Any] = {"start": np.array(start), **stored}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} has Python objects")

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, write)


def load_chunk(path: Path, limit: int = 2**31) -> tuple[int, Stored]:
    """Reads a chunk.

    Args:
        path: File of `save_chunk`.
        limit: Maximum size of the decompressed arrays in bytes.

    Returns:
        First row and encoded rows.
    """
    try:
        stored = read_arrays(path, limit)
        start = stored.pop("start")
        if start.shape or start.dtype.kind not in "iu" or not 0 <= start < _MAX_ROW:
            raise ValueError("invalid first row")
        _check(stored)
        return int(start), stored
    except (LookupError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged or not a replay chunk ({error})") from None


def save_buffer(path: Path, buffer: FrameReplayBuffer) -> None:
    """Writes a whole buffer as one chunk."""
    stop = buffer.pos + (buffer.buffer_size if buffer.full else 0)
    start = stop - buffer.size()
    save_chunk(path, start, encode(buffer, start, stop))


def load_buffer(path: Path, buffer: FrameReplayBuffer) -> tuple[int, int]:
    """Fills a buffer from one chunk.

    Returns:
        First row of the chunk and end of its rows, exclusive.

    Raises:
        DamagedFile: The file is damaged, or its arrays do not have the buffer's shapes and types.
    """
    # Size of the largest possible chunk: a full buffer without shared frames
    transitions = buffer.buffer_size * buffer.n_envs
    frames = 3 * int(np.prod(buffer.obs_shape)) * buffer.store.frames.itemsize
    rest = sum(getattr(buffer, name)[0, 0].nbytes for name in buffer.fields)
    limit = transitions * (frames + rest + 64) + 2**20
    start, stored = load_chunk(path, limit)
    shape = (stored["shifted"].shape[1], *stored["full_obs"].shape[1:])
    if shape != (wanted := buffer.observations.shape[1:]):
        raise DamagedFile(f"{path}: expected observations of shape {wanted}, got {shape}")
    for name in ("newest", "full_obs", "full_next"):
        if stored[name].dtype != (dtype := buffer.store.frames.dtype):
            raise DamagedFile(f"{path}: expected {name} of type {dtype}, got {stored[name].dtype}")
    for name in buffer.fields:
        expected, found = getattr(buffer, name), stored.get(name)
        if found is None or found.dtype != expected.dtype:
            raise DamagedFile(f"{path}: expected {name} of type {expected.dtype}")
        if found.shape[2:] != expected.shape[2:]:
            raise DamagedFile(f"{path}: {name} of shape {found.shape} does not fit the environment")
    write_rows(buffer, start, stored)
    return start, start + len(stored["shifted"])


class Journal:
    """Replay rows of the stages of a chain.

    Args:
        directories: Directory of each stage, from the first to the current one. Chunks are only
            written to the last directory.
    """

    def __init__(self, directories: Sequence[Path]):
        self.directories = list(directories)

    def append(self, buffer: FrameReplayBuffer, start: int, stop: int) -> None:
        """Writes the rows from start to stop that are in the buffer as one chunk."""
        if start == stop:
            return  # an empty chunk would replace the previous chunk, which ends at the same row
        start = max(start, stop - buffer.buffer_size)
        path = self.directories[-1] / f"{stop:012d}.npz"
        save_chunk(path, start, encode(buffer, start, stop))

    def restore(self, buffer: FrameReplayBuffer, stop: int) -> None:
        """Fills an empty buffer with the rows before `stop`, and deletes later chunks."""
        for chunk in self._chunks(self.directories[-1:]):
            if int(chunk.stem) > stop:
                chunk.unlink()
        filled = oldest = max(0, stop - buffer.buffer_size)
        for chunk in self._chunks(self.directories):
            if oldest < int(chunk.stem) <= stop:
                start, end = load_buffer(chunk, buffer)
                if start > filled:
                    break
                filled = end
        if filled != stop:
            raise DamagedFile(f"{self.directories[-1]} lacks the replay rows from {filled} on")

    def prune(self, buffer: FrameReplayBuffer, stop: int) -> None:
        """Deletes this stage's chunks that a buffer ending at row `stop` no longer needs."""
        for chunk in self._chunks(self.directories[-1:]):
            if int(chunk.stem) <= stop - buffer.buffer_size:
                chunk.unlink()

    @staticmethod
    def _chunks(directories: Sequence[Path]) -> list[Path]:
        found = [chunk for directory in directories for chunk in directory.glob("[0-9]*.npz")]
        return sorted(found, key=lambda chunk: int(chunk.stem))
