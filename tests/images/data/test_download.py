"""Download of CIFAR from local archives."""

import dataclasses
import hashlib
import io
import tarfile

import numpy as np
import pytest

from snn_rl.images.data.cifar import CIFARS, open_cifar
from snn_rl.images.data.download import download_cifar


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Replaces the archive of CIFAR-10."""

    def put(fill, sha256=None) -> None:
        archive = tmp_path / "official.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            fill(tar)
        right = hashlib.sha256(archive.read_bytes()).hexdigest()
        cifar = dataclasses.replace(
            CIFARS["cifar10"], archive=archive.as_uri(), sha256=sha256 or right
        )
        monkeypatch.setitem(CIFARS, "cifar10", cifar)

    return put


def test_downloaded_dataset_opens(tmp_path, tiny, offer, refused):
    files = tiny("cifar10")
    source = files.write("bin", tmp_path / "source")
    offer(lambda tar: tar.add(source, "cifar-10-batches-bin"))
    target = tmp_path / "new" / "data"
    download_cifar("cifar10", target)
    assert np.array_equal(open_cifar("cifar10", target).train.images.numpy(), files.train[0])
    assert [entry.name for entry in target.iterdir()] == ["cifar-10-batches-bin"]
    assert "already exists" in refused(download_cifar, "cifar10", target)


def test_wrong_checksum_leaves_no_files(tmp_path, tiny, offer, refused):
    source = tiny("cifar10").write("bin", tmp_path / "source")
    offer(lambda tar: tar.add(source, "cifar-10-batches-bin"), sha256="0" * 64)
    assert "wrong SHA-256" in refused(download_cifar, "cifar10", tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())


def test_archive_cannot_write_elsewhere(tmp_path, offer, refused):
    def climb(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))

    offer(climb)
    assert "cannot download" in refused(download_cifar, "cifar10", tmp_path / "target")
    assert not (tmp_path / "escaped").exists()
    assert not list((tmp_path / "target").iterdir())


def test_missing_archive_is_an_error(tmp_path, offer, refused):
    offer(lambda tar: None)
    (tmp_path / "official.tar.gz").unlink()
    assert "cannot download file:" in refused(download_cifar, "cifar10", tmp_path / "target")
