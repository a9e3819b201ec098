"""Bounded reading of untrusted files: sizes are checked before memory is allocated."""

import io
import json
import math
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from snn_rl.utils.errors import DamagedFile, UserError

MAX_BYTES = 2**28  # of a file of weights and of its tensors, forty times the Atari network
MAX_CHECKPOINT = 2**33  # of a file of our own networks, with the state of the optimizer
MAX_JSON = 2**24  # of a JSON text
MAX_STATE = 2**26  # of the JSON text in a checkpoint, which lists every episode of a training
MAX_ENTRIES = 10_000  # of an archive
# Bytes of a JSON text's limit per object or key, and per other value. Each object takes about a
# hundred bytes, many times its text.
_BYTES_PER_VALUE = {"{:": 64, "[,": 4}
_LFS_POINTER = b"version https://git-lfs"
_MAX_RATIO = 200  # of a compressed entry; weights hardly compress
_DIRECTORY_ENTRY = b"PK\x01\x02"

# All exceptions that zipfile and zlib raise on damaged archives
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,  # includes NotImplementedError
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raises a UserError for the errors of the operating system in reading a file."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedFile(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


@contextmanager
def open_file(path: Path, limit: int = MAX_BYTES) -> Iterator[io.BufferedReader]:
    """Opens a regular file of at most `limit` bytes for reading.

    Raises:
        UserError: The path is not such a file, or the file cannot be read.
    """
    with read_errors(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise UserError(f"{path} is {kind}, but a file is required")
        if status.st_size > limit:
            raise UserError(f"{path} has {status.st_size:,} bytes, but at most {limit:,} are read")
        file = path.open("rb")
    with file:
        with read_errors(path):
            start = file.peek(len(_LFS_POINTER))
        if start.startswith(_LFS_POINTER):
            raise UserError(
                f"{path} is only a Git LFS pointer to the file: download the file with "
                "`git lfs pull`"
            )
        yield file


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Reads a whole file of at most `limit` bytes, see `open_file`."""
    with open_file(path, limit) as file, read_errors(path):
        return file.read()


def check_size(text: bytes | str, name: str, limit: int) -> None:
    """Raises a UserError if `parse_json` would refuse a JSON text because of its size."""
    if len(text) > limit:
        raise UserError(f"{name} has {len(text):,} bytes of JSON, but at most {limit:,} are read")
    raw = text.encode() if isinstance(text, str) else text
    for characters, size in _BYTES_PER_VALUE.items():
        if sum(raw.count(character.encode()) for character in characters) > limit // size:
            raise UserError(f"{name} has too many JSON values")


def parse_json(text: bytes | str, name: str, limit: int = MAX_JSON) -> Any:
    """Parses JSON without repeated keys, of at most `limit` bytes.

    `name` stands for the text in error messages.
    """
    check_size(text, name, limit)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{name} is damaged: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:100]!r} is repeated")
        result[key] = value
    return result


class Archive:
    """A zip archive in memory, read within bounds. Nothing is extracted to the disk.

    Args:
        data: Content of the archive.
        name: Name of the archive in error messages.
        limit: Maximum total size of all entries in bytes, uncompressed.
        ratio: Maximum compression ratio of an entry.

    Raises:
        DamagedFile: The archive is damaged or too large, repeats an entry, or names a path outside
            itself.
    """

    def __init__(self, data: bytes, name: str, limit: int = MAX_BYTES, ratio: float = _MAX_RATIO):
        self.name = name
        # zipfile reads the list of entries as a whole, so its length is checked first.
        if data.count(_DIRECTORY_ENTRY) > MAX_ENTRIES:
            raise DamagedFile(f"{name} lists more than {MAX_ENTRIES:,} entries")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _DAMAGE as error:
            raise DamagedFile(f"{name} is damaged or not a zip archive ({error})") from None
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            shown = repr(entry.filename[:100])
            parts = re.split(r"[/\\]", entry.filename)
            if ".." in parts or parts[0] == "" or ":" in parts[0]:
                raise DamagedFile(f"{name} is not trusted: {shown} is a path outside the archive")
            if entry.filename in self._entries:
                raise DamagedFile(f"{name} repeats the entry {shown}")
            if entry.file_size > ratio * entry.compress_size + 1024:
                raise DamagedFile(
                    f"{name} is not trusted: {entry.compress_size:,} bytes decompress to "
                    f"{entry.file_size:,} bytes of {shown}"
                )
            self._entries[entry.filename] = entry
        total = sum(entry.file_size for entry in self._entries.values())
        if total > limit:
            raise DamagedFile(f"{name} unpacks to {total:,} bytes, but at most {limit:,} are read")

    def __contains__(self, entry: str) -> bool:
        return entry in self._entries

    def names(self) -> list[str]:
        """Returns the names of the entries."""
        return list(self._entries)

    def read(self, entry: str, limit: int = MAX_BYTES) -> bytes:
        """Returns the content of an entry after a check of its checksum."""
        shown = f"{entry[:100]!r} in {self.name}"
        if entry not in self._entries:
            raise DamagedFile(f"{self.name} is incomplete: it lacks {entry[:100]!r}")
        info = self._entries[entry]
        if info.file_size > limit:
            raise DamagedFile(
                f"{shown} has {info.file_size:,} bytes, but at most {limit:,} are read"
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedFile(f"{shown} has an unsupported compression method")
        try:
            with self._zip.open(info) as file:
                return file.read(info.file_size)
        except _DAMAGE as error:
            raise DamagedFile(f"{shown} is damaged ({error})") from None


def read_arrays(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    """Reads the arrays of an .npz file; arrays of Python objects are rejected.

    The file and all its arrays together may each have at most `limit` bytes.
    """
    archive = Archive(read_bytes(path, limit), str(path), limit, ratio=math.inf)
    arrays = {}
    for entry in archive.names():
        data = io.BytesIO(archive.read(entry, limit))
        try:
            version = npy.read_magic(data)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(data)
            available = len(data.getbuffer()) - data.tell()
            # The declared size has to be available before NumPy allocates it.
            if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != available:
                raise ValueError(f"{entry} has {available} bytes for shape {shape}")
            data.seek(0)
            arrays[entry.removesuffix(".npy")] = npy.read_array(data, allow_pickle=False)
        except (*_DAMAGE, SyntaxError, TypeError, MemoryError) as error:
            raise DamagedFile(f"{path} is damaged ({error})") from None
    return arrays
