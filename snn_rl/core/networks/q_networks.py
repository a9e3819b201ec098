"""Q-networks of [IIR] A.5, registered networks, and networks named by their layers."""

import re
from collections.abc import Callable, Sequence

from snn_rl.core.networks.spec import Conv, Dense, ImageShape, NetworkSpec, build_spec
from snn_rl.utils.plugins import Registry

_CONV = re.compile(r"(\d{1,6})c(\d{1,4})s(\d{1,4})")
_DENSE = re.compile(r"\d{1,6}")


def cartpole(input_shape: ImageShape, actions: int, bias: bool = False) -> NetworkSpec:
    """Returns the CartPole network.

    The layers are three 5x5 convolutions with 16, 32, and 32 filters and stride 2, and a linear
    head.

    Source: [IIR] A.5.1.
    """
    return NetworkSpec(input_shape, (Conv(16, 5, 2), Conv(32, 5, 2), Conv(32, 5, 2)), actions, bias)


def mnih(input_shape: ImageShape, actions: int, bias: bool = False) -> NetworkSpec:
    """Returns the Atari network of Mnih et al. (2015).

    The layers are convolutions with 32 filters of 8x8 and stride 4, 64 of 4x4 and stride 2, and 64
    of 3x3 and stride 1, then 512 units and a linear head.

    Source: [IIR] A.5.2.
    """
    layers = (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1), Dense(512))
    return NetworkSpec(input_shape, layers, actions, bias)


QNetworkBuilder = Callable[..., NetworkSpec]
Q_NETWORKS: Registry[QNetworkBuilder] = Registry(
    "network",
    {"cartpole": cartpole, "mnih": mnih},
    "hidden layers as in 16c8s4-32c4s2-256, or module:function",
)


def register_network(name: str, builder: QNetworkBuilder) -> None:
    """Registers a Q-network under a name for the setting `network`.

    Args:
        name: New name, without a colon.
        builder: Function of (input_shape, actions, bias) that returns a `NetworkSpec`.

    Raises:
        ValueError: The name contains a colon or is registered already.
    """
    Q_NETWORKS.register(name, builder)


def q_network(name: str, input_shape: ImageShape, actions: int, bias: bool = False) -> NetworkSpec:
    """Returns the layer stack of a Q-network.

    Args:
        name: Key of `Q_NETWORKS`, `module:function` of a builder (see `register_network`), or the
            hidden layers: 32c8s4-64c4s2-512 stands for convolutions with 32 filters of 8x8 and
            stride 4 and 64 filters of 4x4 and stride 2, then 512 units.
        input_shape: (channels, height, width) of one observation.
        actions: Number of actions.
        bias: True if the layers have biases.

    Raises:
        ValueError: The name is not valid, or the images are too small for the layers.
    """
    layers = [_spelled(word) for word in name.split("-")]
    if None in layers:
        spec = build_spec(Q_NETWORKS, name, input_shape, actions, bias=bias)
        if spec.batch_norm or spec.clip:
            raise ValueError(
                f"network={name}: Q-networks support neither batch norm nor clipped ReLUs"
            )
        return spec
    spec = NetworkSpec(input_shape, tuple(filter(None, layers)), actions, bias)
    spec.connections()
    return spec


def _spelled(word: str) -> Conv | Dense | None:
    if conv := _CONV.fullmatch(word):
        return Conv(*(int(n) for n in conv.groups()))
    return Dense(int(word)) if _DENSE.fullmatch(word) else None


def layers_name(layers: Sequence[object]) -> str:
    """Returns the name from which `q_network` builds the given hidden layers.

    Raises:
        ValueError: A layer is neither a dense layer nor a convolution without padding.
    """
    for build in (cartpole, mnih):
        if build((1, 84, 84), 1).layers == tuple(layers):
            return build.__name__
    words = []
    for layer in layers:
        match layer:
            case Conv(channels, kernel, stride, 0):
                words.append(f"{channels}c{kernel}s{stride}")
            case Dense(units):
                words.append(str(units))
            case _:
                raise ValueError(f"the name of a Q-network cannot express the layer {layer}")
    return "-".join(words)
