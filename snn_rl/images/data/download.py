"""Fetches the official archives of CIFAR."""

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
    """Downloads the binary version into `path`, where `open_dataset` finds it.

    The folder appears whole or not at all, and only if the archive has the official checksum.

    Args:
        name: "cifar10" or "cifar100".
        path: Folder to unpack into; made if it does not exist.

    Raises:
        UserError: The archive cannot be fetched, is not the official one, or cannot be written.
    """
    cifar = CIFARS[name]
    folder = cifar.layouts[0].folder
    if (path / folder).exists():
        raise UserError(f"{path / folder} exists already: remove it to download it again")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path) as temporary:
            archive = Path(temporary) / "archive.tar.gz"
            source = urllib.request.urlopen(cifar.archive, timeout=60)
            with source, archive.open("wb") as target:
                shutil.copyfileobj(source, target)
            with archive.open("rb") as file:
                if hashlib.file_digest(file, "md5").hexdigest() != cifar.md5:
                    raise UserError(f"{cifar.archive} came with a wrong md5 checksum: try again")
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            os.replace(Path(temporary) / folder, path / folder)
    except (OSError, HTTPException, tarfile.TarError) as error:
        raise UserError(f"cannot download {cifar.archive} to {path}: {error}") from None
