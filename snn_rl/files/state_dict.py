"""Reads state dicts of PyTorch and safetensors files without executing code from the file.

PyTorch files contain pickles, and unpickling can execute arbitrary code. This module restricts
Python's unpickler to the opcodes and names that a state dict needs, and replaces every name by a
stand-in that describes a tensor. `torch.load(weights_only=True)` is not sufficient: a 40-byte file
can make it allocate any amount of memory, and some crafted files make it run forever.
"""

import io
import math
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from snn_rl.files.archive import MAX_BYTES, MAX_ENTRIES, Archive, parse_json
from snn_rl.utils.errors import UserError

_MAX_PICKLE = 2**18  # bytes of the pickled description; about 1,000 for the Atari network
_MAX_HEADER = 2**20  # bytes of the header of a safetensors file
_MAX_DIMS = 8
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of state dicts within checkpoints
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


def torch_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """Returns the tensors of a PyTorch file, in the order of the file.

    The file contains a state dict, or a dictionary with `state_dict`, `model_state_dict` or
    `model`. Both formats of `torch.save` are supported: zip archives, and the format before
    PyTorch 1.6.
    """
    try:
        content, read = _read_zip(data, name) if data[:2] == b"PK" else _read_legacy(data, name)
    except _Refused as refused:
        raise UserError(f"{name} is not a plain state dict: {refused}") from None
    except (
        *(ValueError, LookupError, TypeError, AttributeError, OverflowError, EOFError),
        *(pickle.UnpicklingError, struct.error),
    ) as error:
        raise UserError(f"{name} is damaged: {error!r}") from None
    return _materialize(_unwrap(content, name), read, name)


def safetensors_state_dict(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors of a safetensors file in natural order (2 before 10) and its metadata."""
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER, len(data) - 8):
        raise UserError(f"{name} is damaged or not a safetensors file (header of {length:,} bytes)")
    header = parse_json(data[8 : 8 + length], f"the header of {name}")
    if not isinstance(header, dict):
        raise UserError(f"{name} is damaged: its header is not a JSON object")
    try:
        tensors = load_safetensors(data)
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        raise UserError(f"{name} is damaged or not a safetensors file ({error})") from None
    ordered = {key: tensors[key] for key in sorted(tensors, key=_natural)}
    return ordered, header.get("__metadata__") or {}


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns a sort key that orders the numbers in names by value."""
    parts = re.split(r"(\d+)", name)
    return [(len(part.lstrip("0")), part) if part.isdigit() else (0, part) for part in parts]


# --- pickles of state dicts ----------------------------------------------------------------------


class _Refused(Exception):
    """Error for content that state dicts do not have. The message describes the content."""


@dataclass(frozen=True)
class _View:
    """Description of a storage, or of a tensor as a strided view of a storage."""

    dtype: torch.dtype
    key: str
    count: int
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Name:
    """Stand-in for a global name, which is never imported."""

    path: str

    def __call__(self, *arguments: Any) -> Any:
        match self.path, arguments:
            case "collections.OrderedDict", ():
                return {}
            case "torch._utils._rebuild_parameter", (_View() as tensor, *_):
                return tensor
            case "torch._utils._rebuild_tensor_v2", (_View() as storage, *view):
                return _strided(storage, *view[:3])
        raise _Refused("the file calls a function with unexpected arguments")


_NAMES = {
    *("collections.OrderedDict", "torch._utils._rebuild_parameter"),
    *("torch._utils._rebuild_tensor_v2", *_STORAGES),
}


class _Opcodes(dict[int, Callable[[Any], None]]):
    """Permitted opcodes and their functions."""

    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise _Refused(f"the file uses the pickle opcode {bytes([opcode])!r}")


class _Unpickler(pickle._Unpickler):
    """Python's unpickler with stand-ins for all names and without most opcodes.

    No code is executed. Every opcode consumes at least one byte of a bounded input and allocates a
    few bytes. Keys are checked before they are hashed, because hashing could take forever.
    """

    stack: list[Any]

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.storages: dict[str, _View] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        path = f"{module}.{name}"
        if path not in _NAMES:
            raise _Refused(f"unexpected name {path[:100]!r} (no code was executed)")
        return _Name(path)

    def persistent_load(self, pid: Any) -> _View:
        kind, stored_as, key, _, count, *view = pid
        if kind != "storage" or not isinstance(key, str) or not _whole(count) or any(view):
            raise ValueError("expected a storage as the persistent id")
        self.storages[key] = _View(_STORAGES[stored_as.path], key, count)
        return self.storages[key]

    def _build(self) -> None:
        self.stack.pop()  # attributes of the dictionary (versions of the modules)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def _set_items(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or not isinstance(key, str | int):
            raise _Refused("the file has a dictionary whose keys are neither strings nor integers")
        if key in target:
            raise _Refused(f"the file repeats the key {str(key)[:100]!r}")
        target[key] = value

    dispatch = _Opcodes(
        (ord(code), pickle._Unpickler.dispatch[ord(code)])
        for code in (
            *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
            *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
            *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
            *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
            *(pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BINPERSID),
        )
    )
    dispatch[ord(pickle.BUILD)] = _build
    dispatch[ord(pickle.SETITEM)] = _set_item
    dispatch[ord(pickle.SETITEMS)] = _set_items


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _strided(storage: _View, offset: Any, size: Any, stride: Any) -> _View:
    """Returns the description of a tensor after checking that its storage is large enough."""
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or len(size) > _MAX_DIMS or not all(map(_whole, numbers)):
        raise _Refused("the file has a tensor with an invalid shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # The second condition excludes strides of 0, which could repeat one number without limit.
    if (math.prod(size) and last >= storage.count) or math.prod(size) > storage.count:
        raise _Refused(
            f"the file has a tensor of {'x'.join(str(n)[:20] for n in size)} numbers, but "
            f"only {str(storage.count)[:20]} are stored"
        )
    return replace(storage, offset=offset, size=size, stride=stride)


# --- files ---------------------------------------------------------------------------------------

_ReadStorage = Callable[[str], bytes]  # maps the key of a storage to its bytes


def _read_zip(data: bytes, name: str) -> tuple[Any, _ReadStorage]:
    """Returns the description in a zip archive of `torch.save`, and a reader of its storages."""
    archive = Archive(data, name)
    (pickled, *more) = [e for e in archive.names() if e.endswith("data.pkl")] or [""]
    if not pickled or more:
        raise UserError(f"{name} is not a PyTorch state dict: expected one data.pkl")
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive and archive.read(f"{folder}byteorder", 16) != b"little":
        raise UserError(f"{name} was written on a big-endian machine")
    content = _Unpickler(io.BytesIO(archive.read(pickled, _MAX_PICKLE))).load()
    return content, lambda key: archive.read(f"{folder}data/{key}")


def _read_legacy(data: bytes, name: str) -> tuple[Any, _ReadStorage]:
    """Returns the description in a file of PyTorch before 1.6, and a reader of its storages.

    Five pickles (magic number, format version, machine, content, and keys of the storages) precede
    the storages. Each storage starts with its number of elements.
    """
    stream = io.BytesIO(data[:_MAX_PICKLE])
    if _Unpickler(stream).load() != _LEGACY_MAGIC:
        raise UserError(f"{name} is a pickle file, but was not written by torch.save")
    version, machine = _Unpickler(stream).load(), _Unpickler(stream).load()
    if version != _LEGACY_VERSION or machine["little_endian"] is not True:
        raise UserError(f"{name} has an unsupported format version or is big-endian")
    unpickler = _Unpickler(stream)
    content, keys = unpickler.load(), _Unpickler(stream).load()
    slices: dict[str, slice] = {}
    end = stream.tell()
    for key in keys:
        if not isinstance(key, str):  # hashing a nested tuple may take forever
            raise ValueError("expected a string as the storage key")
        storage = unpickler.storages[key]
        if struct.unpack_from("<q", data, end)[0] != storage.count:
            raise ValueError(f"the size of storage {key!r} does not match")
        start = end + 8
        end = start + storage.count * storage.dtype.itemsize
        slices[key] = slice(start, end)
    return content, lambda key: data[slices.get(key, slice(0))]


def _unwrap(content: Any, name: str) -> dict[str, _View]:
    """Returns the tensors by name, from the dictionary itself or from a nested state dict."""
    if isinstance(content, dict):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict) or not content:
        raise UserError(f"{name} is not a state dict: the file contains no dictionary of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, _View):
            raise UserError(
                f"{name} is not a state dict: {str(key)[:100]!r} is a {type(value).__name__}, "
                "not a tensor. Save only the weights: torch.save(network.state_dict(), path)"
            )
    return content


def _materialize(content: dict[str, _View], read: _ReadStorage, name: str) -> dict[str, Tensor]:
    """Returns the described tensors after checking their total size."""
    if len(content) > MAX_ENTRIES:
        raise UserError(f"{name} contains {len(content):,} tensors (limit: {MAX_ENTRIES:,})")
    total = sum(math.prod(t.size) * t.dtype.itemsize for t in content.values())
    if total > MAX_BYTES:
        raise UserError(f"{name} describes {total:,} bytes (limit: {MAX_BYTES:,})")
    stored: dict[str, bytes] = {}
    tensors = {}
    for key, tensor in content.items():
        if tensor.key not in stored:
            stored[tensor.key] = read(tensor.key)
        raw = stored[tensor.key]
        if len(raw) != tensor.count * tensor.dtype.itemsize:
            raise UserError(
                f"{name} is damaged: {key[:100]!r} needs {tensor.count:,} stored numbers, but the "
                f"file has {len(raw):,} bytes"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the buffer is read-only, which is sufficient here
            flat = torch.frombuffer(raw or bytes(8), dtype=tensor.dtype)
        view = torch.as_strided(flat, tensor.size, tensor.stride, tensor.offset)
        tensors[key] = view.clone(memory_format=torch.contiguous_format)
    return tensors


def check_weights(tensors: Iterable[tuple[str, Tensor]], name: str) -> None:
    """Raises a UserError unless all weights are finite floating-point numbers."""
    for key, tensor in tensors:
        if not tensor.is_floating_point():
            raise UserError(f"{name}: {key[:100]!r} is {tensor.dtype}, expected floating point")
        if not bool(torch.isfinite(tensor.float()).all()):
            raise UserError(f"{name}: {key[:100]!r} contains NaN or infinity")
