"""Tiny CIFAR datasets in all layouts, and real data if present."""

import dataclasses
import os
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
    """Calls a function that must raise a one-line UserError, and returns its message."""

    def line(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        with pytest.raises(UserError) as caught:
            function(*args, **kwargs)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return line


class Tiny:
    """A CIFAR dataset of 16 (CIFAR-10) or 200 and 100 (CIFAR-100) random images per file."""

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
        """Writes the files in the layout "bin" or "mosaic"."""
        folder.mkdir(parents=True, exist_ok=True)
        for part, (images, labels) in self.files.items():
            if kind == "mosaic":
                side = 32 * int(len(images) ** 0.5)
                tiles = images.reshape(side // 32, side // 32, 32, 32, 3)
                mosaic = Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(side, side, 3))
                mosaic.save(folder / f"{part}.webp", lossless=True)
                continue
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            # CIFAR-100 has a coarse label, 0 to 19, before the fine one.
            coarse = [labels % 20] if self.cifar.classes == 100 else []
            columns = np.stack([*coarse, labels], axis=1).astype(np.uint8)
            content = np.hstack([columns, planes]).tobytes()
            (folder / self.file_name(part)).write_bytes(content)
        if kind == "mosaic":
            labels = {"train": self.train[1], "test": self.files["test"][1]}
            np.savez(folder / "labels.npz", **{k: v.astype(np.uint8) for k, v in labels.items()})
        return folder

    def file_name(self, part: str) -> str:
        """Returns the name of a binary file."""
        if self.cifar.classes == 100:
            return f"{part}.bin"
        return "test_batch.bin" if part == "test" else f"data_batch_{part[-1]}.bin"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tiny]:
    """Makes the readers expect tiny files, and returns the class that writes them."""
    small = {"cifar10": (16, 16), "cifar100": (200, 100)}
    for name, (train, test) in small.items():
        cifar = dataclasses.replace(CIFARS[name], train_images=train, test_images=test)
        monkeypatch.setitem(CIFARS, name, cifar)
    return Tiny
