"""Other people's weights, read without running anything of theirs.

PyTorch files and Stable-Baselines3's zips hold pickles, and a pickle is a program. None is ever
unpickled here: `pickletools` lists a state dict's opcodes without executing them, and the few that
build a dictionary of tensors are interpreted below. Every other one, every name that is not one of
PyTorch's own storages, and everything that asks for more memory than its file backs is refused.
"""

import math
import pickletools
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from snn_rl.files.archive import MAX_BYTES, MAX_ENTRIES, Archive, parse_json
from snn_rl.utils.errors import UserError

_MAX_PICKLE = 2**22  # that lists a state dict's tensors
_MAX_OPERATIONS = 100_000  # of that pickle; the Atari network takes 300
_MAX_HEADER = 2**20  # of a safetensors file
_MAX_DIMS = 8
_WRAPPERS = ("state_dict", "model_state_dict")  # what training scripts put beside their optimizer

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_KNOWN = {_DICT, _TENSOR, _PARAMETER, *(f"torch.{name}" for name in _STORAGES)}


def torch_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save(network.state_dict(), path)` wrote, in its order.

    Args:
        data: The file (PyTorch's zip format, since 1.6).
        name: What it is called in errors.

    Raises:
        UserError: It is damaged, or holds anything but tensors.
    """
    archive = Archive(data, name)
    (pickled, *more) = [e for e in archive.names() if e.endswith("data.pkl")] or [""]
    if not pickled or more:
        raise UserError(f"{name} is not a PyTorch state dict: it has no data.pkl, or several")
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive and archive.read(f"{folder}byteorder", 16) != b"little":
        raise UserError(f"{name} was written by a big-endian machine")
    try:
        content = _interpret(archive.read(pickled, _MAX_PICKLE))
    except _Refused as refused:
        raise UserError(f"{name} is not a plain state dict: {refused}") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{name} is damaged: {error!r}") from None
    return _materialize(_unwrap(content, name), archive, folder, name)


def safetensors_state_dict(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, by name as people count (2 before 10), and its metadata.

    Args:
        data: The file.
        name: What it is called in errors.

    Raises:
        UserError: It is damaged.
    """
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER, len(data) - 8):
        raise UserError(f"{name} is damaged or not a safetensors file (header of {length:,} bytes)")
    header = parse_json(data[8 : 8 + length], f"the header of {name}")
    if not isinstance(header, dict):
        raise UserError(f"{name} is damaged: its header is no table of tensors")
    try:
        tensors = load_safetensors(data)
    except (SafetensorError, ValueError, KeyError, OverflowError, RuntimeError) as error:
        raise UserError(f"{name} is damaged or not a safetensors file ({error})") from None
    order = sorted(tensors, key=_counted)
    return {key: tensors[key] for key in order}, header.get("__metadata__") or {}


def _counted(name: str) -> list[tuple[int, str]]:
    """A key that sorts names with the numbers in them as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(len(part.lstrip("0")), part) if part.isdigit() else (0, part) for part in parts]


# --- the pickle of a state dict ------------------------------------------------------------------


class _Refused(Exception):
    """Something that a state dict does not hold; the message says what."""


@dataclass(frozen=True)
class _Name:
    """A global name, which is never looked up."""

    path: str


@dataclass(frozen=True)
class _Storage:
    """The numbers behind one tensor or several."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class _Strided:
    """A tensor as its pickle describes it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
)


def _interpret(pickled: bytes) -> Any:
    """What a pickle of dictionaries, numbers, strings and tensors describes."""
    stack: list[Any] = []
    marked: list[list[Any]] = []  # what lay below each mark
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marked.pop()
        return items

    operations: Iterable[tuple[Any, Any, Any]] = pickletools.genops(pickled)
    for count, (opcode, argument, _) in enumerate(operations):
        if count > _MAX_OPERATIONS:
            raise _Refused(f"its pickle has more than {_MAX_OPERATIONS:,} steps")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marked.append(stack)
                stack = []
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[opcode.name])
            case kind if kind in _VALUES:
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                items = since_mark()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                last = int(opcode.name[-1])
                stack[-last:] = [tuple(stack[-last:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, name = stack[-2:]
                if not isinstance(module, str) or not isinstance(name, str):
                    raise ValueError("a global name that is no string")
                stack[-2:] = [_name(f"{module}.{name}")]
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_call(stack.pop(), arguments))
            case "BUILD":  # of an OrderedDict: the versions of its modules
                stack.pop()
                if not isinstance(stack[-1], dict):
                    raise _Refused("it sets attributes of something other than a dictionary")
            case "SETITEM":
                value = stack.pop()
                _update(stack[-2], [stack.pop(), value])
            case "SETITEMS":
                items = since_mark()
                _update(stack[-1], items)
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "STOP":
                return stack.pop()
            case other:
                raise _Refused(f"it uses the pickle opcode {other}")
    raise ValueError("the pickle has no end")


def _name(path: str) -> _Name:
    if path not in _KNOWN:
        raise _Refused(f"it wants {path[:100]!r}, which no state dict needs; nothing was run")
    return _Name(path)


def _storage(reference: Any) -> _Storage:
    kind, name, key, _, count = reference
    if kind != "storage" or not isinstance(key, str) or not _whole(count):
        raise ValueError("a reference to something that is no storage")
    return _Storage(_STORAGES[name.path.removeprefix("torch.")], key, count)


def _call(function: Any, arguments: Any) -> Any:
    """The result of one of the three calls that a state dict consists of."""
    match function, arguments:
        case _Name(path), () if path == _DICT:
            return {}
        case _Name(path), (_Strided() as tensor, *_) if path == _PARAMETER:
            return tensor
        case _Name(path), (_Storage() as storage, offset, tuple(size), tuple(stride), *_) if (
            path == _TENSOR
        ):
            return _strided(storage, offset, size, stride)
    raise _Refused("it calls something with arguments that no state dict has")


def _strided(storage: _Storage, offset: Any, size: Any, stride: Any) -> _Strided:
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or len(size) > _MAX_DIMS or not all(map(_whole, numbers)):
        raise _Refused("it has a tensor whose shape is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # the second keeps out strides of 0, which make one number a tensor of any size
    if (math.prod(size) and last >= storage.count) or math.prod(size) > storage.count:
        raise _Refused(
            f"it has a tensor of {'x'.join(str(n)[:20] for n in size)} numbers on "
            f"{str(storage.count)[:20]} stored ones"
        )
    return _Strided(storage, offset, size, stride)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _update(target: Any, flat: list[Any]) -> None:
    if not isinstance(target, dict) or len(flat) % 2:
        raise ValueError("items for something other than a dictionary")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if not isinstance(key, str | int):
            raise _Refused("it has a dictionary whose keys are neither names nor numbers")
        if key in target:
            raise _Refused(f"it has {str(key)[:100]!r} twice")
        target[key] = value


def _unwrap(content: Any, name: str) -> dict[str, _Strided]:
    """The tensors by name: the dictionary itself, or the one in it that is called state_dict."""
    if isinstance(content, dict):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict) or not content:
        raise UserError(f"{name} is not a state dict: it holds no dictionary of tensors")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, _Strided):
            raise UserError(
                f"{name} is not a state dict: {str(key)[:100]!r} is a {type(value).__name__}, "
                "not a tensor. Save the network's alone: torch.save(network.state_dict(), path)"
            )
    return content


def _materialize(
    content: dict[str, _Strided], archive: Archive, folder: str, name: str
) -> dict[str, Tensor]:
    if len(content) > MAX_ENTRIES:
        raise UserError(f"{name} holds {len(content):,} tensors; at most {MAX_ENTRIES:,} are read")
    total = sum(math.prod(t.size) * t.storage.dtype.itemsize for t in content.values())
    if total > MAX_BYTES:
        raise UserError(f"{name} describes {total:,} bytes; at most {MAX_BYTES:,} are read")
    stored: dict[str, bytes] = {}
    tensors = {}
    for key, tensor in content.items():
        storage = tensor.storage
        if storage.key not in stored:
            stored[storage.key] = archive.read(f"{folder}data/{storage.key}")
        raw = stored[storage.key]
        if len(raw) != storage.count * storage.dtype.itemsize:
            raise UserError(
                f"{name} is damaged: {key[:100]!r} should lie on {storage.count:,} numbers, and "
                f"{len(raw):,} bytes are there"
            )
        flat = _from_bytes(raw, storage.dtype)
        tensors[key] = torch.as_strided(flat, tensor.size, tensor.stride, tensor.offset).clone(
            memory_format=torch.contiguous_format
        )
    return tensors


def _from_bytes(raw: bytes, dtype: torch.dtype) -> Tensor:
    if not raw:
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not writable, and is never written
        return torch.frombuffer(raw, dtype=dtype)


def check_weights(tensors: Iterable[tuple[str, Tensor]], name: str) -> None:
    """Refuses weights that are no numbers to compute with.

    Args:
        tensors: (name, tensor).
        name: What their file is called in errors.

    Raises:
        UserError: One is not of a floating-point type, or holds NaN or infinity.
    """
    for key, tensor in tensors:
        if not tensor.is_floating_point():
            raise UserError(f"{name}: {key[:100]!r} is {tensor.dtype}, not floating point")
        if not bool(torch.isfinite(tensor.float()).all()):
            raise UserError(f"{name}: {key[:100]!r} holds NaN or infinity")
