"""Networks as files for other engines: ONNX, NIR and `torch.export` programs.

What they need is optional, and imported when it is used.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

from torch import Tensor

from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.utils.errors import UserError

# Pixels [N, channels, height, width], uint8, to Q-values [N, actions] and every hidden layer's
# spikes [T, N, ...]; no layers where an engine does not show them.
Engine = Callable[[Tensor], tuple[Tensor, list[Tensor]]]


def optional(name: str, extra: str) -> ModuleType:
    """Imports a package that not every installation has.

    Args:
        name: Of the module.
        extra: The extra of snn_rl that brings it.

    Raises:
        UserError: It is not installed; the message says how to.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this needs the package {name} ({error}): pip install 'snn_rl[{extra}]'"
        ) from None


def check_plain(network: Network, kind: str) -> None:
    """Refuses what a file cannot hold.

    Args:
        network: To be exported.
        kind: Of file, for the message.

    Raises:
        UserError: The network is no plain stack, is random, or remembers the images before.
    """
    spec = network.spec
    reason = None
    if not spec.is_plain or spec.batch_norm or spec.clip:
        reason = "it has layers other than plain convolutions and dense ones"
    elif isinstance(network, SpikingNetwork) and network.encoding != "direct":
        reason = f"its {network.encoding} encoding draws random numbers"
    elif isinstance(network, SpikingNetwork) and network.carry_state:
        reason = "its membranes live on from image to image"
    if reason:
        raise UserError(f"this network cannot be written as {kind}: {reason}")
