"""Replay buffer on disk: reading restores it exactly or raises an error."""

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from snn_rl.agents import FrameReplayBuffer
from snn_rl.agents.replay.journal import (
    Journal,
    Stored,
    decode,
    encode,
    load_buffer,
    load_chunk,
    save_buffer,
    save_chunk,
)
from snn_rl.utils.errors import UserError

ENVS, SIZE = 2, 20  # 20 rows of 2 environments
Rows = dict[str, NDArray[Any]]
FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def random_rows(rng: np.random.Generator, count: int, channels: int = 3) -> Rows:
    """Returns rows with and without redundant frames, in every combination.

    Pixels have two values only, so frames also repeat by chance.
    """
    image = (channels, 2, 2)

    def picture(*shape: int) -> NDArray[np.uint8]:
        return rng.integers(2, size=shape, dtype=np.uint8)

    obs = np.empty((count, ENVS, *image), np.uint8)
    following = np.empty_like(obs)
    for row in range(count):
        for env in range(ENVS):
            chained = row > 0 and rng.random() < 0.7
            obs[row, env] = following[row - 1, env] if chained else picture(*image)
            shifts = rng.random() < 0.7
            newest = picture(1, 2, 2)
            following[row, env] = (
                np.concatenate([obs[row, env, 1:], newest]) if shifts else picture(*image)
            )
    return {
        "observations": obs,
        "next_observations": following,
        "actions": rng.integers(6, size=(count, ENVS, 1)),
        "rewards": rng.normal(size=(count, ENVS)).astype(np.float32),
        "dones": (rng.random((count, ENVS)) < 0.2).astype(np.float32),
        "timeouts": (rng.random((count, ENVS)) < 0.1).astype(np.float32),
    }


def empty_buffer(channels: int = 3, size: int = SIZE) -> FrameReplayBuffer:
    box = spaces.Box(0, 255, (channels, 2, 2), np.uint8)
    return FrameReplayBuffer(size * ENVS, box, spaces.Discrete(6), device="cpu", n_envs=ENVS)


def fill(buffer: FrameReplayBuffer, rows: Rows) -> FrameReplayBuffer:
    for i in range(len(rows["dones"])):
        infos = [{"TimeLimit.truncated": bool(x)} for x in rows["timeouts"][i]]
        buffer.add(*(rows[name][i] for name in FIELDS[:5]), infos)
    return buffer


def encoded(rows: Rows) -> Stored:
    count, channels = rows["observations"].shape[0], rows["observations"].shape[2]
    return encode(fill(empty_buffer(channels, max(1, count)), rows), 0, count)


def assert_restores(stored: Stored, rows: Rows) -> None:
    pairs = list(decode(stored))
    assert len(pairs) == len(rows["dones"])
    for i, (obs, following) in enumerate(pairs):
        np.testing.assert_array_equal(obs, rows["observations"][i])
        np.testing.assert_array_equal(following, rows["next_observations"][i])
    for name in FIELDS[2:]:
        assert stored[name].dtype == rows[name].dtype
        np.testing.assert_array_equal(stored[name], rows[name], err_msg=name)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_decode_restores_omitted_frames(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, count=30, channels=channels)
    assert_restores(encoded(rows), rows)


@pytest.mark.parametrize("count", [0, 1])
def test_decode_restores_few_rows(count: int) -> None:
    rows = random_rows(np.random.default_rng(0), count)
    assert_restores(encoded(rows), rows)


def test_frame_stacks_are_stored_as_one_frame_per_step() -> None:
    frames = np.random.default_rng(0).integers(256, size=(50 + 4, ENVS, 2, 2), dtype=np.uint8)
    stacks = np.stack([frames[t : t + 4].swapaxes(0, 1) for t in range(51)])
    rows = random_rows(np.random.default_rng(0), 50)
    rows |= {"observations": stacks[:-1], "next_observations": stacks[1:]}
    stored = encoded(rows)
    assert len(stored["full_obs"]) == ENVS, "only the observations of the first row"
    assert len(stored["full_next"]) == 0
    assert_restores(stored, rows)


def test_load_chunk_reads_what_save_chunk_wrote(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(0), 30)
    save_chunk(tmp_path / "new" / "chunk.npz", 17, encoded(rows))
    start, loaded = load_chunk(tmp_path / "new" / "chunk.npz")
    assert start == 17
    assert_restores(loaded, rows)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["chunk.npz"]


# --- damage -----------------------------------------------------------------------------------


def test_chunk_truncated_at_any_length_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "chunk.npz"
    save_chunk(path, 0, encoded(random_rows(np.random.default_rng(0), 5)))
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"chunk\.npz"):
            load_chunk(path)


def test_flipped_bit_is_rejected_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "chunk.npz"
    rows = random_rows(np.random.default_rng(0), 5)
    save_chunk(path, 0, encoded(rows))
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            start, loaded = load_chunk(path)
        except UserError:
            refused += 1
        else:  # for example, a bit of a time stamp
            assert start == 0
            assert_restores(loaded, rows)
    assert refused > 300


def test_other_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "chunk.npz"
    with pytest.raises(UserError, match="no such file"):
        load_chunk(path)
    path.write_text("not an archive")
    with pytest.raises(UserError):
        load_chunk(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError):
        load_chunk(path)
    np.savez(path, something=np.zeros(3))
    with pytest.raises(UserError):
        load_chunk(path)


@pytest.mark.parametrize(
    "name", ["newest", "shifted", "chained", "full_obs", "full_next", "actions", "rewards"]
)
def test_arrays_of_different_lengths_are_rejected(tmp_path: Path, name: str) -> None:
    path = tmp_path / "chunk.npz"
    stored = encoded(random_rows(np.random.default_rng(0), 30))
    save_chunk(path, 0, stored | {name: stored[name][:-1]})
    with pytest.raises(UserError, match=r"chunk\.npz"):
        load_chunk(path)
    save_chunk(path, 0, {key: array for key, array in stored.items() if key != name})
    with pytest.raises(UserError, match=name):
        load_chunk(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start", np.zeros(2, np.int64)),
        ("start", np.array(-1)),
        ("start", np.array(2**63, np.uint64)),
        ("start", np.array("0")),
        ("shifted", np.float32),
        ("chained", np.uint8),
        ("newest", np.float64),
        ("full_obs", np.int64),
        ("rewards", np.complex64),
        ("dones", "M8[s]"),
        ("actions", "U1"),
    ],
    ids=str,
)
def test_arrays_of_other_types_are_rejected(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "chunk.npz"
    stored = {"start": np.array(0), **encoded(random_rows(np.random.default_rng(0), 5))}
    other = value if isinstance(value, np.ndarray) else np.zeros(stored[name].shape, value)
    np.savez(path, **(stored | {name: other}))
    with pytest.raises(UserError, match=r"chunk\.npz"):
        load_buffer(path, empty_buffer())


class Trap:
    """Object that sets `sprung` when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "chunk.npz"
    stored = encoded(random_rows(np.random.default_rng(0), 5))
    np.savez(path, start=np.array(0), **(stored | {"rewards": np.array([Trap()], object)}))
    with pytest.raises(UserError, match="damaged"):
        load_chunk(path)
    assert not Trap.sprung


def test_chunk_larger_than_its_buffer_is_rejected_without_decompression(tmp_path: Path) -> None:
    recorder = Recorder()
    journal = Journal([tmp_path])
    journal.append(recorder.buffer, *recorder.add(5))
    (chunk,) = tmp_path.iterdir()
    start, rows = load_chunk(chunk)
    rows["rewards"] = np.zeros((5, 2**21), np.float32)
    save_chunk(chunk, start, rows)
    assert chunk.stat().st_size < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=rf"{chunk.name} unpacks to 41,9"):
            journal.restore(empty_buffer(), recorder.count)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_objects_are_not_written(tmp_path: Path) -> None:
    stored = encoded(random_rows(np.random.default_rng(0), 5))
    stored["rewards"] = np.array([[Trap()] * ENVS] * 5, object)
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        save_chunk(tmp_path / "chunk.npz", 0, stored)
    assert list(tmp_path.iterdir()) == []


# --- buffers and journals ---------------------------------------------------------------------


class Recorder:
    """A buffer that is filled with random rows."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.buffer = empty_buffer()
        self.count = 0

    def add(self, count: int) -> tuple[int, int]:
        """Adds rows; returns their start and stop."""
        rows = random_rows(self.rng, count)
        fill(self.buffer, rows)
        self.count += count
        return self.count - count, self.count

    def state(self) -> Rows:
        return content(self.buffer)


def content(buffer: FrameReplayBuffer) -> Rows:
    arrays = {name: getattr(buffer, name)[: buffer.size()].copy() for name in FIELDS}
    return arrays | {"pos": np.array(buffer.pos), "full": np.array(buffer.full)}


def assert_same_buffer(buffer: FrameReplayBuffer, expected: Rows) -> None:
    for name, array in content(buffer).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("count", [1, SIZE - 1, SIZE, SIZE + 7, 2 * SIZE])
def test_load_buffer_reads_what_save_buffer_wrote(tmp_path: Path, count: int) -> None:
    recorder = Recorder()
    recorder.add(count)
    save_buffer(tmp_path / "buffer.npz", recorder.buffer)
    loaded = empty_buffer()
    load_buffer(tmp_path / "buffer.npz", loaded)
    assert_same_buffer(loaded, recorder.state())


def test_buffer_of_other_shapes_is_rejected(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.add(5)
    save_buffer(tmp_path / "buffer.npz", recorder.buffer)
    with pytest.raises(UserError, match="shape"):
        load_buffer(tmp_path / "buffer.npz", empty_buffer(channels=4))


@pytest.mark.parametrize("chunks", [[3], [4, 5, 6], [8, 8, 8, 8], [SIZE + 5, 3], [19, 1, 1, 45]])
def test_journal_restores_the_live_buffer(tmp_path: Path, chunks: list[int]) -> None:
    recorder = Recorder()
    journal = Journal([tmp_path / "ann"])
    for count in chunks:
        journal.append(recorder.buffer, *recorder.add(count))
        journal.prune(recorder.buffer, recorder.count)
        restored = empty_buffer()
        journal.restore(restored, recorder.count)
        assert_same_buffer(restored, recorder.state())


def test_journal_continues_in_the_next_stage(tmp_path: Path) -> None:
    first, second = tmp_path / "ann", tmp_path / "T5"
    recorder = Recorder()
    ann = Journal([first])
    for count in (6, 7):
        ann.append(recorder.buffer, *recorder.add(count))
    handed_on, at = recorder.state(), recorder.count
    before = sorted(first.iterdir())

    spiking = Journal([first, second])
    restored = empty_buffer()
    spiking.restore(restored, at)  # before the new stage writes
    assert_same_buffer(restored, handed_on)
    for count in (4, 5, 9, 12):  # overwrites all rows of the first stage
        spiking.append(recorder.buffer, *recorder.add(count))
        spiking.prune(recorder.buffer, recorder.count)
        restored = empty_buffer()
        spiking.restore(restored, recorder.count)
        assert_same_buffer(restored, recorder.state())
    assert sorted(first.iterdir()) == before, "a finished stage's chunks are unchanged"
    restored = empty_buffer()
    ann.restore(restored, at)
    assert_same_buffer(restored, handed_on)


@pytest.mark.parametrize("earlier", [5, 30])
def test_chunks_after_the_checkpoint_are_deleted(tmp_path: Path, earlier: int) -> None:
    recorder = Recorder()
    journal = Journal([tmp_path / "ann", tmp_path / "T5"])
    journal.append(recorder.buffer, *recorder.add(earlier))
    journal.prune(recorder.buffer, recorder.count)
    expected, at = recorder.state(), recorder.count
    # The process is killed after it wrote the rows and before it wrote the state.
    journal.append(recorder.buffer, *recorder.add(8))
    for _ in range(2):
        restored = empty_buffer()
        journal.restore(restored, at)
        assert_same_buffer(restored, expected)
    assert [int(chunk.stem) for chunk in (tmp_path / "T5").iterdir()] == [at]


def test_prune_deletes_overwritten_rows(tmp_path: Path) -> None:
    recorder = Recorder()
    journal = Journal([tmp_path])
    for _ in range(10):
        journal.append(recorder.buffer, *recorder.add(5))
        journal.prune(recorder.buffer, recorder.count)
    stops = sorted(int(chunk.stem) for chunk in tmp_path.iterdir())
    assert stops == [35, 40, 45, 50]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_chunk_is_an_error(tmp_path: Path, missing: int) -> None:
    recorder = Recorder()
    journal = Journal([tmp_path])
    for _ in range(3):
        journal.append(recorder.buffer, *recorder.add(5))
    sorted(tmp_path.iterdir())[missing].unlink()
    with pytest.raises(UserError, match="lacks"):
        journal.restore(empty_buffer(), recorder.count)


def test_empty_segment_writes_no_chunk(tmp_path: Path) -> None:
    recorder = Recorder()
    journal = Journal([tmp_path])
    journal.append(recorder.buffer, *recorder.add(5))
    journal.append(recorder.buffer, recorder.count, recorder.count)
    buffer = empty_buffer()
    journal.restore(buffer, recorder.count)
    assert np.array_equal(buffer.actions[:5], recorder.buffer.actions[:5])


def test_damaged_chunk_is_an_error(tmp_path: Path) -> None:
    recorder = Recorder()
    journal = Journal([tmp_path])
    journal.append(recorder.buffer, *recorder.add(5))
    (chunk,) = tmp_path.iterdir()
    chunk.write_bytes(chunk.read_bytes()[:-40])
    with pytest.raises(UserError, match=chunk.name):
        journal.restore(empty_buffer(), recorder.count)


def test_journal_can_be_moved(tmp_path: Path) -> None:
    recorder = Recorder()
    Journal([tmp_path / "here"]).append(recorder.buffer, *recorder.add(5))
    shutil.move(tmp_path / "here", tmp_path / "there")
    restored = empty_buffer()
    Journal([tmp_path / "there"]).restore(restored, recorder.count)
    assert_same_buffer(restored, recorder.state())
