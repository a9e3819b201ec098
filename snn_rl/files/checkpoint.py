"""Checkpoints: tensors and networks as safetensors files with a JSON note and a checksum.

Loading never unpickles. Files are written atomically, see `snn_rl.files.atomic`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from snn_rl.core.conversion.integer_grid import integers
from snn_rl.core.networks import AnalogNetwork, NetworkSpec, SpikingNetwork, SpikingOptions
from snn_rl.files.archive import MAX_NOTE, parse_json
from snn_rl.files.atomic import write_bytes
from snn_rl.files.state_dict import check_weights
from snn_rl.utils.errors import UserError

SCHEMA = 1
_META = "snn_rl"
_DIGEST = "sha256"
_BATCH_COUNT = ".num_batches_tracked"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors of any type, layout and device, and a JSON note, into one file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    note = {"schema": SCHEMA, **meta}
    # A single metadata entry: safetensors writes several entries in random order.
    write_bytes(path, save(plain, {_META: json.dumps({**note, _DIGEST: _digest(note, plain)})}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file that `save_tensors` wrote.

    Returns:
        Tensors by name, and the note with its schema number.
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
        meta = parse_json(text, str(path), MAX_NOTE) if text is not None else None
    except UserError:
        meta = None
    if not isinstance(meta, dict) or "schema" not in meta:
        raise UserError(f"{path} was not written by snn_rl: its snn_rl metadata is missing")
    if meta["schema"] != SCHEMA:
        raise UserError(f"{path} has schema {meta['schema']}; this version reads schema {SCHEMA}")
    if meta.pop(_DIGEST, None) != _digest(meta, tensors):
        raise UserError(f"{path} is damaged: its content does not match its checksum")
    return tensors, meta


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

    A network with a weight that is not a finite floating-point number is rejected.
    """
    tensors, meta = load_tensors(path)
    weights = {name: t for name, t in tensors.items() if not name.endswith(_BATCH_COUNT)}
    check_weights(weights.items(), str(path))
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
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not hold the network it describes ({reason})") from None
    return network, meta
