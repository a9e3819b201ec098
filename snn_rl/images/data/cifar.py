"""CIFAR-10 and CIFAR-100 from the official binary files or from lossless mosaics.

Source of the layouts: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. The official
Python version consists of pickles, which can run code and are not read.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.files.archive import read_arrays, read_bytes
from snn_rl.images.data.decoding import MAX_FILE, decode
from snn_rl.images.data.splits import Dataset, MemorySplit, check_labels, first_balanced
from snn_rl.utils.errors import UserError

SIDE = 32
_PIXELS = 3 * SIDE * SIDE
_MAX_LABELS = 2**20  # bytes of a file of labels
_Pixels = NDArray[np.uint8]


class Layout(NamedTuple):
    """Names of the folder and its files of training images (in order), test images and labels."""

    folder: str
    train: tuple[str, ...]
    test: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cifar:
    """Constants of a CIFAR dataset."""

    title: str  # name of the dataset in messages
    classes: int  # number of classes
    label_bytes: int  # bytes before each image in the binary files; the last is the (fine) label
    train_images: int  # number of images in each file of training images
    test_images: int  # number of images in the file of test images
    archive: str  # URL of the official archive of the binary files
    sha256: str  # checksum of the archive, as recorded by TensorFlow Datasets
    python: str  # a file of the official Python version, which is not supported
    layouts: tuple[Layout, ...]  # supported layouts


def _read_binary(file: Path, cifar: Cifar, expected: int) -> tuple[_Pixels, NDArray[Any]]:
    record = cifar.label_bytes + _PIXELS
    content = np.frombuffer(read_bytes(file, 2 * expected * record), np.uint8)
    if len(content) % record:
        raise UserError(
            f"{file} is truncated or not a file of {cifar.title}: {len(content)} bytes are not a "
            f"multiple of the record size {record}"
        )
    records = content.reshape(-1, record)
    planes = records[:, cifar.label_bytes :].reshape(-1, 3, SIDE, SIDE)
    return planes.transpose(0, 2, 3, 1), records[:, cifar.label_bytes - 1]


def _read_mosaic(file: Path) -> tuple[_Pixels, NDArray[Any]]:
    mosaic = np.asarray(decode(read_bytes(file, MAX_FILE), str(file)))
    if mosaic.shape[0] != mosaic.shape[1] or mosaic.shape[0] % SIDE:
        raise UserError(
            f"{file} is {mosaic.shape[1]}x{mosaic.shape[0]}, not a square grid of 32x32 images"
        )
    count = mosaic.shape[0] // SIDE
    tiles = mosaic.reshape(count, SIDE, count, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, SIDE, SIDE, 3), _mosaic_labels(file, count**2)


def _mosaic_labels(file: Path, count: int) -> NDArray[Any]:
    """Returns the labels of a mosaic, assuming that all mosaics have the same number of images."""
    source = file.parent / "labels.npz"
    split, _, number = file.stem.partition("_")
    start = (int(number or 1) - 1) * count
    labels = read_arrays(source, _MAX_LABELS).get(split, np.empty(0))[start : start + count]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != count:
        raise UserError(f"{source}: {split} does not have an integer per image of {file.name}")
    return labels


CIFARS = {
    "cifar10": Cifar(
        title="CIFAR-10",
        classes=10,
        label_bytes=1,
        train_images=10_000,
        test_images=10_000,
        archive="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        python="cifar-10-batches-py/data_batch_1",
        layouts=(
            Layout(
                "cifar-10-batches-bin",
                tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                "test_batch.bin",
            ),
            Layout(
                "cifar10",
                tuple(f"train_{i}.webp" for i in range(1, 6)),
                "test.webp",
                ("labels.npz",),
            ),
        ),
    ),
    "cifar100": Cifar(
        title="CIFAR-100",
        classes=100,
        label_bytes=2,
        train_images=50_000,
        test_images=10_000,
        archive="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        python="cifar-100-python/train",
        layouts=(Layout("cifar-100-binary", ("train.bin",), "test.bin"),),
    ),
}


def open_cifar(name: str, path: Path, limit: int | None = None) -> Dataset:
    """Reads CIFAR-10 or CIFAR-100 into memory.

    Args:
        name: Key of `CIFARS`.
        path: Folder of the files, or its parent.
        limit: Number of training images to keep, balanced over the classes
            (`first_balanced`). Mean and standard deviation are those of all training images.
    """
    cifar = CIFARS[name]
    folder, layout = _find(path, cifar)
    parts = [_read_file(folder / file, cifar, cifar.train_images) for file in layout.train]
    images = torch.cat([part[0] for part in parts])
    labels = torch.cat([part[1] for part in parts])
    test_images, test_labels = _read_file(folder / layout.test, cifar, cifar.test_images)
    check_labels(labels, cifar.classes, f"{folder} (training images)")
    check_labels(test_labels, cifar.classes, f"{folder} (test images)")
    mean, std = channel_statistics(images)
    kept = first_balanced(labels, limit)
    return Dataset(
        name,
        cifar.classes,
        (3, SIDE, SIDE),
        mean,
        std,
        train=MemorySplit(images if limit is None else images[kept], labels[kept], mean, std),
        test=MemorySplit(test_images, test_labels, mean, std),
    )


def _find(path: Path, cifar: Cifar) -> tuple[Path, Layout]:
    """Returns the folder with the files and their layout, preferring a complete layout."""
    origin = f"unpack {cifar.archive} to {path / cifar.layouts[0].folder}"
    if not path.is_dir():
        raise UserError(f"no such folder: {path}; {origin}")
    incomplete = ""
    for layout in cifar.layouts:
        for folder in (path, path / layout.folder):
            files = (*layout.train, layout.test, *layout.labels)
            missing = [file for file in files if not (folder / file).is_file()]
            if not missing:
                return folder, layout
            if len(missing) < len(files):
                incomplete = incomplete or f"{folder} is incomplete: no {', '.join(missing)}"
    if (path / cifar.python).is_file() or (path / Path(cifar.python).name).is_file():
        raise UserError(f"{path} has the Python version of {cifar.title}, not the binary; {origin}")
    raise UserError(incomplete or f"{path} does not contain {cifar.title}; {origin}")


def _read_file(file: Path, cifar: Cifar, expected: int) -> tuple[Tensor, Tensor]:
    """Returns images uint8 [N, 32, 32, 3] and labels int64 [N] of a file."""
    is_mosaic = file.suffix == ".webp"
    images, labels = _read_mosaic(file) if is_mosaic else _read_binary(file, cifar, expected)
    if len(images) != expected:
        raise UserError(f"{file} has {len(images)} images, but {cifar.title} has {expected}")
    return torch.from_numpy(images.copy(order="C")), torch.from_numpy(labels.astype(np.int64))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and standard deviation of each channel, computed from histograms.

    The images are uint8 [N, H, W, 3], and the results, for pixels in [0, 1], float32 [3] each.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = [channel.flatten().bincount(minlength=256) for channel in images.unbind(-1)]
    shares = torch.stack(counts).double() / math.prod(images.shape[:-1])
    mean = shares @ values
    std = (shares * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), std.float()
