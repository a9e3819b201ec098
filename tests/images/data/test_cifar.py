"""CIFAR: all layouts, and damaged or missing files."""

import numpy as np
import pytest
import torch
from PIL import Image

from snn_rl.images.data.cifar import CIFARS, channel_statistics, open_cifar

LAYOUTS = [
    ("cifar10", "bin", "cifar-10-batches-bin"),
    ("cifar10", "mosaic", "cifar10"),
    ("cifar100", "bin", "cifar-100-binary"),
]


@pytest.mark.parametrize(("name", "kind", "folder"), LAYOUTS)
def test_images_and_labels_are_read(tmp_path, tiny, name, kind, folder):
    files = tiny(name)
    files.write(kind, tmp_path / folder)
    for path in (tmp_path, tmp_path / folder):
        dataset = open_cifar(name, path)
        assert dataset.classes == files.cifar.classes and dataset.image_shape == (3, 32, 32)
        assert not dataset.test_is_train
        for split, written in ((dataset.train, files.train), (dataset.test, files.files["test"])):
            assert np.array_equal(split.images.numpy(), written[0])
            assert np.array_equal(split.labels.numpy(), written[1])
            assert split.labels.dtype == torch.int64 and split.images.is_contiguous()
        pixels = files.train[0].reshape(-1, 3) / 255
        np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-6)
        np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-6)


def test_fingerprint_is_independent_of_the_layout(tmp_path, tiny):
    files = tiny("cifar10")
    folders = (files.write(kind, tmp_path / kind) for kind in ("bin", "mosaic"))
    assert len({open_cifar("cifar10", folder).train.fingerprint() for folder in folders}) == 1


def test_statistics_of_two_values():
    images = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    images[0, 0] = 255
    images[..., 2] = 51
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.5, 0.2]))
    torch.testing.assert_close(std, torch.tensor([0.5, 0.5, 0.0]), atol=1e-7, rtol=0)


def test_limit_keeps_the_statistics_and_the_test_images(tmp_path, tiny):
    path = tiny("cifar10").write("bin", tmp_path)
    whole, some = open_cifar("cifar10", path), open_cifar("cifar10", path, limit=25)
    assert len(some.train) == 25 and len(some.test) == len(whole.test)
    counts = some.train.labels.bincount(minlength=10)
    assert counts.min() == 2 and counts.max() == 3
    assert torch.equal(some.mean, whole.mean) and torch.equal(some.std, whole.std)
    everything = {tuple(image.flatten().tolist()) for image in whole.train.images}
    assert {tuple(image.flatten().tolist()) for image in some.train.images} <= everything


@pytest.mark.parametrize(("name", "kind", "folder"), LAYOUTS)
def test_missing_file_is_named(tmp_path, tiny, refused, name, kind, folder):
    path = tiny(name).write(kind, tmp_path / folder)
    victim = sorted(path.iterdir())[-1]
    victim.unlink()
    line = refused(open_cifar, name, tmp_path)
    assert f"{path} is incomplete: no {victim.name}" in line


@pytest.mark.parametrize(("name", "kind", "folder"), LAYOUTS)
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_truncated_file_is_named(tmp_path, tiny, refused, name, kind, folder, keep):
    path = tiny(name).write(kind, tmp_path)
    for victim in path.iterdir():
        whole = victim.read_bytes()
        victim.write_bytes(whole[: int(keep * len(whole))])
        assert str(victim) in refused(open_cifar, name, path)
        victim.write_bytes(whole)


def test_long_file_is_rejected_without_reading(tmp_path, tiny, refused):
    path = tiny("cifar10").write("bin", tmp_path)
    with (path / "data_batch_1.bin").open("r+b") as sparse:
        sparse.truncate(3 * 2**30)
    line = refused(open_cifar, "cifar10", path)
    assert f"{path / 'data_batch_1.bin'} has 3,221,225,472 bytes" in line


def test_missing_records_are_found(tmp_path, tiny, refused):
    path = tiny("cifar10").write("bin", tmp_path)
    file = path / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-3073])
    line = refused(open_cifar, "cifar10", path)
    assert line == f"{file} has 15 images, but CIFAR-10 has 16"


def test_wrong_folder_gives_the_download(tmp_path, tiny, refused):
    missing = refused(open_cifar, "cifar10", tmp_path / "none")
    assert "no such folder" in missing and "cifar-10-binary.tar.gz" in missing
    other = tiny("cifar100").write("bin", tmp_path / "cifar-100-binary")
    for path in (tmp_path, other):
        line = refused(open_cifar, "cifar10", path)
        assert f"{path} does not contain CIFAR-10; unpack https" in line
        assert str(path / "cifar-10-batches-bin") in line


def test_complete_layout_is_preferred(tmp_path, tiny):
    files = tiny("cifar10")
    files.write("bin", tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    files.write("mosaic", tmp_path / "cifar10")
    assert len(open_cifar("cifar10", tmp_path).train) == 80


@pytest.mark.parametrize("kind", ["bin", "mosaic"])
def test_invalid_labels_and_missing_classes_are_rejected(tmp_path, tiny, refused, kind):
    files = tiny("cifar10")
    files.files["train_3"][1][5] = 10
    line = refused(open_cifar, "cifar10", files.write(kind, tmp_path))
    assert "0 to 9" in line
    for part in files.files:
        labels = files.files[part][1]
        labels[labels >= 9] = 0
    line = refused(open_cifar, "cifar10", files.write(kind, tmp_path))
    assert "(training images): only 9 of 10 classes have images; class 9 has none" in line


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_python_version_is_rejected_naming_the_binary(tmp_path, refused, name):
    python = tmp_path / CIFARS[name].python
    python.parent.mkdir()
    python.write_bytes(b"a pickle")
    for path in (tmp_path, python.parent):
        line = refused(open_cifar, name, path)
        assert "has the Python version" in line and CIFARS[name].archive in line


def test_mosaic_must_be_a_square_grid(tmp_path, tiny, refused):
    path = tiny("cifar10").write("mosaic", tmp_path)
    Image.new("RGB", (128, 96)).save(path / "train_2.webp", lossless=True)
    assert "train_2.webp is 128x96" in refused(open_cifar, "cifar10", path)
    Image.new("RGB", (96, 96)).save(path / "train_2.webp", lossless=True)
    assert "train_2.webp has 9 images" in refused(open_cifar, "cifar10", path)


def test_labels_of_mosaics_must_match(tmp_path, tiny, refused):
    path = tiny("cifar10").write("mosaic", tmp_path)
    test = np.arange(16) % 10
    for train in (np.zeros(79, np.uint8), np.zeros((80, 2), np.uint8), np.zeros(80)):
        np.savez(path / "labels.npz", train=train, test=test)
        assert "train does not have an integer per image" in refused(open_cifar, "cifar10", path)
    np.savez(path / "labels.npz", test=test)
    assert "train does not have an integer per image" in refused(open_cifar, "cifar10", path)
