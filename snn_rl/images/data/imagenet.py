"""ImageNet and its like: images of all sizes, decoded while they are needed."""

import io
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from snn_rl.images.data.folders import Folders
from snn_rl.images.data.parquet import Parquet
from snn_rl.images.data.splits import Dataset, Split, check_labels, first_balanced
from snn_rl.utils.errors import UserError

SIZE = 224
# Of ImageNet's training images, as torchvision's models and PyTorch's ImageNet example use them
# (https://github.com/pytorch/examples/blob/main/imagenet/main.py)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Random resized crop of Szegedy et al., Going deeper with convolutions (2014), section 6
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10
SHORT_SIDE = 256 / 224  # of the test images before their centre crop
AHEAD = 3  # batches that are decoded before they are asked for

_ORIGIN = (
    "get ILSVRC2012 from https://image-net.org and sort it into train/<class>/*.JPEG and "
    "val/<class>/*.JPEG there, or give a folder of the parquet files of "
    "https://huggingface.co/datasets/ILSVRC/imagenet-1k"
)


class Source(Protocol):
    """Encoded images and their labels, wherever they lie."""

    labels: Tensor

    def order(self, generator: Generator) -> Tensor:
        """A random order of the images."""

    def name(self, position: int) -> str:
        """What a message calls the image."""

    def read(self, position: int) -> bytes:
        """The encoded image."""


class DecodedSplit(Split):
    """A split whose images threads decode a few batches ahead.

    Args:
        source: Where the images are.
        image_size: Height and width of the images in a batch.
        workers: Number of threads (Pillow works outside Python's lock); they do not change
            what comes out.
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
        """A seed for each image's own generator, int64 [N]."""
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
        return self._normalise(pixels), self.labels[index]

    def _image(self, position: int, seed: int | None) -> NDArray[np.uint8]:
        """One image as it goes into the batch, uint8 [image_size, image_size, 3]."""
        data = self.source.read(position)
        try:
            with Image.open(io.BytesIO(data)) as file:
                image = file.convert("RGB")
        except Exception as error:  # whatever a decoder meets in damaged bytes
            reason = str(error) if str(error) and "BytesIO" not in str(error) else "not an image"
            raise UserError(f"{self.source.name(position)} is damaged: {reason}") from None
        if seed is None:
            return resized(image, centre_box(*image.size), self.image_size)
        random = np.random.default_rng(seed)
        pixels = resized(image, random_box(*image.size, random), self.image_size)
        return pixels[:, ::-1] if random.random() < 0.5 else pixels


def resized(image: Image.Image, box: tuple[float, ...], size: int) -> NDArray[np.uint8]:
    """A box (left, top, right, bottom) of an image, scaled to a square, uint8 [size, size, 3]."""
    scaled = image.resize((size, size), Image.Resampling.BILINEAR, box=box)  # type: ignore[arg-type]
    return np.asarray(scaled)


def centre_box(width: int, height: int) -> tuple[float, ...]:
    """What is left of an image scaled to 256/224 of the size and cropped in its centre."""
    side = min(width, height) / SHORT_SIDE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, random: np.random.Generator) -> tuple[int, ...]:
    """A random part of an image: 8 to 100 % of its area, 3:4 to 4:3 in shape.

    After ten boxes that do not fit: the largest in the centre with a shape in that range.
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
    """Lists ImageNet, or any images laid out like it; none is decoded yet.

    Three layouts: `path/train/<class>/` and `path/val/<class>/`; one folder per class in `path`
    itself, whose images are then both the training and the test images (`test_is_train`); and
    parquet files in `path` or `path/data` (train-*, and validation-*, val-* or test-*). The
    number of classes is that of the folders or labels, so a subset of ImageNet works too.

    Args:
        path: The folder.
        image_size: Height and width of the images in a batch; 224 if not given.
        limit: Keeps only this many training images, classes in equal number
            (`first_balanced`); where they are the test images too, those are limited with them.

    Raises:
        UserError: The folder is missing, incomplete, or laid out in another way.
    """
    size = SIZE if image_size is None else image_size
    if size < 1:
        raise UserError(f"image_size={size}: has to be at least 1")
    if not path.is_dir():
        raise UserError(f"no such folder: {path}; {_ORIGIN}")
    parquet = next((d for d in (path, path / "data") if any(d.glob("*.parquet"))), None)
    if parquet is not None:
        train, test, classes = _open_parquet(parquet)
    else:
        train, test, classes = _open_folders(path)
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


def _open_folders(path: Path) -> tuple[Any, Any, int]:
    """Training and test images and the number of classes; no test images: there is one folder."""
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
            f"{differing[0]} is in {where} only"
        )
    return train, test, len(train.classes)


def _open_parquet(path: Path) -> tuple[Any, Any, int]:
    """Training and test images and the number of classes."""
    found = [sorted(path.glob(f"{half}-*.parquet")) for half in ("train", "validation", "val")]
    # last, since the test images of Hugging Face's ImageNet have no labels
    found.append(sorted(path.glob("test-*.parquet")))
    tests = next((files for files in found[1:] if files), None)
    if not found[0] or not tests:
        missing = "validation-*, val-* or test-*" if found[0] else "train-*"
        raise UserError(f"{path} is incomplete: no {missing}.parquet")
    train, test = Parquet(found[0]), Parquet(tests)
    if len(train.labels) == 0:
        raise UserError(f"{path}: no image in train-*.parquet")
    classes = int(train.labels.max()) + 1
    check_labels(train.labels, classes, f"{path} (train)")
    check_labels(test.labels, classes, f"{path} ({tests[0].name.split('-')[0]})")
    return train, test, classes
