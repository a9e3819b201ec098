"""Images in one folder per class."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from snn_rl.utils.errors import UserError

_ENDINGS = (".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class Folders:
    """The images of a folder that has one folder per class.

    Attributes:
        files: The image files, sorted by class and name.
        labels: The place of each image's class in the sorted names, int64 [N].
        classes: The names of the classes.
    """

    files: list[Path]
    labels: Tensor
    classes: list[str]

    @classmethod
    def find(cls, folder: Path) -> "Folders":
        """Lists the images, and opens none of them.

        Raises:
            UserError: There are no class folders, or one of them is empty.
        """
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if len(classes) < 2:
            raise UserError(
                f"{folder} holds {len(classes)} class folders: there should be one for each class, "
                "such as n01440764, with its images in it"
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
                    f"class folder {folder / name} holds no image ({', '.join(_ENDINGS)})"
                )
            files += [folder / name / image for image in images]
            labels += [label] * len(images)
        return cls(files, torch.tensor(labels), classes)

    def keep(self, positions: Tensor) -> "Folders":
        """These images alone, in this order."""
        files = [self.files[i] for i in positions.tolist()]
        return Folders(files, self.labels[positions], self.classes)

    def order(self, generator: Generator) -> Tensor:
        """A random order of the images, int64 [N]."""
        return torch.randperm(len(self.files), generator=generator)

    def name(self, position: int) -> str:
        """What a message calls the image."""
        return str(self.files[position])

    def read(self, position: int) -> bytes:
        """The encoded image.

        Raises:
            UserError: The file cannot be read.
        """
        try:
            return self.files[position].read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {self.files[position]}: {error.strerror}") from None
