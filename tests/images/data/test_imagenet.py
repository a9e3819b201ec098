"""ImageNet: class folders, parquet files, crops, and damaged or missing files."""

import io
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from snn_rl.images.data.folders import Folders
from snn_rl.images.data.imagenet import (
    MEAN,
    STD,
    DecodedSplit,
    center_box,
    open_imagenet,
    random_box,
)
from snn_rl.images.data.parquet import WINDOW, Parquet

SIZE = 16


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    """Returns an image whose red is 4 * column and whose green is 4 * row."""
    x, y = np.meshgrid(4 * np.arange(width), 4 * np.arange(height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 70)], axis=-1).astype(np.uint8))


def noise(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 30, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def write_folders(path: Path, per_class: int = 4) -> Path:
    """Writes a train and a val folder with three classes."""
    for half, count in (("train", per_class), ("val", 2)):
        for label, name in enumerate(("n01", "n02", "n03")):
            (path / half / name).mkdir(parents=True)
            for i in range(count):
                noise(100 * label + i).save(path / half / name / f"{name}_{i}.png")
    return path


def write_parquet(path: Path, images: list[bytes], labels: list[int], group: int = 2) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": data, "path": f"{i}.JPEG"} for i, data in enumerate(images)]
    table = pa.table({"image": rows, "label": pa.array(labels, pa.int64())})
    parquet.write_table(table, path, row_group_size=group)
    return path


def pixels(images: torch.Tensor) -> np.ndarray:
    """Returns the pixels of a batch, float [B, H, W, 3] from 0 to 255."""
    images = images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return 255 * images.permute(0, 2, 3, 1).numpy()


def test_train_and_val_folders(tmp_path):
    dataset = open_imagenet(write_folders(tmp_path), SIZE)
    assert (dataset.classes, dataset.image_shape) == (3, (3, SIZE, SIZE))
    assert not dataset.test_is_train
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    images, labels = next(dataset.train.batches(5, generator=seeded(), augment=True))
    assert images.shape == (5, 3, SIZE, SIZE) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64 and len(labels) == 5
    assert open_imagenet(tmp_path).image_shape == (3, 224, 224)


def test_single_folder_is_train_and_test(tmp_path):
    path = write_folders(tmp_path) / "train"
    dataset = open_imagenet(path, SIZE)
    assert dataset.test_is_train and len(dataset.train) == len(dataset.test) == 12
    limited = open_imagenet(path, SIZE, limit=5)
    assert limited.train.labels.tolist() == [0, 1, 2, 0, 1] == limited.test.labels.tolist()


def test_limit_keeps_the_test_images(tmp_path):
    dataset = open_imagenet(write_folders(tmp_path), SIZE, limit=4)
    assert dataset.train.labels.tolist() == [0, 1, 2, 0] and len(dataset.test) == 6
    whole = open_imagenet(tmp_path, SIZE).train
    images = torch.cat([images for images, _ in whole.batches(5)])
    first, _ = next(dataset.train.batches(4))
    assert torch.equal(first, images[[0, 4, 8, 1]])


def test_images_are_shuffled_with_their_labels(tmp_path):
    for name, grey in (("a", 0), ("b", 100), ("c", 200)):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("RGB", (20, 20), (grey + i,) * 3).save(tmp_path / name / f"{i}.png")
    split = open_imagenet(tmp_path, SIZE).train
    batches = list(split.batches(4, generator=seeded()))
    shown = np.concatenate([pixels(images)[:, 0, 0, 0] for images, _ in batches]).round()
    labels = torch.cat([labels for _, labels in batches]).numpy()
    assert sorted(shown) == [100 * k + i for k in range(3) for i in range(6)] != shown.tolist()
    assert (labels == shown // 100).all()


@pytest.mark.parametrize("augment", [False, True])
def test_results_are_independent_of_workers_and_batch_size(tmp_path, augment):
    source = Folders.find(write_folders(tmp_path, per_class=9) / "train")
    passes = []
    for workers, size in ((1, 4), (4, 4), (3, 7)):
        split = DecodedSplit(source, SIZE, workers)
        batches = list(split.batches(size, generator=seeded(), augment=augment))
        passes.append([torch.cat(parts) for parts in zip(*batches, strict=True)])
    for images, labels in passes[1:]:
        assert torch.equal(images, passes[0][0]) and torch.equal(labels, passes[0][1])


def test_closed_pass_ends_its_threads(tmp_path):
    batches = open_imagenet(write_folders(tmp_path), SIZE).train.batches(2)
    next(batches)
    assert any(thread.name.startswith("decode") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("decode") for thread in threading.enumerate())


def test_test_images_are_scaled_center_crops(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        gradient().save(tmp_path / name / "0.png")
    images, _ = next(open_imagenet(tmp_path, SIZE).test.batches(1))
    (shown,) = pixels(images)
    # The 40 rows are scaled to 256/224 of 16, so the central 35 rows fill the crop. Pixel k of the
    # crop lies (k + 1/2) * 35/16 from its edge, and pixel x of the image at x + 1/2.
    at = (np.arange(SIZE) + 0.5) * 35 / SIZE - 0.5
    assert np.abs(shown[:, :, 0] - 4 * (12.5 + at)).max() < 1
    assert np.abs(shown[:, :, 1] - 4 * (2.5 + at)[:, None]).max() < 1
    assert np.abs(shown[:, :, 2] - 70).max() < 1


def test_training_images_are_random_crops_and_flips(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(100):
            gradient().save(tmp_path / name / f"{i}.png", compress_level=1)
    split = open_imagenet(tmp_path, SIZE).train
    batches = split.batches(200, generator=seeded(), augment=True)
    shown = pixels(next(batches)[0])
    flips, areas = 0, []
    for image in shown:
        # The first and last pixel of a crop lie half a pixel inside its edges.
        across, down = image[SIZE // 2, :, 0] / 4, image[:, SIZE // 2, 1] / 4
        flips += across[0] > across[-1]
        width = abs(across[-1] - across[0]) * SIZE / (SIZE - 1)
        height = (down[-1] - down[0]) * SIZE / (SIZE - 1)
        areas.append(width * height / (60 * 40))
        assert 0.6 < width / height < 1.65  # 3/4 to 4/3, and the filter at the edges
    assert 70 < flips < 130  # 100 expected, standard deviation 7
    assert 0.06 < min(areas) < 0.2 and 0.6 < max(areas) <= 1.05


def test_random_boxes_stay_within_their_limits():
    random = np.random.default_rng(0)
    boxes = np.array([random_box(400, 300, random) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert min(left.min(), top.min()) == 0 and right.max() == 400 and bottom.max() == 300
    width, height = right - left, bottom - top
    area, ratio = width * height / (400 * 300), width / height
    assert 0.079 < area.min() < 0.1 and 0.9 < area.max() <= 1
    assert 0.73 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.36
    assert abs(np.log(ratio).mean()) < 0.05  # as often high as wide


def test_boxes_of_extreme_images():
    random = np.random.default_rng(0)
    assert random_box(1000, 9, random) == (494, 0, 506, 9)  # 4:3 in the center
    assert random_box(9, 1000, random) == (0, 494, 9, 506)
    assert random_box(1, 1, random) == (0, 0, 1, 1)
    assert center_box(320, 256) == (48, 16, 272, 240)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (40, 30)])
def test_all_image_modes_become_rgb(tmp_path, mode, size):
    ending = "JPEG" if mode == "CMYK" else "png"
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", size, (255, 255, 255)).convert(mode).save(tmp_path / name / f"0.{ending}")
    dataset = open_imagenet(tmp_path, SIZE)
    for batches in (
        dataset.test.batches(2),
        dataset.train.batches(2, generator=seeded(), augment=True),
    ):
        assert np.abs(pixels(next(batches)[0]) - 255).max() < 2


def test_only_image_files_are_read(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for ending in ("JPEG", "jpg", "jpeg", "png", "PNG", "webp"):
            noise(0).save(tmp_path / name / f"{ending}-1.{ending}")
        (tmp_path / name / "notes.txt").write_text("none")
        (tmp_path / name / "._0.png").write_bytes(b"a file of macOS")
    dataset = open_imagenet(tmp_path, SIZE)
    assert len(dataset.train) == 12
    assert len(list(dataset.train.batches(5))) == 3


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_image_is_named(tmp_path, refused, damage):
    victim = write_folders(tmp_path) / "train" / "n02" / "n02_1.png"
    whole = victim.read_bytes()
    broken = {"truncated": whole[: len(whole) // 2], "text": b"<html>", "empty": b""}
    victim.write_bytes(broken[damage])
    dataset = open_imagenet(tmp_path, SIZE)
    assert f"{victim} is damaged" in refused(list, dataset.train.batches(4))
    victim.unlink()
    assert f"no such file: {victim}" in refused(list, dataset.train.batches(4))


def test_incomplete_folders_are_rejected(tmp_path, refused):
    line = refused(open_imagenet, tmp_path / "none")
    assert "no such folder" in line and "image-net.org" in line
    assert f"{tmp_path} has 0 class folders" in refused(open_imagenet, tmp_path)

    (tmp_path / "a" / "train" / "n01").mkdir(parents=True)
    assert "is incomplete: no folder val" in refused(open_imagenet, tmp_path / "a")
    (tmp_path / "b" / "val" / "n01").mkdir(parents=True)
    assert "is incomplete: no folder train" in refused(open_imagenet, tmp_path / "b")

    path = write_folders(tmp_path / "c")
    (path / "val" / "n02").rename(path / "val" / "n09")
    line = refused(open_imagenet, path)
    assert "train has 3 classes and val 3; n02 is only in train" in line
    (path / "train" / "n02").rename(path / "train" / "n09")
    assert open_imagenet(path).classes == 3
    (path / "val" / "n10").mkdir()
    assert f"class folder {path / 'val' / 'n10'} has no image" in refused(open_imagenet, path)

    assert "image_size=0: must be" in refused(open_imagenet, path, 0)
    (path / "val" / "n10").rmdir()
    assert "limit=13: must be from 1 to 12" in refused(open_imagenet, path, 8, 13)


@pytest.fixture
def parquet_folder(tmp_path) -> Path:
    """Writes the images of `write_folders` as two training files and a validation file."""
    path = tmp_path / "parquet"
    names = [100 * label + i for label in range(3) for i in range(4)]
    images, labels = [encoded(noise(n)) for n in names], [n // 100 for n in names]
    write_parquet(path / "data/train-00000-of-00002.parquet", images[:7], labels[:7])
    write_parquet(path / "data/train-00001-of-00002.parquet", images[7:], labels[7:])
    validation = path / "data/validation-00000-of-00001.parquet"
    write_parquet(validation, images[::4], [0, 1, 2])
    return path


def test_parquet_and_folders_give_equal_batches(tmp_path, parquet_folder):
    folders = open_imagenet(write_folders(tmp_path / "folders"), SIZE)
    for path in (parquet_folder, parquet_folder / "data"):
        dataset = open_imagenet(path, SIZE)
        assert dataset.classes == 3 and not dataset.test_is_train and len(dataset.test) == 3
        pairs = zip(folders.train.batches(5), dataset.train.batches(5), strict=True)
        for (images, labels), (ours, our_labels) in pairs:
            assert torch.equal(images, ours) and torch.equal(labels, our_labels)
    limited = open_imagenet(parquet_folder, SIZE, limit=4).train
    images = torch.cat([images for images, _ in folders.train.batches(5)])
    assert torch.equal(next(limited.batches(4))[0], images[[0, 4, 8, 1]])


def test_shuffled_parquet_is_independent_of_workers(parquet_folder):
    files = sorted((parquet_folder / "data").glob("train-*"))
    passes = []
    for workers in (1, 4):
        split = DecodedSplit(Parquet(files), SIZE, workers)
        batches = list(split.batches(5, generator=seeded(), augment=True))
        passes.append([torch.cat(parts) for parts in zip(*batches, strict=True)])
    assert torch.equal(passes[0][0], passes[1][0]) and torch.equal(passes[0][1], passes[1][1])
    assert sorted(passes[0][1].tolist()) == [0] * 4 + [1] * 4 + [2] * 4 != passes[0][1].tolist()


def test_shuffle_reads_every_row_group_in_one_window(tmp_path):
    groups, size = 5 * WINDOW, 3
    labels = list(range(groups * size))
    file = write_parquet(tmp_path / "train.parquet", [b"x"] * len(labels), labels, size)
    order = Parquet([file]).order(seeded())
    assert sorted(order.tolist()) == labels
    assert order.tolist() != Parquet([file]).order(seeded(1)).tolist()
    windows = [set((part // size).tolist()) for part in order.split(WINDOW * size)]
    assert [len(window) for window in windows] == [WINDOW] * 5
    assert set.union(*windows) == set(range(groups))
    inside = (order[: WINDOW * size] // size).unique_consecutive()
    assert len(inside) > 2 * WINDOW  # images of a row group are mixed with others
    assert windows[0] != set(range(WINDOW))


def test_more_row_groups_than_the_cache_keeps(tmp_path):
    count = 5 * WINDOW
    images = [encoded(Image.new("RGB", (8, 8), (i,) * 3)) for i in range(count)]
    labels = [i % 2 for i in range(count)]
    source = Parquet([write_parquet(tmp_path / "train.parquet", images, labels, 1)])
    split = DecodedSplit(source, SIZE)
    for _ in range(2):
        shown = np.concatenate([pixels(batch)[:, 0, 0, 0] for batch, _ in split.batches(32)])
        assert shown.round().tolist() == list(range(count))


def test_missing_or_damaged_parquet_is_rejected(parquet_folder, refused):
    data = parquet_folder / "data"
    image = [encoded(noise(0))]
    (validation,) = data.glob("validation-*")
    # Hugging Face's test images have no labels and are the last choice.
    test = write_parquet(data / "test-00000-of-00001.parquet", image, [-1])
    assert len(open_imagenet(parquet_folder, SIZE).test) == 3
    validation.unlink()
    assert "(test): label -1 is out of range 0 to 2" in refused(open_imagenet, parquet_folder)
    test.unlink()
    assert "no validation-*, val-* or test-*.parquet" in refused(open_imagenet, parquet_folder)
    write_parquet(data / "val-0.parquet", image * 2, [0, 3])
    assert "(val): label 3 is out of range 0 to 2" in refused(open_imagenet, parquet_folder)
    write_parquet(data / "val-0.parquet", image * 2, [0, 2])
    line = refused(open_imagenet, parquet_folder)
    assert "(val): only 2 of 3 classes have images; class 1 has none" in line

    second = data / "train-00001-of-00002.parquet"
    whole = second.read_bytes()
    second.write_bytes(whole[:-40])
    assert f"{second} is damaged or not a parquet file" in refused(open_imagenet, parquet_folder)
    for file in data.glob("train-*"):
        file.unlink()
    assert "no train-*.parquet" in refused(open_imagenet, parquet_folder)


def test_device_behind_a_link_is_not_read(tmp_path, refused):
    victim = write_folders(tmp_path) / "train" / "n02" / "n02_1.png"
    victim.unlink()
    victim.symlink_to("/dev/zero")
    dataset = open_imagenet(tmp_path, SIZE)
    assert f"{victim} is not a regular file" in refused(list, dataset.train.batches(4))


def test_image_of_too_many_pixels_is_not_decoded(tmp_path, refused):
    victim = write_folders(tmp_path) / "train" / "n02" / "n02_1.png"
    size = 12_000
    header = b"IHDR" + struct.pack(">II", size, size) + victim.read_bytes()[24:29]
    checked = header + struct.pack(">I", zlib.crc32(header))
    victim.write_bytes(victim.read_bytes()[:12] + checked + victim.read_bytes()[33:])
    dataset = open_imagenet(tmp_path, SIZE)
    assert f"{victim} has 12000x12000 pixels" in refused(list, dataset.train.batches(4))


def test_small_parquet_files_take_little_memory(tmp_path, refused, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    file = write_parquet(tmp_path / "train-0.parquet", [encoded(noise(0))], [2**28])
    write_parquet(tmp_path / "val-0.parquet", [encoded(noise(0))], [0])
    before = pa.total_allocated_bytes()
    assert "only 1 of 268435457 classes have images; class 0" in refused(open_imagenet, tmp_path)

    write_parquet(file, [b""] * 10_000, [0] * 10_000, group=10_000)
    assert "10,000 images do not fit" in refused(Parquet, [file])

    image = np.random.default_rng(0).bytes(2**16)
    write_parquet(file, [image] * 500, [0] * 500, group=500)  # stored once
    images = Parquet([file])
    assert images.read(499) == image
    assert pa.total_allocated_bytes() - before < 2**20

    monkeypatch.setattr("snn_rl.images.data.parquet._MAX_GROUP", 2**19)
    write_parquet(file, [bytes(2**20)], [0])
    assert "has a row group of 1,0" in refused(Parquet, [file])


def test_other_columns_and_missing_bytes_are_rejected(tmp_path, refused):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = tmp_path / "train-0.parquet"
    parquet.write_table(pa.table({"img": [b"x"], "label": [0]}), file)
    assert f"{file} has no column image.bytes, only img, label" in refused(Parquet, [file])
    parquet.write_table(pa.table({"image": [{"bytes": b"x"}], "fine": [0]}), file)
    assert "has no column label, only fine, image.bytes" in refused(Parquet, [file])
    for label in ("cat", None, 0.5):
        parquet.write_table(pa.table({"image": [{"bytes": b"x"}], "label": [label]}), file)
        assert "label must be an integer" in refused(Parquet, [file])

    rows = [{"bytes": encoded(noise(0))}, {"bytes": b"no image"}, {"bytes": None}]
    parquet.write_table(pa.table({"image": rows, "label": [0, 1, 2]}), file)
    for position, complaint in ((1, "is damaged: not an image"), (2, "has no bytes")):
        split = DecodedSplit(Parquet([file]).keep(torch.tensor([0, position])), SIZE)
        line = refused(list, split.batches(2))
        assert f"{file}, row group 0, row {position}" in line and complaint in line


def test_missing_pyarrow_is_named(tmp_path, refused, monkeypatch):
    for half in ("train", "validation"):
        (tmp_path / f"{half}-0.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'snn_rl[parquet]'" in refused(open_imagenet, tmp_path)
