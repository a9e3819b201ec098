"""Registry of export formats, and what all formats share."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor

from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.utils.errors import UserError
from snn_rl.utils.plugins import is_reference, load_object

# A function from pixels, uint8 [N, channels, height, width], to Q-values [N, actions] and the
# spikes [T, N, ...] of each hidden layer. The list is empty if the engine does not show spikes.
Engine = Callable[[Tensor], tuple[Tensor, list[Tensor]]]

# A function (network, path, notes) that writes a network on the CPU to a file, with the notes if
# the format has room for them, and returns the installed engines that run the file, by name.
Exporter = Callable[[SpikingNetwork, Path, Mapping[str, str]], Mapping[str, Engine]]


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        export: Function that writes a file and returns engines that run the file.
        suffix: Suffix of the file name, without a dot.
    """

    export: Exporter
    suffix: str


FORMATS: dict[str, Format] = {}


def register_format(name: str, export: Exporter, suffix: str | None = None) -> None:
    """Adds a format for `python -m snn_rl.export format=<name>`.

    Args:
        name: Name of the format, without a colon.
        export: Function that writes a file and returns engines that run the file. It raises a
            UserError if the format cannot represent the network.
        suffix: Suffix of the file name, without a dot; None: the name.

    Raises:
        ValueError: The name contains a colon or belongs to another format.
    """
    added = Format(export, suffix or name)
    if is_reference(name) or FORMATS.get(name, added) != added:
        raise ValueError(f"format {name!r}: the name is taken or contains a colon")
    FORMATS[name] = added


def get_format(name: str) -> Format:
    """Returns the format of this name.

    Args:
        name: Key of `FORMATS`, or `module:function` of an exporter.

    Raises:
        UserError: No format has this name, or the function cannot be imported.
    """
    if is_reference(name):
        try:
            return Format(load_object(name), name.rpartition(":")[2])
        except ValueError as error:
            raise UserError(f"format={name}: {error}") from None
    if name not in FORMATS:
        raise UserError(f"format={name}: must be one of {', '.join(FORMATS)}, or module:function")
    return FORMATS[name]


def optional(name: str, extra: str) -> ModuleType:
    """Imports a package that an extra of snn_rl installs.

    Args:
        name: Name of the module.
        extra: Name of the extra.

    Raises:
        UserError: The package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this needs the package {name} ({error}): pip install 'snn_rl[{extra}]'"
        ) from None


def check_plain(network: Network, kind: str) -> None:
    """Checks that a network is a deterministic, stateless stack of plain layers.

    Args:
        network: Network to export.
        kind: Name of the format in the error message.

    Raises:
        UserError: The network is not such a stack.
    """
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
