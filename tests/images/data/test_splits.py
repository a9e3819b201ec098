"""Batches: order, random numbers, and augmentation compared with loops."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snn_rl.images.data.splits import MemorySplit, check_labels, crop_and_flip, first_balanced

MEAN, STD = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0.2, 0.25, 0.3])


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.fixture
def split() -> MemorySplit:
    """Returns twenty random images, each labeled with its index."""
    images = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8, generator=seeded())
    return MemorySplit(images, torch.arange(20), MEAN, STD)


@pytest.mark.parametrize("count", [1, 3, 16, 20, 33])
def test_fingerprint_depends_on_images_and_labels(count):
    images = torch.randint(0, 256, (count, 4, 4, 3), dtype=torch.uint8, generator=seeded())
    labels = torch.arange(count) % 2
    found = MemorySplit(images, labels, MEAN, STD).fingerprint()
    assert found.startswith(f"{count} images of {min(count, 2)} classes, ")
    # Normalization and memory layout do not matter.
    same = torch.cat([images, images])[:count].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert MemorySplit(same, labels.clone(), STD, MEAN).fingerprint() == found
    for changed in (images.flip(2), images + 1, images.flip(0) + 1):
        assert MemorySplit(changed, labels, MEAN, STD).fingerprint() != found
    relabelled = labels.clone()
    relabelled[-1] = 7
    assert MemorySplit(images, relabelled, MEAN, STD).fingerprint() != found


def joined(batches) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def naive(images: Tensor, top: int, left: int, flip: int) -> np.ndarray:
    """Pads, crops and mirrors an image with NumPy."""
    padded = np.pad(images.numpy(), ((4, 4), (4, 4), (0, 0)))
    crop = padded[top : top + 32, left : left + 32]
    return crop[:, ::-1] if flip else crop


def test_batches_in_order_are_the_normalized_images(split):
    batches = list(split.batches(8))
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    images, labels = joined(batches)
    assert torch.equal(labels, split.labels) and labels.dtype == torch.int64
    expected = (split.images.double().permute(0, 3, 1, 2) / 255 - MEAN[:, None, None]) / STD[
        :, None, None
    ]
    torch.testing.assert_close(images, expected.float(), rtol=0, atol=2e-6)
    for image, _ in batches:
        assert image.dtype == torch.float32 and image.shape[1:] == (3, 32, 32)
        assert image.is_contiguous(memory_format=torch.channels_last)


def test_generator_shuffles_images_with_their_labels(split):
    plain, _ = joined(split.batches(20))
    images, labels = joined(split.batches(6, generator=seeded()))
    assert sorted(labels.tolist()) == list(range(20)) != labels.tolist()
    assert torch.equal(images, plain[labels])


@pytest.mark.parametrize("augment", [False, True])
def test_equal_generator_states_give_equal_images(split, augment):
    generator = seeded()
    first = joined(split.batches(6, generator=generator, augment=augment))
    second = joined(split.batches(6, generator=generator, augment=augment))
    again = joined(split.batches(9, generator=seeded(), augment=augment))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], second[1])


def test_other_draws_between_batches_have_no_effect(split):
    expected = joined(split.batches(6, generator=seeded(), augment=True))
    generator = seeded()
    disturbed = []
    for batch in split.batches(6, generator=generator, augment=True):
        torch.rand(3, generator=generator)
        disturbed.append(batch)
    assert torch.equal(joined(disturbed)[0], expected[0])


def test_drop_last_drops_the_incomplete_batch(split, refused):
    batches = list(split.batches(8, generator=seeded(), drop_last=True))
    assert [len(labels) for _, labels in batches] == [8, 8]
    everything = joined(split.batches(8, generator=seeded()))
    assert torch.equal(joined(batches)[0], everything[0][:16])
    assert "fewer than one batch of 21" in refused(split.batches, 21, drop_last=True)
    assert len(list(split.batches(20, drop_last=True))) == 1


def test_invalid_calls_fail_before_the_first_batch(split):
    with pytest.raises(ValueError, match="generator"):
        split.batches(4, augment=True)
    with pytest.raises(ValueError, match="at least 1"):
        split.batches(0)


def test_crops_and_flips_equal_those_of_a_loop(split):
    draws = torch.randint(0, 9, (20, 2), generator=seeded(1))
    draws[:4] = torch.tensor([[0, 0], [0, 8], [8, 0], [8, 8]])
    flip = torch.arange(20) % 3 == 0
    untouched = split.images.clone()
    crops = crop_and_flip(split.images, draws[:, 0], draws[:, 1], flip)
    for i in range(20):
        expected = naive(split.images[i], int(draws[i, 0]), int(draws[i, 1]), int(flip[i]))
        assert np.array_equal(crops[i].numpy(), expected)
    assert torch.equal(split.images, untouched)


def test_augmentation_draws_every_crop_and_flip():
    image = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=seeded())
    copies = MemorySplit(
        image.expand(3000, -1, -1, -1),
        torch.zeros(3000, dtype=torch.int64),
        torch.zeros(3),
        torch.full((3,), 1 / 255),  # does not change the pixels
    )
    seen = set()
    for images, _ in copies.batches(500, generator=seeded(), augment=True):
        pixels = images.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
        seen |= {picture.tobytes() for picture in pixels}
    crops = [(top, left, flip) for top in range(9) for left in range(9) for flip in (0, 1)]
    assert seen == {naive(image[0], *crop).tobytes() for crop in crops}


def test_limit_takes_the_classes_in_turn(refused):
    labels = torch.randint(0, 7, (300,), generator=seeded())
    waiting = {c: [i for i in range(300) if labels[i] == c] for c in range(7)}
    expected: list[int] = []
    while any(waiting.values()):
        expected += sorted(queue.pop(0) for queue in waiting.values() if queue)
    for limit in (1, 7, 40, 300):
        assert first_balanced(labels, limit).tolist() == expected[:limit]
    assert first_balanced(labels, None).tolist() == list(range(300))
    for limit in (0, -1, 301):
        assert f"limit={limit}: must be from 1 to 300" in refused(first_balanced, labels, limit)


def test_labels_must_cover_the_classes(refused):
    check_labels(torch.tensor([2, 0, 1]), 3, "here")
    assert "label 3 is out of range 0 to 2" in refused(
        check_labels, torch.tensor([0, 1, 2, 3]), 3, "here"
    )
    assert "label -1 is out" in refused(check_labels, torch.tensor([0, -1]), 1, "here")
    line = refused(check_labels, torch.tensor([0, 2]), 3, "here")
    assert line == "here: only 2 of 3 classes have images; class 1 has none"
