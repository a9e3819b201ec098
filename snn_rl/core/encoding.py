"""Encodings of an image as the input of a spiking network."""

import torch
from torch import Tensor


def direct(x: Tensor, timesteps: int) -> Tensor:
    """Returns the analog image as the constant input of all timesteps ([IIR] section 2).

    The first layer's current is then the same at every t, so the network computes it once.

    The result is [1, N, ...] for images [N, ...] and any T.
    """
    return x.unsqueeze(0)


def poisson(x: Tensor, timesteps: int) -> Tensor:
    """Returns spikes with the sign of x, each with probability |x| ([STDB] section 5).

    Args:
        x: Images [N, ...] in [-1, 1].
        timesteps: T.

    Returns:
        Spikes [T, N, ...] in {-1, 0, 1}, drawn from torch's global generator.
    """
    magnitude = x.abs().expand(timesteps, *x.shape)
    return torch.bernoulli(magnitude.clamp(max=1.0)) * x.sign()


ENCODINGS = {"direct": direct, "poisson": poisson}
