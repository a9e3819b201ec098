"""How an image enters a spiking network."""

import torch
from torch import Tensor


def direct(x: Tensor, timesteps: int) -> Tensor:
    """Direct encoding: the analog image drives the first layer at every timestep.

    The first layer's current is the same at every t, so the image is given once and the network
    computes that current once ([IIR] section 3).

    Args:
        x: Images [N, ...].
        timesteps: Ignored; the result serves any T.

    Returns:
        [1, N, ...].
    """
    return x.unsqueeze(0)


def poisson(x: Tensor, timesteps: int) -> Tensor:
    """Poisson rate encoding: a spike with the sign of x and probability |x| at every timestep.

    Source: [STDB] section 2 (a uniform random number below the pixel's magnitude).

    Args:
        x: Images [N, ...] in [-1, 1].
        timesteps: T.

    Returns:
        Spikes [T, N, ...] in {-1, 0, 1}, drawn from torch's global generator.
    """
    magnitude = x.abs().expand(timesteps, *x.shape)
    return torch.bernoulli(magnitude.clamp(max=1.0)) * x.sign()


ENCODINGS = {"direct": direct, "poisson": poisson}
