"""The one door to the data sets."""

import difflib
from pathlib import Path

from snn_rl.images.data.cifar import CIFARS, SIDE, open_cifar
from snn_rl.images.data.imagenet import open_imagenet
from snn_rl.images.data.splits import PIXELS, Dataset, Split
from snn_rl.utils.errors import UserError

__all__ = ["DATASETS", "PIXELS", "Dataset", "Split", "open_dataset"]

DATASETS = ("cifar10", "cifar100", "imagenet")


def open_dataset(
    name: str, path: Path, image_size: int | None = None, limit: int | None = None
) -> Dataset:
    """Opens a data set that lies in a folder.

    CIFAR is read whole into memory, as the official Python or binary files or as lossless
    mosaics. ImageNet is listed, from one folder per class or from parquet files, and decoded
    while it is used. `images.data.cifar` and `images.data.imagenet` describe the layouts.

    Args:
        name: One of `DATASETS`.
        path: The folder.
        image_size: Height and width of the images in a batch, for ImageNet; 224 if not given.
            CIFAR's have 32.
        limit: Keeps only this many training images, with as equal a number per class as
            possible, always the same ones; the test images stay all (except those of a folder
            where they are the training images, `Dataset.test_is_train`). For short runs.

    Raises:
        UserError: There is no such data set, or the folder is not what it should be.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(DATASETS)}"
        raise UserError(f"unknown dataset={name}: {hint}")
    if name not in CIFARS:
        return open_imagenet(path, image_size, limit)
    if image_size not in (None, SIDE):
        raise UserError(f"image_size={image_size}: the images of {name} have {SIDE}; leave it out")
    return open_cifar(name, path, limit)
