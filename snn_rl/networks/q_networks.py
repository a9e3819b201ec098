"""The Q-networks of [IIR] A.5."""

from snn_rl.networks.spec import Conv, Dense, NetworkSpec


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
