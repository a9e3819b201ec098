"""Datasets by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from snn_rl.images.data.cifar import CIFARS, SIDE, open_cifar
from snn_rl.images.data.imagenet import open_imagenet
from snn_rl.images.data.splits import PIXELS, Dataset, Split
from snn_rl.utils.errors import UserError, did_you_mean

__all__ = ["DATASETS", "PIXELS", "Dataset", "Split", "open_dataset"]


def _cifar(name: str, path: Path, image_size: int | None, limit: int | None) -> Dataset:
    if image_size not in (None, SIDE):
        raise UserError(f"image_size={image_size}: {name} has images of {SIDE}x{SIDE}")
    return open_cifar(name, path, limit)


DATASETS: dict[str, Callable[[Path, int | None, int | None], Dataset]] = {
    **{name: partial(_cifar, name) for name in CIFARS},
    "imagenet": open_imagenet,
}


def open_dataset(
    name: str, path: Path, image_size: int | None = None, limit: int | None = None
) -> Dataset:
    """Opens a dataset in a folder.

    CIFAR is read into memory, see `images.data.cifar` for the layouts. ImageNet is listed from
    class folders or parquet files and decoded during use, see `images.data.imagenet`.

    Args:
        name: Key of `DATASETS`.
        path: Path of the folder.
        image_size: Height and width of ImageNet's images in a batch; None: 224. CIFAR has 32.
        limit: Number of training images to keep, balanced over the classes, for short runs. The
            test images are not limited unless they are the training images
            (`Dataset.test_is_train`).
    """
    if name not in DATASETS:
        raise UserError(
            f"dataset={name}: must be one of {', '.join(DATASETS)}"
            f"{did_you_mean(name.lower(), DATASETS)}"
        )
    return DATASETS[name](path, image_size, limit)
