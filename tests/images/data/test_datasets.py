"""Datasets by name, and the real data."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.setting import settings_of
from snn_rl.images.data.datasets import DATASETS, open_dataset
from snn_rl.images.data.imagenet import MEAN, STD


def test_every_name_opens_its_dataset(tmp_path, tiny):
    for name in ("cifar10", "cifar100"):
        tiny(name).write("bin", tmp_path / name)
    for label in "ab":
        (tmp_path / "imagenet" / label).mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "imagenet" / label / "0.png")
    opened = {name: open_dataset(name, tmp_path / name) for name in DATASETS}
    shapes = {name: (d.name, d.classes, d.image_shape) for name, d in opened.items()}
    assert shapes == {
        "cifar10": ("cifar10", 10, (3, 32, 32)),
        "cifar100": ("cifar100", 100, (3, 32, 32)),
        "imagenet": ("imagenet", 2, (3, 224, 224)),
    }
    for dataset in opened.values():
        assert dataset.mean.shape == dataset.std.shape == (3,)
        assert dataset.mean.dtype == dataset.std.dtype == torch.float32
        for split in (dataset.train, dataset.test):
            images, labels = next(split.batches(2))
            assert images.shape == (2, *dataset.image_shape)
            assert torch.equal(labels, split.labels[:2]) and len(split) == len(split.labels)


def test_settings_offer_the_datasets():
    assert settings_of(ClassifyConfig)["dataset"].choices == tuple(DATASETS)


def test_size_and_limit_are_applied(tmp_path, tiny, refused):
    path = tiny("cifar10").write("bin", tmp_path / "cifar")
    assert len(open_dataset("cifar10", path, image_size=32, limit=30).train) == 30
    assert "image_size=64" in refused(open_dataset, "cifar10", path, image_size=64)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / label / "0.png")
    dataset = open_dataset("imagenet", tmp_path / "images", image_size=48, limit=1)
    assert dataset.image_shape == (3, 48, 48) and len(dataset.train) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar-10", "did you mean cifar10?"),
        ("CIFAR100", "did you mean cifar100?"),
        ("imagnet", "did you mean imagenet?"),
        ("mnist", "must be one of cifar10, cifar100, imagenet"),
    ],
)
def test_unknown_name_is_rejected(tmp_path, refused, name, hint):
    line = refused(open_dataset, name, tmp_path)
    assert line.startswith(f"dataset={name}: ") and hint in line


def test_real_cifar10(real_cifar10):
    train = real_cifar10.train
    assert len(train) == 50_000 and len(real_cifar10.test) == 10_000
    assert train.labels.bincount().tolist() == [5000] * 10
    # The official data_batch_1.bin: a label, then a red, a green and a blue plane per image
    planes = train.images[:10_000].permute(0, 3, 1, 2).reshape(10_000, -1)
    records = torch.cat([train.labels[:10_000, None].to(torch.uint8), planes], dim=1)
    checksum = hashlib.md5(records.numpy().tobytes()).hexdigest()
    assert checksum == "5dd7e06a14cb22eb9f671a540d1b7c25"
    assert [f"{x:.4f}" for x in real_cifar10.mean.tolist()] == ["0.4914", "0.4822", "0.4465"]
    assert [f"{x:.4f}" for x in real_cifar10.std.tolist()] == ["0.2470", "0.2435", "0.2616"]


def test_real_cifar10_is_normalized(real_cifar10):
    images, _ = next(real_cifar10.train.batches(10_000))
    # A fifth of the images is close to, but not exactly, 0 and 1
    assert images.mean((0, 2, 3)).abs().max() < 0.02
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.02


def test_real_imagenet_samples(real_data):
    dataset = open_dataset("imagenet", real_data / "imagenet_samples")
    assert dataset.classes == len(dataset.train) == 1000 and dataset.test_is_train
    assert dataset.train.labels.tolist() == list(range(1000))
    images, labels = next(dataset.test.batches(4))
    # The images have 256x256 pixels, so that test images are exact center crops.
    for image, folder in zip(
        images, sorted((real_data / "imagenet_samples").iterdir()), strict=False
    ):
        (file,) = folder.iterdir()
        center = np.asarray(Image.open(file).convert("RGB"))[16:240, 16:240] / 255
        expected = torch.tensor((center - MEAN) / STD).permute(2, 0, 1).float()
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
    generator = Generator().manual_seed(0)
    augmented, _ = next(dataset.train.batches(4, generator=generator, augment=True))
    assert augmented.shape == (4, 3, 224, 224) and labels.tolist() == [0, 1, 2, 3]
