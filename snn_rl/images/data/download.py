"""Download of the official CIFAR archives."""

import hashlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

from snn_rl.images.data.cifar import CIFARS
from snn_rl.utils.errors import UserError


def download_cifar(name: str, path: Path) -> None:
    """Downloads and unpacks the binary version of CIFAR for `open_dataset`.

    The unpacked folder appears atomically, and only if the archive has the expected checksum.
    """
    cifar = CIFARS[name]
    folder = cifar.layouts[0].folder
    if (path / folder).exists():
        raise UserError(f"{path / folder} already exists; remove it to download again")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path) as temporary:
            archive = Path(temporary) / "archive.tar.gz"
            source = urllib.request.urlopen(cifar.archive, timeout=60)
            with source, archive.open("wb") as target:
                shutil.copyfileobj(source, target)
            with archive.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != cifar.sha256:
                    raise UserError(f"{cifar.archive} has a wrong SHA-256 checksum; try again")
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            os.replace(Path(temporary) / folder, path / folder)
    except (OSError, HTTPException, tarfile.TarError) as error:
        raise UserError(f"cannot download {cifar.archive} to {path}: {error}") from None
