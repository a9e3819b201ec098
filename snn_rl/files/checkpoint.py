"""Checkpoints: tensors and networks as safetensors files with a JSON note and a checksum.

Loading never unpickles. Files are written atomically, see `snn_rl.files.atomic`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from snn_rl.core.conversion.integer_grid import integers
from snn_rl.core.networks import AnalogNetwork, NetworkSpec, SpikingNetwork, SpikingOptions
from snn_rl.files.archive import (
    MAX_CHECKPOINT,
    MAX_ENTRIES,
    MAX_JSON,
    MAX_STATE,
    check_size,
    open_file,
    parse_json,
)
from snn_rl.files.atomic import disk_errors, write_bytes
from snn_rl.files.state_dict import check_weights
from snn_rl.utils.errors import DamagedFile, UserError

T = TypeVar("T")
SCHEMA = 1
_META = "snn_rl"
_DIGEST = "sha256"
_BATCH_COUNT = ".num_batches_tracked"
# Ranges of parameters by the last part of their name. Rounding to the integer grid may give 0 as
# the threshold.
_RANGES = {
    "v_threshold": (0.0, math.inf),
    "mu": (0.0, math.inf),
    "leak": (0.0, 1.0),
    "running_var": (0.0, math.inf),
}


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    previous: Path | None = None,
) -> None:
    """Writes tensors of any type, layout and device, and a JSON note, into one file, atomically.

    The file that `path` replaces is kept as `previous`, if given.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    note = {"schema": SCHEMA, **meta}
    # A single metadata entry: safetensors writes several entries in random order.
    text = json.dumps({**note, _DIGEST: _digest(note, plain)})
    if previous is not None:
        check_size(text, f"the metadata of {path}", MAX_STATE)
    write_bytes(path, save(plain, {_META: text}), previous)


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a file as `save_tensors` does, and keeps the one before for `load_checkpoint`."""
    save_tensors(path, tensors, meta, _previous(path))


def load_checkpoint(path: Path, load: Callable[[Path], T], writes: bool = True) -> T | None:
    """Loads the newest intact file of those that `save_checkpoint` keeps.

    A damaged newest file is renamed to <stem>.damaged<suffix> if the file before is intact.

    Args:
        path: Path of the newest file.
        load: Function that loads a file, or raises DamagedFile if the file, or another file that it
            needs, is damaged.
        writes: False for a distributed worker that must not rename files.

    Returns:
        Result of `load`; None if there is no file.

    Raises:
        UserError: No file is intact, or the newest intact file cannot be read.
    """
    found = [each for each in (path, _previous(path)) if each.is_file()]
    for each in found:
        try:
            loaded = load(each)
        except DamagedFile as error:
            if each == found[-1]:
                raise DamagedFile(
                    f"{error}. Restore the file from a backup, or delete the folder of its stage "
                    "to train the stage again"
                ) from None
            print(f"{error}. Using the previous checkpoint, {found[-1]}")
        else:
            if writes and each != found[0]:
                with disk_errors(path, "rename"):  # must not become the previous checkpoint
                    path.replace(path.with_stem(f"{path.stem}.damaged"))
            return loaded
    return None


def _previous(path: Path) -> Path:
    return path.with_stem(f"{path.stem}.previous")


def load_tensors(path: Path, limit: int = MAX_JSON) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file that `save_tensors` wrote.

    Args:
        path: Path of the file.
        limit: Maximum size of its note in bytes; `MAX_STATE` for files of `save_checkpoint`.

    Returns:
        Tensors by name, and the note with its schema number.
    """
    damaged = f"{path} is damaged or not a safetensors file"
    try:
        with open_file(path, MAX_CHECKPOINT) as content:
            if int.from_bytes(content.read(8), "little") > 2 * limit:
                raise DamagedFile(f"{damaged} (header too long)")
            with safe_open(path, framework="pt") as file:
                meta = _note(path, (file.metadata() or {}).get(_META), limit)
                names = file.keys()
                if len(names) > MAX_ENTRIES:
                    raise UserError(f"{path} contains {len(names):,} tensors")
                tensors = {name: file.get_tensor(name) for name in names}
        intact = meta.pop(_DIGEST, None) == _digest(meta, tensors)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise DamagedFile(f"{damaged} ({error})") from None
    except (OSError, RuntimeError) as error:  # a lack of file handles or memory is not a damage
        raise UserError(f"cannot read {path}: {error}") from None
    if not intact:
        raise DamagedFile(f"{path} is damaged: its content does not match its checksum")
    return tensors, meta


def _note(path: Path, text: str | None, limit: int) -> dict[str, Any]:
    """Parses the note of a file."""
    meta = None if text is None else parse_json(text, f"the metadata of {path}", limit)
    if not isinstance(meta, dict) or "schema" not in meta:
        raise DamagedFile(f"{path} was not written by snn_rl: its snn_rl metadata is missing")
    if meta["schema"] != SCHEMA:
        raise UserError(f"{path} has schema {meta['schema']}; this version reads schema {SCHEMA}")
    return meta


def _digest(note: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Returns the checksum of a note and of the tensors' names, types, shapes and bytes."""
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
    """Writes a network and its description, from which `load_network` rebuilds the network.

    Args:
        path: Path of the .safetensors file.
        network: Analog or spiking network.
        meta: Additional JSON-serializable notes.
        dtype: Type of the stored weights; float16 halves the size of the file. An exact network
            keeps the type of each tensor that `dtype` cannot represent exactly.
    """
    description: dict[str, Any] = {"spec": network.spec.to_dict(), "timesteps": None}
    if isinstance(network, SpikingNetwork):
        description |= {k: v for k, v in asdict(network.options).items() if v is not False}
    tensors = {name: t.to(dtype or t.dtype) for name, t in network.state_dict().items()}
    if description.get("exact"):
        for name, t in network.state_dict().items():
            if not torch.equal(tensors[name].to(t.dtype), t):
                tensors[name] = t
    save_tensors(path, tensors, {**(meta or {}), "network": description})


def load_network(path: Path) -> tuple[AnalogNetwork | SpikingNetwork, dict[str, Any]]:
    """Rebuilds a network that `save_network` wrote, in float32; also returns all notes of the file.

    A network with a weight that is not a finite floating-point number, or with a parameter outside
    its range, is rejected.
    """
    tensors, meta = load_tensors(path)
    weights = check_parameters(tensors, str(path))
    network: AnalogNetwork | SpikingNetwork
    try:
        description = meta["network"]
        spec = NetworkSpec.from_dict(description["spec"])
        # The meta device allocates no memory, whatever sizes a damaged description holds, and
        # draws no random numbers.
        with torch.device("meta"):
            if description["timesteps"] is None:
                network = AnalogNetwork(spec)
            else:
                options = {key: value for key, value in description.items() if key != "spec"}
                network = SpikingNetwork(spec, SpikingOptions(**options))
        full = {name: weight.float() for name, weight in weights.items()}
        network.load_state_dict({**tensors, **full}, assign=True)
        if isinstance(network, SpikingNetwork) and network.exact:
            integers(network)  # raises if a value is not on the grid
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} does not hold the network it describes ({error})") from None
    return network, meta


def check_parameters(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Returns the parameters and statistics among the tensors of a network, without its counters.

    Raises:
        UserError: A tensor is not a finite floating-point number, or it is out of range.
    """
    weights = {key: t for key, t in tensors.items() if not key.endswith(_BATCH_COUNT)}
    check_weights(weights.items(), name)
    for key, values in weights.items():
        low, high = _RANGES.get(key.rpartition(".")[2], (-math.inf, math.inf))
        if not bool(((values >= low) & (values <= high)).all()):
            raise UserError(f"{name}: {key[:100]!r} is not between {low:g} and {high:g}")
    return weights
