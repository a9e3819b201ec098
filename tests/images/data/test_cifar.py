"""CIFAR: every layout read back, and everything that can be wrong with the files."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from snn_rl.images.data.cifar import channel_statistics, open_cifar
from snn_rl.images.data.restricted_pickle import read_pickle

LAYOUTS = [
    ("cifar10", "bin", "cifar-10-batches-bin"),
    ("cifar10", "py", "cifar-10-batches-py"),
    ("cifar10", "mosaic", "cifar10"),
    ("cifar100", "bin", "cifar-100-binary"),
    ("cifar100", "py", "cifar-100-python"),
]


@pytest.mark.parametrize(("name", "kind", "folder"), LAYOUTS)
def test_each_layout_comes_back_as_it_was(tmp_path, tiny, name, kind, folder):
    files = tiny(name)
    files.write(kind, tmp_path / folder)
    for path in (tmp_path, tmp_path / folder):  # the folder itself, or the one that holds it
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


def test_the_same_images_have_the_same_fingerprint_in_every_layout(tmp_path, tiny):
    files = tiny("cifar10")
    folders = (files.write(kind, tmp_path / kind) for kind in ("bin", "py", "mosaic"))
    assert len({open_cifar("cifar10", folder).train.fingerprint() for folder in folders}) == 1


def test_statistics_of_two_values():
    images = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    images[0, 0] = 255
    images[..., 2] = 51
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.5, 0.2]))
    torch.testing.assert_close(std, torch.tensor([0.5, 0.5, 0.0]), atol=1e-7, rtol=0)


def test_a_limit_keeps_the_statistics_and_the_test_images(tmp_path, tiny):
    path = tiny("cifar10").write("bin", tmp_path)
    whole, some = open_cifar("cifar10", path), open_cifar("cifar10", path, limit=25)
    assert len(some.train) == 25 and len(some.test) == len(whole.test)
    counts = some.train.labels.bincount(minlength=10)
    assert counts.min() == 2 and counts.max() == 3
    assert torch.equal(some.mean, whole.mean) and torch.equal(some.std, whole.std)
    everything = {tuple(image.flatten().tolist()) for image in whole.train.images}
    assert {tuple(image.flatten().tolist()) for image in some.train.images} <= everything


@pytest.mark.parametrize(("name", "kind", "folder"), LAYOUTS)
def test_a_missing_file_is_named(tmp_path, tiny, refused, name, kind, folder):
    path = tiny(name).write(kind, tmp_path / folder)
    victim = sorted(path.iterdir())[-1]
    victim.unlink()
    line = refused(open_cifar, name, tmp_path)
    assert f"{path} is incomplete: no {victim.name}" in line


@pytest.mark.parametrize(("name", "kind", "folder"), LAYOUTS)
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_a_truncated_file_is_named(tmp_path, tiny, refused, name, kind, folder, keep):
    path = tiny(name).write(kind, tmp_path)
    for victim in path.iterdir():
        whole = victim.read_bytes()
        victim.write_bytes(whole[: int(keep * len(whole))])
        assert str(victim) in refused(open_cifar, name, path)
        victim.write_bytes(whole)


def test_whole_records_too_few_are_found(tmp_path, tiny, refused):
    path = tiny("cifar10").write("bin", tmp_path)
    file = path / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-3073])
    line = refused(open_cifar, "cifar10", path)
    assert line == f"{file} holds 15 images instead of CIFAR-10's 16"


def test_the_wrong_folder_says_what_is_expected(tmp_path, tiny, refused):
    missing = refused(open_cifar, "cifar10", tmp_path / "none")
    assert "no such folder" in missing and "cifar-10-binary.tar.gz" in missing
    other = tiny("cifar100").write("bin", tmp_path / "cifar-100-binary")
    for path in (tmp_path, other):
        line = refused(open_cifar, "cifar10", path)
        assert f"{path} does not hold CIFAR-10; get https" in line
        assert str(path / "cifar-10-batches-bin") in line


def test_a_whole_layout_is_taken_before_an_incomplete_one(tmp_path, tiny):
    files = tiny("cifar10")
    files.write("bin", tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    files.write("py", tmp_path / "cifar-10-batches-py")
    assert len(open_cifar("cifar10", tmp_path).train) == 80


@pytest.mark.parametrize("kind", ["bin", "py", "mosaic"])
def test_labels_out_of_range_and_absent_classes(tmp_path, tiny, refused, kind):
    files = tiny("cifar10")
    files.files["train_3"][1][5] = 10
    line = refused(open_cifar, "cifar10", files.write(kind, tmp_path))
    assert "0 to 9" in line
    for part in files.files:
        labels = files.files[part][1]
        labels[labels >= 9] = 0
    line = refused(open_cifar, "cifar10", files.write(kind, tmp_path))
    assert "(training images): holds 9 of 10 classes; class 9 has no image" in line


def batch(**changes: Any) -> dict[str, Any]:
    """The content of a good batch of 16 images, with changes."""
    return {
        "data": np.zeros((16, 3072), np.uint8),
        "labels": [i % 10 for i in range(16)],
        **changes,
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"labels": [0] * 16}, "holds no data"),
        ({"data": np.zeros((16, 3072), np.uint8)}, "holds no labels"),
        (batch(data=np.zeros((16, 3071), np.uint8)), "data is no array"),
        (batch(data=b"plain"), "data is no array"),
        (batch(labels=[0] * 15), "holds 16 images and 15 labels"),
        (batch(labels=[0.5] * 16), "labels is no list of numbers 0 to 9"),
        (batch(labels=[10**30] * 16), "labels is no list of numbers 0 to 9"),
        (batch(data=np.zeros((16, 3072), np.int64)), "'i8' instead of unsigned bytes"),
        (batch(data=np.full((16, 3072), None)), "'O8' instead of unsigned bytes"),
        ([1, 2], "a list instead of a dictionary"),
    ],
)
def test_a_pickle_with_other_content(tmp_path, tiny, refused, content, complaint):
    path = tiny("cifar10").write("py", tmp_path)
    (path / "data_batch_4").write_bytes(pickle.dumps(content, protocol=4))
    line = refused(open_cifar, "cifar10", path)
    assert complaint in line and str(path / "data_batch_4") in line


@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_today_are_read_too(tmp_path, order):
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": np.array(images, order=order), "labels": [1, 2]}, 4))
    content = read_pickle(path)
    assert np.array_equal(content["data"], images) and content["labels"] == [1, 2]


def test_the_official_pickles_of_these_tests_are_ones_to_numpy_too(tmp_path, tiny):
    files = tiny("cifar100")
    path = files.write("py", tmp_path) / "test"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy would rather have the alignment as a bool
        content = pickle.loads(path.read_bytes(), encoding="bytes")
    ours = read_pickle(path)
    assert np.array_equal(content[b"data"], ours["data"])
    assert content[b"fine_labels"] == ours["fine_labels"] == files.files["test"][1].tolist()


class Bomb:
    """Touches a file as soon as it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_that_would_run_something_is_refused(tmp_path, tiny, refused):
    path, target = tiny("cifar10").write("py", tmp_path / "data"), tmp_path / "touched"
    for protocol in range(6):
        bomb = pickle.dumps(batch(extra=Bomb(target)), protocol=protocol)
        (path / "test_batch").write_bytes(bomb)
        assert "which no CIFAR file does" in refused(open_cifar, "cifar10", path)
        assert not target.exists()
    pickle.loads(bomb)  # it is one
    assert target.exists()


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "numpy load", "numpy ndarray.tofile", "copyreg _reconstructor"],
)
def test_every_other_name_is_refused(tmp_path, refused, name):
    module, attribute = name.split()
    path = tmp_path / "batch"
    path.write_bytes(f"c{module}\n{attribute}\n.".encode())
    assert f"{module}.{attribute}" in refused(read_pickle, path)


def test_a_mosaic_has_to_be_a_square_of_images(tmp_path, tiny, refused):
    path = tiny("cifar10").write("mosaic", tmp_path)
    Image.new("RGB", (128, 96)).save(path / "train_2.webp", lossless=True)
    assert "train_2.webp is 128x96" in refused(open_cifar, "cifar10", path)
    Image.new("RGB", (96, 96)).save(path / "train_2.webp", lossless=True)
    assert "train_2.webp holds 9 images" in refused(open_cifar, "cifar10", path)


def test_labels_beside_the_mosaics_have_to_fit(tmp_path, tiny, refused):
    path = tiny("cifar10").write("mosaic", tmp_path)
    test = np.arange(16) % 10
    for train in (np.zeros(79, np.uint8), np.zeros((80, 2), np.uint8), np.zeros(80)):
        np.savez(path / "labels.npz", train=train, test=test)
        assert "train holds no whole number for each image" in refused(open_cifar, "cifar10", path)
    np.savez(path / "labels.npz", test=test)
    assert "holds no train" in refused(open_cifar, "cifar10", path)
