"""CIFAR-10 and CIFAR-100 from the official files, or from lossless pictures of them.

Source of the layouts: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from snn_rl.images.data.restricted_pickle import read_pickle
from snn_rl.images.data.splits import Dataset, MemorySplit, check_labels, first_balanced
from snn_rl.utils.errors import UserError

SIDE = 32
_PIXELS = 3 * SIDE * SIDE
_Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """One way in which the files lie in a folder.

    Attributes:
        folder: The name that the folder usually has.
        train: Its files of training images, in order.
        test: Its file of test images.
        read: Reads one of the files: images [N, 32, 32, 3] and labels [N].
        labels: The file of all labels, where they are apart.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    read: Callable[[Path, "Cifar"], tuple[_Pixels, NDArray[Any]]]
    labels: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All the files that must be there."""
        return (*self.train, self.test, *([self.labels] if self.labels else []))


@dataclass(frozen=True)
class Cifar:
    """What is fixed about one of the two data sets.

    Attributes:
        title: Its name in prose.
        classes: Number of classes.
        label_bytes: Bytes before each image in the binary version; the last is the (fine) label.
        label_key: Name of the labels in the Python version.
        train_images: Images in each file of training images.
        test_images: Images in the file of test images.
        archive: The official archive of the binary version.
        md5: Its checksum, from the official page.
        layouts: The layouts that are read.
    """

    title: str
    classes: int
    label_bytes: int
    label_key: str
    train_images: int
    test_images: int
    archive: str
    md5: str
    layouts: tuple[Layout, ...]


def _read_python(file: Path, cifar: Cifar) -> tuple[_Pixels, NDArray[Any]]:
    content = read_pickle(file)
    for key in ("data", cifar.label_key):
        if key not in content:
            raise UserError(f"{file} holds no {key}: it is no batch of {cifar.title}")
    data, labels = content["data"], content[cifar.label_key]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise UserError(f"{file}: data is no array of unsigned bytes [images, {_PIXELS}]")
    known = range(cifar.classes)
    if not isinstance(labels, list) or any(
        type(label) is not int or label not in known for label in labels
    ):
        raise UserError(f"{file}: {cifar.label_key} is no list of numbers 0 to {known[-1]}")
    if len(labels) != len(data):
        raise UserError(f"{file} holds {len(data)} images and {len(labels)} labels")
    return _planes(data), np.array(labels)


def _read_binary(file: Path, cifar: Cifar) -> tuple[_Pixels, NDArray[Any]]:
    content = np.frombuffer(file.read_bytes(), np.uint8)
    record = cifar.label_bytes + _PIXELS
    if len(content) % record:
        raise UserError(
            f"{file} is truncated or not {cifar.title}'s: its {len(content)} bytes are no whole "
            f"number of records of {record}"
        )
    records = content.reshape(-1, record)
    return _planes(records[:, cifar.label_bytes :]), records[:, cifar.label_bytes - 1]


def _planes(data: _Pixels) -> _Pixels:
    """A red, a green and a blue plane per image, [N, 3072], to [N, 32, 32, 3]."""
    return data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _read_mosaic(file: Path, cifar: Cifar) -> tuple[_Pixels, NDArray[Any]]:
    try:
        with Image.open(file) as picture:
            mosaic = np.asarray(picture.convert("RGB"))
    except Exception as error:  # whatever a decoder meets in damaged bytes
        raise UserError(f"{file} is damaged or no picture ({error})") from None
    if mosaic.shape[0] != mosaic.shape[1] or mosaic.shape[0] % SIDE:
        raise UserError(f"{file} is {mosaic.shape[1]}x{mosaic.shape[0]}: no square of 32x32 images")
    count = mosaic.shape[0] // SIDE
    tiles = mosaic.reshape(count, SIDE, count, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(-1, SIDE, SIDE, 3), _mosaic_labels(file, count**2)


def _mosaic_labels(file: Path, count: int) -> NDArray[Any]:
    """The labels of one mosaic: all mosaics hold equally many images."""
    source = file.parent / "labels.npz"
    split, _, number = file.stem.partition("_")
    start = (int(number or 1) - 1) * count
    try:
        with np.load(source, allow_pickle=False) as arrays:
            labels = arrays[split][start : start + count]
    except Exception as error:  # a damaged archive raises whatever its parts do
        raise UserError(f"{source} is damaged or holds no {split} ({error})") from None
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != count:
        raise UserError(f"{source}: {split} holds no whole number for each image of {file.name}")
    return labels  # type: ignore[no-any-return]


_FIVE = range(1, 6)
CIFARS = {
    "cifar10": Cifar(
        title="CIFAR-10",
        classes=10,
        label_bytes=1,
        label_key="labels",
        train_images=10_000,
        test_images=10_000,
        archive="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        layouts=(
            Layout(
                "cifar-10-batches-bin",
                tuple(f"data_batch_{i}.bin" for i in _FIVE),
                "test_batch.bin",
                _read_binary,
            ),
            Layout(
                "cifar-10-batches-py",
                tuple(f"data_batch_{i}" for i in _FIVE),
                "test_batch",
                _read_python,
            ),
            Layout(
                "cifar10",
                tuple(f"train_{i}.webp" for i in _FIVE),
                "test.webp",
                _read_mosaic,
                labels="labels.npz",
            ),
        ),
    ),
    "cifar100": Cifar(
        title="CIFAR-100",
        classes=100,
        label_bytes=2,
        label_key="fine_labels",
        train_images=50_000,
        test_images=10_000,
        archive="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        layouts=(
            Layout("cifar-100-binary", ("train.bin",), "test.bin", _read_binary),
            Layout("cifar-100-python", ("train",), "test", _read_python),
        ),
    ),
}


def open_cifar(name: str, path: Path, limit: int | None = None) -> Dataset:
    """Reads the whole of CIFAR-10 or CIFAR-100 into memory.

    Args:
        name: A key of `CIFARS`.
        path: The folder of the files, or the one that holds it.
        limit: Keeps only this many training images, classes in equal number
            (`first_balanced`); mean and std are still those of all of them.

    Raises:
        UserError: A file is missing, damaged, or not what it should be.
    """
    cifar = CIFARS[name]
    folder, layout = _find(path, cifar)
    parts = [_read_file(folder / file, layout, cifar, cifar.train_images) for file in layout.train]
    images = torch.cat([part[0] for part in parts])
    labels = torch.cat([part[1] for part in parts])
    test_images, test_labels = _read_file(folder / layout.test, layout, cifar, cifar.test_images)
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
    """The folder with the files, and their layout: a whole one before an incomplete one."""
    origin = (
        f"get {cifar.archive} and unpack it there, so that there is a folder "
        f"{path / cifar.layouts[0].folder}"
    )
    if not path.is_dir():
        raise UserError(f"no such folder: {path}; {origin}")
    incomplete = ""
    for layout in cifar.layouts:
        for folder in (path, path / layout.folder):
            missing = [file for file in layout.files if not (folder / file).is_file()]
            if not missing:
                return folder, layout
            if len(missing) < len(layout.files):
                incomplete = incomplete or f"{folder} is incomplete: no {', '.join(missing)}"
    raise UserError(incomplete or f"{path} does not hold {cifar.title}; {origin}")


def _read_file(file: Path, layout: Layout, cifar: Cifar, expected: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 32, 32, 3] and labels int64 [N] of one file."""
    try:
        images, labels = layout.read(file, cifar)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    if len(images) != expected:
        raise UserError(f"{file} holds {len(images)} images instead of {cifar.title}'s {expected}")
    return torch.from_numpy(images.copy(order="C")), torch.from_numpy(labels.astype(np.int64))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, exact to the last sum.

    Args:
        images: uint8 [N, H, W, 3].

    Returns:
        Two tensors, float32 [3], for pixels in [0, 1].
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = [channel.flatten().bincount(minlength=256) for channel in images.unbind(-1)]
    shares = torch.stack(counts).double() / math.prod(images.shape[:-1])
    mean = shares @ values
    std = (shares * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), std.float()
