"""Q-networks: those of [IIR] A.5, layers spelt out in a name, and registered ones."""

import re
from collections.abc import Callable, Sequence

from snn_rl.core.networks.spec import Conv, Dense, NetworkSpec, build_spec
from snn_rl.utils.plugins import is_reference


def cartpole(input_shape: tuple[int, int, int], actions: int, bias: bool = False) -> NetworkSpec:
    """The CartPole network: three 5x5 convolutions with stride 2 and a linear head.

    Source: [IIR] A.5.1: 16, 32 and 32 filters.
    """
    return NetworkSpec(input_shape, (Conv(16, 5, 2), Conv(32, 5, 2), Conv(32, 5, 2)), actions, bias)


def mnih(input_shape: tuple[int, int, int], actions: int, bias: bool = False) -> NetworkSpec:
    """The Atari network of Mnih et al. (2015), as [IIR] A.5.2 uses it.

    32 8x8 filters with stride 4, 64 4x4 with stride 2, 64 3x3 with stride 1, 512 units.
    """
    layers = (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1), Dense(512))
    return NetworkSpec(input_shape, layers, actions, bias)


Builder = Callable[..., NetworkSpec]
Q_NETWORKS: dict[str, Builder] = {"cartpole": cartpole, "mnih": mnih}
_CONV = re.compile(r"(\d{1,6})c(\d{1,4})s(\d{1,4})")
_DENSE = re.compile(r"\d{1,6}")


def register_network(name: str, builder: Builder) -> None:
    """Adds a Q-network under a name that the setting `network` accepts.

    Args:
        name: Name of the network, without a colon.
        builder: Function of (input_shape, actions, bias) that returns a `NetworkSpec`.

    Raises:
        ValueError: The name contains a colon or belongs to another network.
    """
    if is_reference(name) or Q_NETWORKS.get(name, builder) is not builder:
        raise ValueError(f"network {name!r}: the name is taken or contains a colon")
    Q_NETWORKS[name] = builder


def q_network(
    name: str, input_shape: tuple[int, int, int], actions: int, bias: bool = False
) -> NetworkSpec:
    """Returns the layer stack of a Q-network.

    Args:
        name: One of

            - a key of `Q_NETWORKS`;
            - the hidden layers, for example 32c8s4-64c4s2-64c3s1-512: three convolutions of 32, 64
              and 64 channels with kernels 8, 4, 3 and strides 4, 2, 1, and a dense layer of 512
              units;
            - `module:function` of a builder, see `register_network`.
        input_shape: (channels, height, width) of one observation.
        actions: Number of actions.
        bias: Whether the layers have biases.

    Raises:
        ValueError: The name is none of these, or the images are too small for the layers.
    """
    if name in Q_NETWORKS or is_reference(name):
        spec = build_spec(name, Q_NETWORKS, input_shape, actions, bias=bias)
        if spec.batch_norm or spec.clip:
            raise ValueError(f"network={name}: a Q-network has no batch normalization and no clips")
        return spec
    layers: list[Conv | Dense] = []
    for word in name.split("-"):
        if conv := _CONV.fullmatch(word):
            layers.append(Conv(*(int(n) for n in conv.groups())))
        elif _DENSE.fullmatch(word):
            layers.append(Dense(int(word)))
        else:
            raise ValueError(
                f"network={name}: must be one of {', '.join(Q_NETWORKS)}, or hidden layers as in "
                "16c8s4-32c4s2-256, or module:function"
            )
    spec = NetworkSpec(input_shape, tuple(layers), actions, bias)
    spec.shapes()
    return spec


def layers_name(layers: Sequence[object]) -> str:
    """Returns the name by which `q_network` builds these hidden layers.

    Raises:
        ValueError: The layers are not only dense layers and convolutions without padding.
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
                raise ValueError(f"a Q-network has no layer like {layer}")
    return "-".join(words)
