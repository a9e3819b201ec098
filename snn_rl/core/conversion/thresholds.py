"""The scaling factors of [ULL] algorithm 1: of a layer's threshold, alpha, and of its spikes, beta.

A clipped ReLU (at mu) becomes a staircase of T steps, each alpha * mu / T wide and alpha * beta *
mu / T high. Inputs are mostly small, so with few timesteps a staircase up to mu itself
(alpha = beta = 1) hardly ever leaves zero; a narrower and higher one says as much as the ReLU does.
"""

import torch
from torch import Tensor

BETA_STEP = 0.01
BETAS = 201  # 0 to 2


def percentiles(values: Tensor) -> Tensor:
    """The percentiles 0, 1, ..., 100 (nearest rank from above) of any number of values.

    Args:
        values: Any shape, at least one entry.

    Returns:
        [101], ascending, in float64.
    """
    ordered = values.flatten().sort().values
    ranks = -(-ordered.numel() * torch.arange(101) // 100)
    return ordered[(ranks - 1).clamp(min=0).to(ordered.device)].double()


def find_scales(percentiles: Tensor, mu: float, timesteps: int) -> tuple[float, float]:
    """The alpha and beta with which the staircase's sum comes closest to the clipped ReLU's.

    For every alpha of the form p / mu, p a positive percentile up to mu, and every beta of 0, 0.01,
    ..., 2: the sum over those percentiles of ReLU less staircase, whose absolute value is to be the
    smallest. The first of equals wins, and alpha = beta = 1 if none is better.

    Source: [ULL] algorithm 1. Its three loops are a table here: an input p takes floor(p / step)
    steps (a neuron fires strictly above its threshold, so at a whole number one less), T at most,
    and the loss is linear in beta. The algorithm's third segment, p > mu, is never reached, because
    its percentiles end at mu.

    Args:
        percentiles: Of the inputs of one layer's ReLU, ascending.
        mu: Where that ReLU is clipped, > 0.
        timesteps: T >= 1.

    Returns:
        alpha in (0, 1], beta in [0, 2].
    """
    inputs = percentiles[(percentiles > 0) & (percentiles <= mu)].double()
    tops = torch.cat([inputs.new_tensor([mu]), inputs])  # alpha * mu, that of alpha = 1 first
    steps = ((inputs / tops[:, None] * timesteps).ceil() - 1).clamp(max=timesteps)
    staircase = tops * steps.sum(1) / timesteps
    betas = torch.arange(BETAS, dtype=inputs.dtype, device=inputs.device) * BETA_STEP
    loss = (inputs.sum() - staircase[:, None] * betas).abs()
    loss[0, betas != 1.0] = torch.inf  # alpha = 1 is the start of the search, with beta = 1 only
    best, beta = divmod(int(loss.argmin()), BETAS)
    return float(tops[best] / mu), float(betas[beta])
