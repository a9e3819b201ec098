"""The Q-networks of [IIR] A.5, and those that are described layer by layer."""

import re
from collections.abc import Sequence

from snn_rl.core.networks.spec import Conv, Dense, NetworkSpec


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


Q_NETWORKS = {"cartpole": cartpole, "mnih": mnih}
_CONV = re.compile(r"(\d{1,6})c(\d{1,4})s(\d{1,4})")
_DENSE = re.compile(r"\d{1,6}")


def q_network(
    name: str, input_shape: tuple[int, int, int], actions: int, bias: bool = False
) -> NetworkSpec:
    """The description of a Q-network that is named, or spelt out layer by layer.

    Args:
        name: In `Q_NETWORKS`, or the hidden layers: 32c8s4-64c4s2-64c3s1-512 is `mnih`, three
            convolutions of 32, 64 and 64 channels with their kernels and strides, and 512 units.
        input_shape: (channels, height, width).
        actions: Q-values.
        bias: Whether the layers have biases.

    Raises:
        ValueError: No such name, and no such layers, or images too small for them.
    """
    if name in Q_NETWORKS:
        return Q_NETWORKS[name](input_shape, actions, bias)
    layers: list[Conv | Dense] = []
    for word in name.split("-"):
        if conv := _CONV.fullmatch(word):
            layers.append(Conv(*(int(n) for n in conv.groups())))
        elif _DENSE.fullmatch(word):
            layers.append(Dense(int(word)))
        else:
            raise ValueError(
                f"network={name}: must be one of {', '.join(Q_NETWORKS)}, or hidden layers as in "
                "16c8s4-32c4s2-256"
            )
    spec = NetworkSpec(input_shape, tuple(layers), actions, bias)
    spec.shapes()
    return spec


def layers_name(layers: Sequence[object]) -> str:
    """What `q_network` knows these hidden layers by.

    Raises:
        ValueError: They are not convolutions without padding and dense layers alone.
    """
    for name, build in Q_NETWORKS.items():
        if build((1, 84, 84), 1).layers == tuple(layers):
            return name
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
