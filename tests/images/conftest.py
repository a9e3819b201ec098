"""Tiny CIFARs in all their layouts, and real data where it is at hand."""

import dataclasses
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from snn_rl.images.data.cifar import CIFARS
from snn_rl.images.data.datasets import Dataset, open_dataset
from snn_rl.utils.errors import UserError

Write = Callable[[Path], None]
Files = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("SNN_RL_DATA", Path(__file__).parents[3] / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; SNN_RL_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def real_cifar10(real_data: Path) -> Dataset:
    return open_dataset("cifar10", real_data / "cifar10")


@pytest.fixture
def refused() -> Callable[..., str]:
    """Calls a function that has to fail with one line for the user, and returns the line."""

    def line(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        with pytest.raises(UserError) as caught:
            function(*args, **kwargs)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return line


class Tiny:
    """A CIFAR of 16 (CIFAR-10) or 200 and 100 (CIFAR-100) random images a file."""

    def __init__(self, name: str) -> None:
        self.cifar = CIFARS[name]
        random = np.random.default_rng(len(name))
        train = ("train",) if name == "cifar100" else tuple(f"train_{i}" for i in range(1, 6))
        self.files: Files = {}
        for part in (*train, "test"):
            count = self.cifar.test_images if part == "test" else self.cifar.train_images
            images = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
            self.files[part] = images, random.permutation(np.arange(count) % self.cifar.classes)

    @property
    def train(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images, labels = zip(*(self.files[p] for p in self.files if p != "test"), strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def write(self, kind: str, folder: Path) -> Path:
        """Writes the files in a layout, "bin", "py", "py3" or "mosaic"."""
        folder.mkdir(parents=True, exist_ok=True)
        for part, (images, labels) in self.files.items():
            if kind == "mosaic":
                side = 32 * int(len(images) ** 0.5)
                tiles = images.reshape(side // 32, side // 32, 32, 32, 3)
                mosaic = Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(side, side, 3))
                mosaic.save(folder / f"{part}.webp", lossless=True)
                continue
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            if kind == "bin":
                # the coarse label of CIFAR-100, 0 to 19, comes first
                coarse = [labels % 20] if self.cifar.classes == 100 else []
                columns = np.stack([*coarse, labels], axis=1).astype(np.uint8)
                content = np.hstack([columns, planes]).tobytes()
            else:
                key = "fine_labels" if self.cifar.classes == 100 else "labels"
                batch = {b"batch_label": b"one of 5", b"data": planes, key.encode(): labels}
                content = python2(batch)
            (folder / self.file_name(kind, part)).write_bytes(content)
        if kind == "mosaic":
            labels = {"train": self.train[1], "test": self.files["test"][1]}
            np.savez(folder / "labels.npz", **{k: v.astype(np.uint8) for k, v in labels.items()})
        return folder

    def file_name(self, kind: str, part: str) -> str:
        ending = ".bin" if kind == "bin" else ""
        if self.cifar.classes == 100:
            return part + ending
        return (part + "_batch" if part == "test" else f"data_batch_{part[-1]}") + ending


def python2(value: Any) -> bytes:
    """A pickle as Python 2 with NumPy 1 wrote it, in which the official files are."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: Any) -> bytes:
    """The instructions that put a value on the unpickler's stack."""
    match value:
        case None:
            return b"N"
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case int():
            return b"J" + struct.pack("<i", value)
        case tuple():
            return b"(" + b"".join(map(_pickled, value)) + b"t"
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case dict():
            pairs = (_pickled(key) + _pickled(item) for key, item in value.items())
            return b"}(" + b"".join(pairs) + b"u"
        case np.ndarray() if value.dtype == np.uint8:
            empty = b"(cnumpy\nndarray\n" + _pickled((0,)) + _pickled(b"b") + b"t"
            kind = b"cnumpy\ndtype\n" + _pickled((b"u1", 0, 1)) + b"R"
            kind += _pickled((3, b"|", None, None, None, -1, -1, 0)) + b"b"
            state = b"(" + _pickled(1) + _pickled(value.shape) + kind
            state += _pickled(0) + _pickled(value.tobytes()) + b"t"
            return b"cnumpy.core.multiarray\n_reconstruct\n" + empty + b"R" + state + b"b"
        case np.ndarray():
            return _pickled(value.tolist())
    raise TypeError(type(value))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tiny]:
    """Makes the readers expect tiny files, and makes such files."""
    small = {"cifar10": (16, 16), "cifar100": (200, 100)}
    for name, (train, test) in small.items():
        cifar = dataclasses.replace(CIFARS[name], train_images=train, test_images=test)
        monkeypatch.setitem(CIFARS, name, cifar)
    return Tiny
