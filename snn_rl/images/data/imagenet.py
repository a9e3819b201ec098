"""ImageNet and similar datasets: images of any size, decoded during use."""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from snn_rl.images.data.decoding import decode
from snn_rl.images.data.folders import Folders
from snn_rl.images.data.parquet import Parquet
from snn_rl.images.data.splits import Dataset, Split, check_labels, first_balanced
from snn_rl.utils.errors import UserError

SIZE = 224
# Statistics of ImageNet's training images, as in torchvision and PyTorch's ImageNet example
# (https://github.com/pytorch/examples/blob/main/imagenet/main.py)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Random resized crop: Szegedy et al., Going deeper with convolutions (2014), section 6
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10
SHORT_SIDE = 256 / 224  # of a test image, relative to its center crop
AHEAD = 3  # batches decoded in advance

_ORIGIN = (
    "download ILSVRC2012 from https://image-net.org to train/<class>/*.JPEG and "
    "val/<class>/*.JPEG there, or use a folder with the parquet files of "
    "https://huggingface.co/datasets/ILSVRC/imagenet-1k"
)


Source = Folders | Parquet


class DecodedSplit(Split):
    """A split whose images are decoded by threads a few batches in advance.

    Args:
        source: Source of the images.
        image_size: Height and width of the images in a batch.
        workers: Number of threads, without effect on the results; None: one per core. Pillow
            decodes without holding Python's lock.
    """

    def __init__(self, source: Source, image_size: int, workers: int | None = None) -> None:
        super().__init__(source.labels, torch.tensor(MEAN), torch.tensor(STD))
        self.source = source
        self.image_size = image_size
        self.workers = workers or os.cpu_count() or 1

    def _order(self, generator: Generator) -> Tensor:
        return self.source.order(generator)

    def _stored(self, position: int) -> bytes:
        return self.source.read(position)

    def _draw(self, generator: Generator) -> Tensor:
        """Draws a seed for the generator of each image, int64 [N]."""
        return torch.randint(0, 2**63 - 1, (len(self),), generator=generator)

    def _read(
        self, rows: Sequence[Tensor], draws: Sequence[Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        waiting: deque[tuple[Tensor, list[Future[NDArray[np.uint8]]]]] = deque()
        try:
            for i, index in enumerate(rows):
                seeds = [None] * len(index) if draws is None else draws[i].tolist()
                jobs = zip(index.tolist(), seeds, strict=True)
                waiting.append((index, [pool.submit(self._image, *job) for job in jobs]))
                if len(waiting) > AHEAD:
                    yield self._batch(*waiting.popleft())
            while waiting:
                yield self._batch(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(
        self, index: Tensor, images: list[Future[NDArray[np.uint8]]]
    ) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.stack([image.result() for image in images]))
        return self._normalize(pixels), self.labels[index]

    def _image(self, position: int, seed: int | None) -> NDArray[np.uint8]:
        """Returns an image of a batch, uint8 [image_size, image_size, 3]."""
        image = decode(self.source.read(position), self.source.name(position))
        if seed is None:
            return resized(image, center_box(*image.size), self.image_size)
        random = np.random.default_rng(seed)
        pixels = resized(image, random_box(*image.size, random), self.image_size)
        return pixels[:, ::-1] if random.random() < 0.5 else pixels


def resized(image: Image.Image, box: tuple[float, ...], size: int) -> NDArray[np.uint8]:
    """Scales a box (left, top, right, bottom) of an image to uint8 [size, size, 3]."""
    scaled = image.resize((size, size), Image.Resampling.BILINEAR, box=box)  # type: ignore[arg-type]
    return np.asarray(scaled)


def center_box(width: int, height: int) -> tuple[float, ...]:
    """Returns the box that an image scaled to 256/224 of the size keeps in a center crop."""
    side = min(width, height) / SHORT_SIDE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, random: np.random.Generator) -> tuple[int, ...]:
    """Draws a box with 8 to 100 % of an image's area and an aspect ratio of 3:4 to 4:3.

    After ten boxes that do not fit, returns the largest central box with such an aspect ratio.
    """
    for _ in range(TRIES):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers([width - w + 1, height - h + 1]).tolist()
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def open_imagenet(path: Path, image_size: int | None = None, limit: int | None = None) -> Dataset:
    """Lists the images of ImageNet, of a subset, or of another dataset in the same layout.

    There are three layouts:

    - `path/train/<class>/` and `path/val/<class>/`.
    - One folder per class in `path`. The images are both the training and the test images
      (`test_is_train`).
    - Parquet files in `path` or `path/data` (train-*, and validation-*, val-* or test-*).

    Args:
        path: Path of the folder.
        image_size: Height and width of the images in a batch; None: 224.
        limit: Number of training images to keep, balanced over the classes
            (`first_balanced`). If they are the test images too, both are limited.
    """
    size = SIZE if image_size is None else image_size
    if size < 1:
        raise UserError(f"image_size={size}: must be at least 1")
    if not path.is_dir():
        raise UserError(f"no such folder: {path}; {_ORIGIN}")
    parquet = next((d for d in (path, path / "data") if any(d.glob("*.parquet"))), None)
    opened = _open_folders(path) if parquet is None else _open_parquet(parquet)
    train, test, classes = opened
    limited = train if limit is None else train.keep(first_balanced(train.labels, limit))
    return Dataset(
        "imagenet",
        classes,
        (3, size, size),
        torch.tensor(MEAN),
        torch.tensor(STD),
        train=DecodedSplit(limited, size),
        test=DecodedSplit(test or limited, size),
        test_is_train=test is None,
    )


def _open_folders(path: Path) -> tuple[Source, Source | None, int]:
    """Returns training and test images (None if there is one folder) and the number of classes."""
    halves = [path / "train", path / "val"]
    if not any(half.is_dir() for half in halves):
        single = Folders.find(path)
        return single, None, len(single.classes)
    for half in halves:
        if not half.is_dir():
            raise UserError(f"{path} is incomplete: no folder {half.name}")
    train, test = (Folders.find(half) for half in halves)
    differing = sorted(set(train.classes) ^ set(test.classes))
    if differing:
        where = "train" if differing[0] in train.classes else "val"
        raise UserError(
            f"{path}: train has {len(train.classes)} classes and val {len(test.classes)}; "
            f"{differing[0]} is only in {where}"
        )
    return train, test, len(train.classes)


def _open_parquet(path: Path) -> tuple[Source, Source | None, int]:
    """Returns training and test images and the number of classes."""
    found = [sorted(path.glob(f"{half}-*.parquet")) for half in ("train", "validation", "val")]
    # Last, because the test images of Hugging Face's ImageNet have no labels
    found.append(sorted(path.glob("test-*.parquet")))
    tests = next((files for files in found[1:] if files), None)
    if not found[0] or not tests:
        missing = "validation-*, val-* or test-*" if found[0] else "train-*"
        raise UserError(f"{path} is incomplete: no {missing}.parquet")
    train, test = Parquet(found[0]), Parquet(tests)
    if len(train.labels) == 0:
        raise UserError(f"{path}: train-*.parquet has no image")
    classes = int(train.labels.max()) + 1
    check_labels(train.labels, classes, f"{path} (train)")
    check_labels(test.labels, classes, f"{path} ({tests[0].name.split('-')[0]})")
    return train, test, classes
