"""Datasets of two splits, and batches of normalized and augmented images."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from snn_rl.utils.errors import UserError

PAD = 4  # pixels on every side of a small image before its random crop
FINGERPRINT_IMAGES = 16


class Split(ABC):
    """Images and labels of the training or test part of a dataset.

    Args:
        labels: Labels, int64 [N].
        mean: Mean of each channel over the training images, for pixels in [0, 1], [3].
        std: Standard deviation of each channel, [3].

    Attributes:
        labels: Labels in the order of the images, int64 [N], on the CPU.
        device: Device of the batches.
    """

    def __init__(self, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.labels = labels
        self.device = torch.device("cpu")
        self.normalize_by(mean, std)

    def normalize_by(self, mean: Tensor, std: Tensor) -> None:
        """Sets the mean and standard deviation of the channels, [3] each."""
        self._scale = (1 / (255 * std)).to(self.device)
        self._shift = (-mean / std).to(self.device)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Returns a text that identifies the split by all labels and 16 of its images."""
        count = len(self)
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for place in range(min(count, FINGERPRINT_IMAGES)):
            digest.update(self._stored(place * count // min(count, FINGERPRINT_IMAGES)))
        classes = len(self.labels.unique())
        return f"{count} images of {classes} classes, {digest.hexdigest()[:16]}"

    def batches(
        self,
        batch_size: int,
        *,
        generator: Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
        limit: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Returns an iterator over all images, once, in batches.

        All random numbers of the pass are drawn in this call. The same generator state therefore
        gives the same images in the same order, independent of the batch size, the number of
        workers and other draws during the pass.

        Args:
            batch_size: Number of images in a batch; the last batch may have fewer.
            generator: CPU generator for the order and the augmentation; None: images in order.
            augment: True if images are randomly cropped and flipped; needs a generator.
            drop_last: True if an incomplete last batch is dropped.
            limit: Number of images, see `first_balanced`; only without a generator.
            shard: (k, n) reads only part k, counted from 0, of n parts of each batch. The other
                parts are read by other processes with the same generator state. Parts differ in
                size if n does not divide the batch; empty parts are skipped.

        Yields:
            Normalized images, float32 [B, 3, H, W] in channels_last memory format, and labels,
            int64 [B], both on `device`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if augment and generator is None:
            raise ValueError("augment=True needs a generator")
        if drop_last and batch_size > len(self):
            raise UserError(
                f"the dataset has {len(self)} images, fewer than one batch of {batch_size}: use a "
                "smaller batch or more images"
            )
        if limit is not None and generator is not None:
            raise ValueError("limit cannot be combined with a generator")
        order = first_balanced(self.labels, limit) if generator is None else self._order(generator)
        draws = self._draw(generator) if augment and generator is not None else None
        kept = len(order) // batch_size * batch_size if drop_last else len(order)
        # to the device in one copy: a copy for each batch would wait for the step before it
        rows = _parts(order[:kept].to(self.device), batch_size, shard)
        if draws is None:
            return self._read(rows, None)
        return self._read(rows, _parts(draws[:kept].to(self.device), batch_size, shard))

    def _order(self, generator: Generator) -> Tensor:
        """Draws a random order of all images, int64 [N]."""
        return torch.randperm(len(self), generator=generator)

    @abstractmethod
    def _stored(self, position: int) -> bytes:
        """Returns the stored bytes of an image."""

    @abstractmethod
    def _draw(self, generator: Generator) -> Tensor:
        """Draws the random numbers for the augmentation of one pass, [N, ...]."""

    @abstractmethod
    def _read(
        self, rows: Sequence[Tensor], draws: Sequence[Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches of images at these positions, augmented by these draws."""

    def _normalize(self, images: Tensor) -> Tensor:
        """Returns uint8 [B, H, W, 3] as normalized float32 [B, 3, H, W] in channels_last format."""
        batch, height, width, channels = images.shape
        # By lines, because a broadcast over an inner dimension of 3 is far slower
        lines = images.reshape(batch * height, width * channels).float()
        lines = torch.addcmul(self._shift.repeat(width), lines, self._scale.repeat(width))
        return lines.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _parts(values: Tensor, batch_size: int, shard: tuple[int, int]) -> list[Tensor]:
    """Returns the non-empty parts of all batches that belong to a shard."""
    number, count = shard
    parts = [batch.tensor_split(count)[number] for batch in values.split(batch_size)]
    return [part for part in parts if len(part)]


class MemorySplit(Split):
    """A split whose images are in memory, on the CPU or on a GPU.

    Args:
        images: Images, uint8 [N, H, W, 3].
        labels: Labels, int64 [N].
        mean: Mean of each channel, [3].
        std: Standard deviation of each channel, [3].
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__(labels, mean, std)
        self.images = images
        self._labels = labels

    def to(self, device: torch.device) -> None:
        """Moves images and labels to a device, where batches are cropped and normalized.

        Random numbers still come from CPU generators, so the crops do not depend on the device.
        """
        self.device = device
        self.images = self.images.to(device)
        self._labels = self.labels.to(device)
        self._scale, self._shift = self._scale.to(device), self._shift.to(device)

    def _stored(self, position: int) -> bytes:
        return self.images[position].cpu().numpy().tobytes()

    def _draw(self, generator: Generator) -> Tensor:
        """Draws top and left of the crop in the padded image, and 1 for a flip, [N, 3]."""
        size = (len(self), 1)
        corners = torch.randint(0, 2 * PAD + 1, (len(self), 2), generator=generator)
        return torch.cat([corners, torch.randint(0, 2, size, generator=generator)], dim=1)

    def _read(
        self, rows: Sequence[Tensor], draws: Sequence[Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for i, index in enumerate(rows):
            images = self.images[index]
            if draws is not None:
                images = crop_and_flip(images, *draws[i].unbind(1))
            yield self._normalize(images), self._labels[index]


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Pads a batch by 4 black pixels, crops it to its previous size and mirrors it.

    The padding is 0 before the normalization, as in torchvision's `RandomCrop(32, padding=4)`
    before `ToTensor`.

    Args:
        images: Images, uint8 [B, H, W, 3].
        top: First row of each crop in the padded image, 0 to 8, int64 [B].
        left: First column of each crop, 0 to 8, int64 [B].
        flip: Nonzero for images that are mirrored left to right, [B].

    Returns:
        Crops, uint8 [B, H, W, 3].
    """
    batch, height, width, channels = images.shape
    padded = images.new_zeros(batch, height + 2 * PAD, width + 2 * PAD, channels)
    padded[:, PAD:-PAD, PAD:-PAD] = images
    # A view of all possible crops, [B, top, left, row, pixels of the row]
    crops = padded.flatten(2).unfold(1, height, 1).unfold(2, width * channels, channels)
    rows = torch.arange(batch, device=images.device)
    chosen = crops[rows, top, left].view(batch, height, width, channels)
    # not by the indices of the mirrored images: a GPU would have to wait for their number
    return chosen.flip(2).where(flip.bool().view(-1, 1, 1, 1), chosen)


@dataclass(frozen=True)
class Dataset:
    """An opened dataset."""

    name: str  # name of the dataset
    classes: int  # number of classes; labels are 0 to classes - 1
    image_shape: tuple[int, int, int]  # (channels, height, width) of an image in a batch
    mean: Tensor  # mean of each channel over the training images, for pixels in [0, 1], float32 [3]
    std: Tensor  # standard deviation of each channel, float32 [3]
    train: Split  # training images
    test: Split  # images on which accuracy is measured
    # True if the test images are the training images because the folder has no others. Accuracy on
    # them does not measure generalization.
    test_is_train: bool = False


def standard(dataset: Dataset) -> Dataset:
    """Returns the dataset as opened: mean 0 and standard deviation 1 over the training images."""
    return dataset


def symmetric(dataset: Dataset) -> Dataset:
    """Returns the dataset with pixels from -1 (black) to 1 (white), for Poisson encoding.

    Poisson rates are clipped at 1, and `standard` pixels exceed 2.
    """
    half = torch.full_like(dataset.mean, 0.5)
    for split in (dataset.train, dataset.test):
        split.normalize_by(half, half)
    return replace(dataset, mean=half, std=half)


PIXELS = {"standard": standard, "symmetric": symmetric}


def first_balanced(labels: Tensor, limit: int | None) -> Tensor:
    """Selects the positions of `limit` images in a fixed order that is balanced over the classes.

    Round k of the order takes the k-th image of every class, in the order of the dataset. The
    numbers per class differ by at most 1 while no class is exhausted, and the images of a smaller
    limit are a subset of those of a larger one. Without a limit all images keep their order.
    """
    if limit is None:
        return torch.arange(len(labels))
    if not 1 <= limit <= len(labels):
        raise UserError(f"limit={limit}: must be from 1 to {len(labels)}, the number of images")
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    turn = torch.empty_like(labels)
    turn[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return turn.argsort(stable=True)[:limit]


def check_labels(labels: Tensor, classes: int, where: str) -> None:
    """Raises a UserError unless the labels are 0 to classes - 1 and every class has an image."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(f"{where}: label {int(wrong[0])} is out of range 0 to {classes - 1}")
    present = labels.unique()
    if len(present) != classes:
        # the first gap in the sorted labels
        gaps = (present != torch.arange(len(present))).nonzero()
        missing = int(gaps[0]) if len(gaps) else len(present)
        raise UserError(
            f"{where}: only {len(present)} of {classes} classes have images; class {missing} "
            "has none"
        )
