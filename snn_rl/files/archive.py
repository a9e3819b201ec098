"""Files from anywhere, read in bounds: what they declare is checked before it takes memory."""

import io
import json
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from snn_rl.utils.errors import UserError

MAX_BYTES = 2**28  # of a file of weights, and of all its tensors: forty times the Atari network
MAX_TEXT = 2**24  # of a JSON text from elsewhere
MAX_NOTE = 2**26  # of a JSON note of ours: those of a training list every episode
MAX_ENTRIES = 10_000  # of an archive
_MAX_RATIO = 200  # of a compressed entry; weights hardly shrink at all
_DIRECTORY_ENTRY = b"PK\x01\x02"

# What zipfile and zlib raise, between them, on a damaged archive
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,  # NotImplementedError too
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_bytes(path: Path) -> bytes:
    """The whole of a file of weights.

    Raises:
        UserError: It is missing, or far larger than any network that could be imported.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{path} has {size:,} bytes; a network to import has at most {MAX_BYTES:,}")
    return path.read_bytes()


def parse_json(text: bytes | str, name: str, limit: int = MAX_TEXT) -> Any:
    """JSON without repeated keys.

    Args:
        text: The JSON.
        name: What it is called in errors.
        limit: Its greatest length.

    Raises:
        UserError: It is too long, too deep, no JSON, or has a key twice.
    """
    if len(text) > limit:
        raise UserError(f"{name} is {len(text):,} bytes of JSON; at most {limit:,} are read")
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:100]!r} stands in it twice")
    return result


class Archive:
    """A zip archive that is read in bounds; nothing is ever extracted to the disk.

    Args:
        data: The archive.
        name: What it is called in errors.
        limit: Bytes of all its entries together, unpacked.
        ratio: To which an entry may be packed at most.

    Raises:
        UserError: It is damaged, names a path outside itself, has a name twice, or is larger
            inside than `limit`.
    """

    def __init__(self, data: bytes, name: str, limit: int = MAX_BYTES, ratio: float = _MAX_RATIO):
        self.name = name
        # the list of entries is read whole when an archive is opened: it is bounded first
        if data.count(_DIRECTORY_ENTRY) > MAX_ENTRIES:
            raise UserError(f"{name} lists more than {MAX_ENTRIES:,} entries")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _DAMAGE as error:
            raise UserError(f"{name} is damaged or not a zip archive ({error})") from None
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._zip.infolist():
            shown = repr(entry.filename[:100])
            parts = re.split(r"[/\\]", entry.filename)
            if ".." in parts or parts[0] == "" or ":" in parts[0]:
                raise UserError(f"{name} names a path outside itself, {shown}: it is not trusted")
            if entry.filename in self._entries:
                raise UserError(f"{name} holds {shown} twice")
            if entry.file_size > ratio * entry.compress_size + 1024:
                raise UserError(f"{name} packs {entry.file_size:,} bytes of {shown} into a few")
            self._entries[entry.filename] = entry
        total = sum(entry.file_size for entry in self._entries.values())
        if total > limit:
            raise UserError(f"{name} unpacks to {total:,} bytes; at most {limit:,} are read")

    def __contains__(self, entry: str) -> bool:
        return entry in self._entries

    def names(self) -> list[str]:
        """Its entries."""
        return list(self._entries)

    def size(self, entry: str) -> int:
        """Bytes of an entry."""
        return self._entries[entry].file_size

    def read(self, entry: str, limit: int = MAX_BYTES) -> bytes:
        """One entry, its checksum tested.

        Raises:
            UserError: It is missing, damaged or longer than `limit`.
        """
        shown = f"{entry[:100]!r} in {self.name}"
        if entry not in self._entries:
            raise UserError(f"{self.name} is not whole: it lacks {entry[:100]!r}")
        info = self._entries[entry]
        if info.file_size > limit:
            raise UserError(f"{shown} has {info.file_size:,} bytes; at most {limit:,} are read")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{shown} is compressed in a way that is not read")
        try:
            with self._zip.open(info) as file:
                return file.read(info.file_size)
        except _DAMAGE as error:
            raise UserError(f"{shown} is damaged ({error})") from None


def read_arrays(path: Path, limit: int) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, none of which may hold objects.

    Args:
        path: The file.
        limit: Bytes of the file, and of all arrays together.

    Raises:
        UserError: It is missing, damaged, larger, or holds something other than plain arrays.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.stat().st_size > limit:
        raise UserError(f"{path} is larger than what it should hold, {limit:,} bytes")
    archive = Archive(path.read_bytes(), str(path), limit, ratio=float("inf"))
    arrays = {}
    for entry in archive.names():
        data = io.BytesIO(archive.read(entry, limit))
        try:
            version = npy.read_magic(data)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(data)
            numbers = len(data.getbuffer()) - data.tell()
            # before memory is taken for a shape: what it needs has to be there
            if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != numbers:
                raise ValueError(f"{entry} has {numbers} bytes for shape {shape}")
            data.seek(0)
            arrays[entry.removesuffix(".npy")] = npy.read_array(data, allow_pickle=False)
        except (*_DAMAGE, SyntaxError, TypeError, MemoryError) as error:
            raise UserError(f"{path} is damaged ({error})") from None
    return arrays
