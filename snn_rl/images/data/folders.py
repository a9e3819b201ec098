"""Image files in one folder per class.

torchvision's ImageFolder is not used, because torchvision pins another version of torch.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from snn_rl.files.archive import read_bytes
from snn_rl.images.data.decoding import MAX_FILE
from snn_rl.utils.errors import UserError

_ENDINGS = (".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Folders:
    """Image files of a folder with one folder per class."""

    files: list[Path]  # image files, sorted by class and name
    labels: Tensor  # index of each image's class in the sorted names, int64 [N]
    classes: list[str]  # names of the classes, sorted

    @classmethod
    def find(cls, folder: Path) -> "Folders":
        """Lists the images without opening them."""
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if len(classes) < 2:
            raise UserError(
                f"{folder} has {len(classes)} class folders, but needs one with images for each "
                "class, for example n01440764"
            )
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            images = sorted(
                entry.name
                for entry in os.scandir(folder / name)
                if entry.name.lower().endswith(_ENDINGS) and not entry.name.startswith(".")
            )
            if not images:
                raise UserError(
                    f"class folder {folder / name} has no image ({', '.join(_ENDINGS)})"
                )
            files += [folder / name / image for image in images]
            labels += [label] * len(images)
        return cls(files, torch.tensor(labels), classes)

    def keep(self, positions: Tensor) -> "Folders":
        """Returns only the images at these positions, in this order."""
        files = [self.files[i] for i in positions.tolist()]
        return Folders(files, self.labels[positions], self.classes)

    def order(self, generator: Generator) -> Tensor:
        """Draws a random order of the images, int64 [N]."""
        return torch.randperm(len(self.files), generator=generator)

    def name(self, position: int) -> str:
        """Returns the name of an image in messages."""
        return str(self.files[position])

    def read(self, position: int) -> bytes:
        """Returns an encoded image."""
        return read_bytes(self.files[position], MAX_FILE)
