"""Files that survive: atomic writes, and reading that never unpickles.

Everything a run stores is safetensors, JSON or NumPy's plain array format. A file is written
beside its final name, flushed to the disk and renamed into place, so a reader finds the old
content or the new, never half of either; a write that fails leaves the old content standing.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from snn_rl.core.conversion.integer_grid import integers
from snn_rl.core.networks import AnalogNetwork, NetworkSpec, SpikingNetwork
from snn_rl.files.archive import parse_json
from snn_rl.files.state_dict import check_weights
from snn_rl.utils.errors import UserError

SCHEMA = 1
_META = "snn_rl"
_DIGEST = "sha256"
_COUNT = ".num_batches_tracked"
_MAX_TEXT = 2**26  # of JSON: a training's notes list every episode


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what a user can mend (a full disk, no permission) into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror}. The checkpoint before it is intact: free some "
            "space and run the same command again"
        ) from error


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary neighbour of `path`, syncs it and renames it into place.

    Raises:
        UserError: The disk is full or read-only; `path` is as it was before.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    Raises:
        UserError: The disk is full or read-only.
    """
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def remove_temporaries(directory: Path) -> None:
    """Removes what killed writers left behind."""
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink()


def write_json(path: Path, data: Any) -> None:
    """Writes JSON atomically."""
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode()))


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.stat().st_size > _MAX_TEXT:
        raise UserError(f"{path} is {path.stat().st_size:,} bytes long: it is not one of ours")
    return parse_json(path.read_bytes(), str(path), _MAX_TEXT)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON-able description into one safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    note = {"schema": SCHEMA, **meta}
    # one entry, because safetensors writes several in any order: the same content, the same bytes
    data = save(plain, {_META: json.dumps({**note, _DIGEST: _digest(note, plain)})})
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote.

    Raises:
        UserError: The file is missing, damaged or truncated, or not one of ours.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_META)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error})") from None
    try:
        meta = parse_json(text, str(path), _MAX_TEXT) if text is not None else None
    except UserError:
        meta = None
    if not isinstance(meta, dict) or "schema" not in meta:
        raise UserError(f"{path} was not written by snn_rl: it carries no description")
    if meta["schema"] != SCHEMA:
        raise UserError(f"{path} has schema {meta['schema']}; this version reads schema {SCHEMA}")
    if meta.pop(_DIGEST, None) != _digest(meta, tensors):
        raise UserError(f"{path} is damaged: its content does not fit its checksum")
    return tensors, meta


def _digest(note: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Checksum of a description and of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(note).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_network(
    path: Path,
    network: AnalogNetwork | SpikingNetwork,
    meta: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a network with everything that is needed to build it again.

    Args:
        path: A .safetensors file.
        network: Analog or spiking.
        meta: More to note beside it.
        dtype: Stores the weights in this type (float16 halves a file that ships). An exact network
            keeps the type of the tensors that it cannot hold exactly.
    """
    description: dict[str, Any] = {"spec": network.spec.to_dict(), "timesteps": None}
    if isinstance(network, SpikingNetwork):
        description |= {
            "timesteps": network.timesteps,
            "surrogate": network.surrogate,
            "encoding": network.encoding,
        }
        if network.carry_state:
            description["carry_state"] = True
        if network.exact:
            description["exact"] = True
    tensors = {name: t.to(dtype or t.dtype) for name, t in network.state_dict().items()}
    if description.get("exact"):
        for name, t in network.state_dict().items():
            if not torch.equal(tensors[name].to(t.dtype), t):
                tensors[name] = t
    save_tensors(path, tensors, {**(meta or {}), "network": description})


def load_network(path: Path) -> tuple[AnalogNetwork | SpikingNetwork, dict[str, Any]]:
    """Builds the network that `save_network` wrote, in float32, and returns its notes beside it.

    Raises:
        UserError: The file is missing, damaged, its tensors do not fit its description, or they are
            no finite numbers.
    """
    tensors, meta = load_tensors(path)
    # batch-norm also counts its batches, in whole numbers
    weights = {name: t for name, t in tensors.items() if not name.endswith(_COUNT)}
    check_weights(weights.items(), str(path))
    network: AnalogNetwork | SpikingNetwork
    try:
        description = meta["network"]
        spec = NetworkSpec.from_dict(description["spec"])
        # on meta no memory is taken (a damaged description may ask for any amount) and no random
        # number is drawn
        with torch.device("meta"):
            if description["timesteps"] is None:
                network = AnalogNetwork(spec)
            else:
                network = SpikingNetwork(
                    spec,
                    description["timesteps"],
                    description["surrogate"],
                    description["encoding"],
                    bool(description.get("carry_state", False)),
                    bool(description.get("exact", False)),
                )
        full = {name: weight.float() for name, weight in weights.items()}
        network.load_state_dict({**tensors, **full}, assign=True)
        if isinstance(network, SpikingNetwork) and network.exact:
            integers(network)  # refuses what is not on the grid
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not hold the network it describes ({reason})") from None
    return network, meta
