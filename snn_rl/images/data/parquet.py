"""Images in parquet files, as Hugging Face's data sets are laid out."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from snn_rl.utils.errors import UserError

WINDOW = 16  # row groups whose images are shuffled together


class Parquet:
    """The images of some parquet files.

    Columns: `image`, a struct with the encoded `bytes`, and `label`, a whole number. A file is
    read by row groups (100 images in Hugging Face's). A random order that jumped between them
    image by image would read each a hundred times, so the row groups are shuffled, and then the
    images within every 16 of them. The last 32 row groups are kept in memory.

    Args:
        files: In order.

    Attributes:
        labels: int64 [N].

    Raises:
        UserError: pyarrow is not installed, or a file is damaged or has other columns.
    """

    def __init__(self, files: list[Path]) -> None:
        labels, groups, rows = [], [], []
        self._groups: list[tuple[Path, Any, int]] = []
        for path in files:
            file = _open(path)
            try:
                column = file.read(columns=["label"]).column("label").to_numpy()
            except (OSError, ValueError) as error:  # pyarrow's errors are one or the other
                raise UserError(f"{path} is damaged: {_line(error)}") from None
            if column.dtype.kind not in "iu":
                raise UserError(f"{path}: label has to be a whole number for every image")
            labels.append(torch.tensor(column, dtype=torch.int64))
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                groups.append(torch.full((count,), len(self._groups)))
                rows.append(torch.arange(count))
                self._groups.append((path, file, group))
        self.labels = torch.cat(labels)
        self._group = torch.cat([*groups, torch.empty(0, dtype=torch.int64)])
        self._row = torch.cat([*rows, torch.empty(0, dtype=torch.int64)])
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, positions: Tensor) -> "Parquet":
        """These images alone, in this order."""
        kept = object.__new__(Parquet)
        kept.labels, kept._groups = self.labels[positions], self._groups
        kept._group, kept._row = self._group[positions], self._row[positions]
        kept._cache, kept._lock = OrderedDict(), threading.Lock()
        return kept

    def order(self, generator: Generator) -> Tensor:
        """A random order of the images that reads each row group once, int64 [N]."""
        place = torch.randperm(len(self._groups), generator=generator)[self._group]
        shuffled = torch.randperm(len(self.labels), generator=generator)
        return shuffled[(place // WINDOW)[shuffled].argsort(stable=True)]

    def name(self, position: int) -> str:
        """What a message calls the image."""
        path, _, group = self._groups[int(self._group[position])]
        return f"{path}, row group {group}, row {int(self._row[position])}"

    def read(self, position: int) -> bytes:
        """The encoded image; safe to call from several threads.

        Raises:
            UserError: The file is damaged, or has no bytes for this image.
        """
        data = self._column(int(self._group[position]))[int(self._row[position])].as_py()
        if not data:
            raise UserError(f"{self.name(position)}: has no bytes")
        return bytes(data)

    def _column(self, number: int) -> Any:
        """The encoded images of a row group."""
        with self._lock:
            if number not in self._cache:
                path, file, group = self._groups[number]
                try:
                    table = file.read_row_group(group, columns=["image.bytes"])
                except (OSError, ValueError) as error:
                    raise UserError(f"{path} is damaged: {_line(error)}") from None
                self._cache[number] = table.column("image").combine_chunks().field("bytes")
                if len(self._cache) > 2 * WINDOW:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(number)
            return self._cache[number]


def _open(path: Path) -> Any:
    """A parquet file with the two columns."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"reading {path} takes pyarrow, which is not installed: pip install 'snn_rl[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or no parquet file: {_line(error)}") from None
    columns = {column.path for column in map(file.schema.column, range(len(file.schema)))}
    for column in ("image.bytes", "label"):
        if column not in columns:
            raise UserError(
                f"{path} has no column {column}: it has {', '.join(sorted(columns)) or 'none'}"
            )
    return file


def _line(error: Exception) -> str:
    """An error of pyarrow's on one line."""
    return " ".join(str(error).split())
