"""What every data set gives: two splits, and batches of normalised images from each."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from snn_rl.utils.errors import UserError

PAD = 4  # pixels on every side before the random crop of a small image
LOOKED_AT = 16  # images that a fingerprint is taken of


class Split(ABC):
    """Images and labels of one half of a data set.

    Args:
        labels: int64 [N].
        mean: Mean of each channel over the training images, pixels in [0, 1], [3].
        std: Standard deviation of each channel, [3].

    Attributes:
        labels: int64 [N], in the order of the images.
    """

    def __init__(self, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.labels = labels
        self.normalise_by(mean, std)

    def normalise_by(self, mean: Tensor, std: Tensor) -> None:
        """Takes another mean and standard deviation of the channels, [3] each, from here on."""
        self._scale = 1 / (255 * std)
        self._shift = -mean / std

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """What tells these images from others, cheaply: of all labels and of a few images.

        Raises:
            UserError: An image cannot be read.
        """
        count = len(self)
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for place in range(min(count, LOOKED_AT)):
            digest.update(self._stored(place * count // min(count, LOOKED_AT)))
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
        """All images once, in batches.

        Everything random of the whole pass is drawn from the generator in this call, before the
        first batch: the same generator state gives the same images in the same order, whatever
        the batch size, the number of workers, or what else draws from the generator meanwhile.

        Args:
            batch_size: Images in a batch; the last one holds what is left.
            generator: A CPU generator that shuffles and augments; None: in order, as they are.
            augment: Random crops and flips of the images; needs a generator.
            drop_last: Leaves out a last batch that is not full.
            limit: Only as many images, see `first_balanced`; without a generator.
            shard: (k, n) reads only the k-th, from 0, of n parts of each batch; the others read
                the rest of it with the same generator state. The parts of a full batch are equal
                where n divides it; of a last batch with fewer than n images some get nothing.

        Yields:
            Images float32 [B, 3, H, W], normalised, in channels_last memory format, and labels
            int64 [B].

        Raises:
            UserError: `drop_last` would leave nothing; later, while the batches are read: an
                image is damaged.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: has to be at least 1")
        if augment and generator is None:
            raise ValueError("augment=True draws random numbers: give a generator")
        if drop_last and batch_size > len(self):
            raise UserError(
                f"no batch of {batch_size} images is full: there are {len(self)}; use a smaller "
                "batch or more images"
            )
        if limit is not None and generator is not None:
            raise ValueError("a limit takes the images in order: give no generator")
        order = first_balanced(self.labels, limit) if generator is None else self._order(generator)
        draws = self._draw(generator) if augment and generator is not None else None
        kept = len(order) // batch_size * batch_size if drop_last else len(order)
        rows = _parts(order[:kept], batch_size, shard)
        return self._read(rows, None if draws is None else _parts(draws[:kept], batch_size, shard))

    def _order(self, generator: Generator) -> Tensor:
        """A random order of all images, int64 [N]."""
        return torch.randperm(len(self), generator=generator)

    @abstractmethod
    def _stored(self, position: int) -> bytes:
        """An image as it is stored, in memory or in a file."""

    @abstractmethod
    def _draw(self, generator: Generator) -> Tensor:
        """The random numbers for the augmentation of one pass, [N, ...]."""

    @abstractmethod
    def _read(
        self, rows: Sequence[Tensor], draws: Sequence[Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of these images, augmented by these draws."""

    def _normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to normalised float32 [B, 3, H, W] in channels_last format."""
        batch, height, width, channels = images.shape
        # whole lines at a time: a broadcast over an inner dimension of 3 would take far longer
        lines = images.reshape(batch * height, width * channels).float()
        lines = torch.addcmul(self._shift.repeat(width), lines, self._scale.repeat(width))
        return lines.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _parts(values: Tensor, batch_size: int, shard: tuple[int, int]) -> list[Tensor]:
    """This shard of every batch, without empty ones."""
    number, count = shard
    parts = [batch.tensor_split(count)[number] for batch in values.split(batch_size)]
    return [part for part in parts if len(part)]


class MemorySplit(Split):
    """A split whose small images are all in memory.

    Args:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        mean: Mean of each channel, [3].
        std: Standard deviation of each channel, [3].
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__(labels, mean, std)
        self.images = images

    def _stored(self, position: int) -> bytes:
        return self.images[position].numpy().tobytes()

    def _draw(self, generator: Generator) -> Tensor:
        """Top and left of the crop in the padded image, and 1 for a flip, [N, 3]."""
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
            yield self._normalise(images), self.labels[index]


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Pads with 4 black pixels, crops to the old size and mirrors, a whole batch at once.

    The padding is black in the picture (0 before the normalisation), as torchvision's
    `RandomCrop(32, padding=4)` in front of `ToTensor` has it.

    Args:
        images: uint8 [B, H, W, 3].
        top: First line of each crop in the padded image, 0 to 8, int64 [B].
        left: First column of each crop, 0 to 8, int64 [B].
        flip: Nonzero where the crop is mirrored left to right, [B].

    Returns:
        uint8 [B, H, W, 3].
    """
    batch, height, width, channels = images.shape
    padded = images.new_zeros(batch, height + 2 * PAD, width + 2 * PAD, channels)
    padded[:, PAD:-PAD, PAD:-PAD] = images
    # every possible crop as a view [B, top, left, line, pixels of the line], of which one each
    crops = padded.flatten(2).unfold(1, height, 1).unfold(2, width * channels, channels)
    chosen = crops[torch.arange(batch), top, left].view(batch, height, width, channels)
    mirrored = flip.nonzero().squeeze(1)
    chosen[mirrored] = chosen[mirrored].flip(2)
    return chosen


@dataclass(frozen=True)
class Dataset:
    """An opened data set.

    Attributes:
        name: As the user gave it.
        classes: Number of classes; labels are 0 to classes - 1.
        image_shape: Channels, height and width of an image in a batch.
        mean: Of each channel over the training images, pixels in [0, 1]; float32 [3].
        std: Standard deviation of each channel; float32 [3].
        train: The training images.
        test: The images that accuracy is measured on.
        test_is_train: The test images are the training images, because the folder has no others:
            an accuracy on them says nothing about new images.
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor
    train: Split
    test: Split
    test_is_train: bool = False


def standard(dataset: Dataset) -> Dataset:
    """Every channel with mean 0 and standard deviation 1 over the training images, as opened."""
    return dataset


def symmetric(dataset: Dataset) -> Dataset:
    """The same images with pixels from -1 to 1, so that Poisson input can have their rates.

    Black is -1 and white 1; `standard` pixels reach 2 and beyond, where a rate is cut off at 1.
    """
    half = torch.full_like(dataset.mean, 0.5)
    for split in (dataset.train, dataset.test):
        split.normalise_by(half, half)
    return replace(dataset, mean=half, std=half)


PIXELS = {"standard": standard, "symmetric": symmetric}


def first_balanced(labels: Tensor, limit: int | None) -> Tensor:
    """The first `limit` images in a fixed order that takes one of each class in turn.

    Round k of that order holds the k-th image of every class, in the order of the data set. So
    the numbers per class differ by 1 at most as long as no class has run out, and a smaller
    limit takes the beginning of a larger one.

    Args:
        labels: int64 [N].
        limit: How many; None: all N, in the order of the data set.

    Returns:
        Positions, int64 [limit].

    Raises:
        UserError: Fewer than 1, or more than there are.
    """
    if limit is None:
        return torch.arange(len(labels))
    if not 1 <= limit <= len(labels):
        raise UserError(f"limit={limit}: has to be from 1 to {len(labels)}, the images there are")
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    turn = torch.empty_like(labels)
    turn[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return turn.argsort(stable=True)[:limit]


def check_labels(labels: Tensor, classes: int, where: str) -> None:
    """Makes sure that the labels are 0 to classes - 1, and each of them occurs.

    Raises:
        UserError: A label is out of range, or a class has no image.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(f"{where}: label {int(wrong[0])} is out of range 0 to {classes - 1}")
    present = labels.unique()
    if len(present) != classes:
        missing = sorted(set(range(classes)) - set(present.tolist()))
        raise UserError(
            f"{where}: holds {len(present)} of {classes} classes; class {missing[0]} has no image"
        )
