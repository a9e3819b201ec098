"""Registry of export formats and helpers shared by all formats."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from torch import Tensor

from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.utils.errors import UserError
from snn_rl.utils.plugins import Registry

# A function from pixels, uint8 [N, channels, height, width], to Q-values [N, actions] and the
# spikes [T, N, ...] of each hidden layer. The list is empty if the engine does not expose spikes.
Engine = Callable[[Tensor], tuple[Tensor, list[Tensor]]]

# A function (network, path, notes) that writes a network on the CPU to a file, with the notes if
# the format has room for them, and returns the installed engines that run the file, by name. The
# function raises a UserError if the format cannot represent the network.
Exporter = Callable[[SpikingNetwork, Path, Mapping[str, str]], Mapping[str, Engine]]

FORMATS: Registry[Exporter] = Registry(
    "format",
    {
        "onnx": "snn_rl.formats.onnx:export",
        "nir": "snn_rl.formats.simulators:export",
        "torch": "snn_rl.formats.program:export",
        "event": "snn_rl.formats.event:export",
        "c": "snn_rl.formats.c:export",
    },
)


def register_format(name: str, export: Exporter) -> None:
    """Adds a format for `python -m snn_rl.export format=<name>`.

    Args:
        name: Name of the format and suffix of its files, without a colon.
        export: Function that writes a file and returns engines that run the file.

    Raises:
        ValueError: The name contains a colon or belongs to another format.
    """
    FORMATS.register(name, export)


def optional(name: str, extra: str) -> ModuleType:
    """Imports a package that an extra of snn_rl installs; an error says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this needs the package {name} ({error}): pip install 'snn_rl[{extra}]'"
        ) from None


def check_plain(network: Network, kind: str) -> None:
    """Raises a UserError unless a network is a deterministic, stateless stack of plain layers."""
    spec = network.spec
    reason = None
    if not spec.is_plain or spec.batch_norm or spec.clip:
        reason = "it has layers other than plain convolutions and dense layers"
    elif isinstance(network, SpikingNetwork) and network.options.encoding != "direct":
        reason = f"its {network.options.encoding} encoding draws random numbers"
    elif isinstance(network, SpikingNetwork) and network.options.carry_state:
        reason = "its membranes carry over from image to image"
    if reason:
        raise UserError(f"this network cannot be exported as {kind}: {reason}")
