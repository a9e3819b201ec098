"""Images in parquet files, in the layout of Hugging Face's datasets."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from snn_rl.files.archive import open_file
from snn_rl.utils.errors import UserError

WINDOW = 16  # row groups that are shuffled together
_COLUMNS = ("image.bytes", "label")
_MAX_FILE = 2**40  # bytes
_MAX_GROUP = 2**28  # bytes of a row group, decompressed
_LEAST_IMAGE = 20  # minimum bytes per row


class Parquet:
    """Images of parquet files.

    The columns are `image`, a struct with the encoded `bytes`, and `label`, an integer. Files are
    read by row groups (100 images in Hugging Face's files). A fully random order would read each
    row group a hundred times, so the row groups are shuffled, and then the images within every 16
    row groups. The last 32 row groups are cached.

    Attributes:
        labels: Labels, int64 [N].
    """

    def __init__(self, files: list[Path]) -> None:
        labels, groups, rows = [], [], []
        self._groups: list[tuple[Path, Any, int]] = []
        for path in files:
            file = _open(path)
            with _damage(path):
                column = file.read(columns=["label"]).column("label").to_numpy()
            if column.dtype.kind not in "iu":
                raise UserError(f"{path}: label must be an integer for every image")
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
        """Returns only the images at these positions, in this order."""
        kept = copy(self)
        kept.labels = self.labels[positions]
        kept._group, kept._row = self._group[positions], self._row[positions]
        return kept

    def order(self, generator: Generator) -> Tensor:
        """Draws a random order of the images that reads each row group once, int64 [N]."""
        place = torch.randperm(len(self._groups), generator=generator)[self._group]
        shuffled = torch.randperm(len(self.labels), generator=generator)
        return shuffled[(place // WINDOW)[shuffled].argsort(stable=True)]

    def name(self, position: int) -> str:
        """Returns the name of an image in messages."""
        path, _, group = self._groups[int(self._group[position])]
        return f"{path}, row group {group}, row {int(self._row[position])}"

    def read(self, position: int) -> bytes:
        """Returns an encoded image; thread-safe."""
        data = self._column(int(self._group[position]))[int(self._row[position])].as_py()
        if not data:
            raise UserError(f"{self.name(position)} has no bytes")
        return bytes(data)

    def _column(self, number: int) -> Any:
        """Returns the encoded images of a row group."""
        with self._lock:
            if number not in self._cache:
                path, file, group = self._groups[number]
                with _damage(path):
                    table = file.read_row_group(group, columns=["image.bytes"])
                self._cache[number] = table.column("image").combine_chunks().field("bytes")
                if len(self._cache) > 2 * WINDOW:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(number)
            return self._cache[number]


def _open(path: Path) -> Any:
    """Opens a parquet file and checks its columns."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"reading {path} needs the package pyarrow: pip install 'snn_rl[parquet]'"
        ) from None
    with open_file(path, _MAX_FILE), _damage(path):
        metadata = parquet.read_metadata(path)
    schema = metadata.schema
    columns = {column.path: column for column in map(schema.column, range(len(schema)))}
    for name in _COLUMNS:
        if name not in columns:
            raise UserError(
                f"{path} has no column {name}, only {', '.join(sorted(columns)) or 'none'}"
            )
    used = [columns[name] for name in _COLUMNS]
    if used[0].physical_type != "BYTE_ARRAY" or any(c.max_repetition_level for c in used):
        raise UserError(f"{path}: each row must have the bytes of one image and one label")
    _check_size(path, metadata)
    with _damage(path):
        # A repeated value that the file stores once is also stored once in memory.
        return parquet.ParquetFile(path, metadata=metadata, read_dictionary=_COLUMNS[:1])


def _check_size(path: Path, metadata: Any) -> None:
    """Raises a UserError if the rows of a file cannot be images, or would take too much memory."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    counts = [group.num_rows for group in groups]
    if min(counts, default=0) < 0 or sum(counts) > path.stat().st_size / _LEAST_IMAGE:
        raise UserError(f"{path} is damaged: {sum(counts):,} images do not fit in the file")
    for group in groups:
        chunks = map(group.column, range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in _COLUMNS)
        if not 0 <= size <= _MAX_GROUP:
            raise UserError(
                f"{path} has a row group of {size:,} bytes, but at most {_MAX_GROUP:,} are read: "
                "write the file with fewer images per row group"
            )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Raises a one-line UserError for errors of pyarrow, which are OSErrors or ValueErrors."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a parquet file: {error}") from None
