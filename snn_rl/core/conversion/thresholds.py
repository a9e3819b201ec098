"""Firing thresholds of converted networks: percentiles, clipped ReLUs, and scaling factors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_rl.core.networks import AnalogNetwork

PERCENTILE, CLIP, ALPHA_BETA = "percentile", "clip", "alpha_beta"
METHODS = (PERCENTILE, CLIP, ALPHA_BETA)
POSITIVE, ALL = "positive", "all"
PERCENTILES_OVER = (POSITIVE, ALL)
SEARCH, UNITY = "search", "unity"
BLOCK_THRESHOLDS = (SEARCH, UNITY)

_BETA_STEP = 0.01
_BETAS = 201  # from 0 to 2


class ConversionError(ValueError):
    """Error for a network that cannot be converted. The message names the layer."""


@dataclass(frozen=True)
class ThresholdSearch:
    """Options of the threshold search.

    Attributes:
        method: "percentile" determines the thresholds layer by layer, see `find_threshold`. "clip"
            and "alpha_beta" derive the thresholds from the analog network's clipped ReLUs, see
            `clip_thresholds`.
        percentile: Percentile of the input currents, in (0, 100].
        over: Input currents included in the percentiles: "positive" or "all".
        timesteps: Number of timesteps simulated in the search; 0 uses the network's T.
        scale: Factor applied to every threshold found, after the search, and not folded into the
            weights. A factor below 1 produces more spikes when T is small ([STDB] table 1,
            "adjusted thresholds"). Activity grows by a factor of 1 / scale per layer, so use the
            factor only in networks without biases.
        blocks: Thresholds inside residual blocks: "search" for the threshold search, or "unity" to
            set each threshold to the amplitude of the block's input spikes ([STDB] section 4.2).
            "unity" thresholds are not scaled.
        given: Thresholds of all hidden layers, used instead of the search, for example those
            of another trained network ([IIR] section 5).
    """

    method: str = PERCENTILE
    percentile: float = 90.0
    over: str = POSITIVE
    timesteps: int = 0
    scale: float = 1.0
    blocks: str = SEARCH
    given: Sequence[float] | None = None

    def __post_init__(self) -> None:
        choices = {"method": METHODS, "over": PERCENTILES_OVER, "blocks": BLOCK_THRESHOLDS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be one of {', '.join(allowed)}"
                )
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile={self.percentile}: must be above 0 and at most 100")


def percentile(values: Tensor, q: float) -> Tensor:
    """Returns the q-th percentile with the nearest-rank method, for q in (0, 100].

    Ranks are rounded up.

    Unlike `torch.quantile`, the function accepts more than 16 million values.
    """
    flat = values.flatten()
    rank = max(1, min(flat.numel(), -int(-flat.numel() * q // 100)))
    return torch.kthvalue(flat, rank).values


def percentiles(values: Tensor) -> Tensor:
    """Returns the percentiles 0, 1, ..., 100 with the nearest-rank method, float64 [101]."""
    ordered = values.flatten().sort().values
    ranks = -(-ordered.numel() * torch.arange(101) // 100)
    return ordered[(ranks - 1).clamp(min=0).to(ordered.device)].double()


def find_threshold(current: Iterable[Tensor], q: float = 90.0, over: str = POSITIVE) -> float:
    """Returns the firing threshold of one layer: the maximum over timesteps of a percentile.

    Source: [IIR] section 4, which takes the 90th percentile over all entries (`over="all"`). This
    percentile is negative for a layer with mostly negative currents, so by default only positive
    entries are included. q = 100 is equivalent to threshold balancing [STDB].

    Args:
        current: Input current [T, N, ...], or an iterable that yields a current [N, ...] per
            timestep.
        q: Percentile in (0, 100].
        over: "positive" or "all".

    Returns:
        Threshold > 0, in units of the analog network's activations.

    Raises:
        ConversionError: The result is not positive.
    """
    best = 0.0
    for step in current:
        values = step[step > 0] if over == POSITIVE else step
        if values.numel():
            best = max(best, float(percentile(values, q)))
    if not best > 0.0:
        reason = (
            "no entry of its input current is positive"
            if over == POSITIVE
            else f"the {q:g}th percentile over all entries of its input current is not positive"
        )
        raise ConversionError(f"no threshold: {reason}")
    return best


@torch.no_grad()
def clip_thresholds(
    analog: AnalogNetwork, images: Tensor, timesteps: int, search: ThresholdSearch
) -> list[tuple[float, float]]:
    """Returns thresholds and spike amplitudes derived from the analog network's clipped ReLUs.

    Source: [ULL] III-B. Percentiles are computed from the input currents of the analog network. The
    paper takes them over all currents (`search.over = "all"`).

    Args:
        analog: Network with clipped ReLUs and without batch normalization.
        images: Input [N, channels, height, width], float.
        timesteps: T of the spiking network.
        search: Options of the search. The method "clip" uses alpha = beta = 1. The method
            "alpha_beta" computes both with `find_scales`.

    Returns:
        Pairs (alpha * mu, alpha * beta * mu) of every hidden layer.

    Raises:
        ConversionError: The network has no clipped ReLUs, or a layer has no positive current.
    """
    if analog.mu is None:
        raise ConversionError(
            f"method={search.method} requires a network with clipped ReLUs (clip=true)"
        )
    clips = analog.mu.tolist()
    if search.method == CLIP:
        return [(mu, mu) for mu in clips]
    found = []

    def fire(index: int, current: Tensor) -> Tensor:
        positive = current[current > 0]
        if not positive.numel():
            raise ConversionError(
                f"layer {analog.spec.names()[index]}: no entry of its input current is positive"
            )
        values = percentiles(positive if search.over == POSITIVE else current)
        alpha, beta = find_scales(values, clips[index], timesteps)
        found.append((alpha * clips[index], alpha * beta * clips[index]))
        return analog.fire(index, current)

    analog.propagate(images.unsqueeze(0), fire)
    return found


def find_scales(percentiles: Tensor, mu: float, timesteps: int) -> tuple[float, float]:
    """Returns the scaling factors alpha (threshold) and beta (spike amplitude) of a layer.

    Over T timesteps, a ReLU clipped at mu becomes a staircase of T steps, each alpha * mu / T wide
    and alpha * beta * mu / T high. Most inputs are small, so with few timesteps, the
    staircase with alpha = beta = 1 is mostly zero.

    The candidates are alpha = p / mu for every positive percentile p <= mu and beta = 0, 0.01,
    ..., 2. The result minimizes the absolute difference between the sums of the ReLU and of the
    staircase over these percentiles. Ties are resolved in favor of alpha = beta = 1,
    then of the first candidate.

    Source: [ULL] algorithm 1, vectorized instead of three nested loops. An input p reaches
    ceil(p / width) - 1 steps, at most T, because neurons fire only strictly above the threshold.
    The algorithm's third segment, p > mu, is never reached because the percentiles end at mu.

    Args:
        percentiles: Percentiles of the inputs of one layer's ReLU, ascending.
        mu: Clipping threshold of the ReLU, > 0.
        timesteps: T >= 1.

    Returns:
        alpha in (0, 1] and beta in [0, 2].
    """
    inputs = percentiles[(percentiles > 0) & (percentiles <= mu)].double()
    tops = torch.cat([inputs.new_tensor([mu]), inputs])  # alpha * mu, with alpha = 1 first
    steps = ((inputs / tops[:, None] * timesteps).ceil() - 1).clamp(max=timesteps)
    staircase = tops * steps.sum(1) / timesteps
    betas = torch.arange(_BETAS, dtype=inputs.dtype, device=inputs.device) * _BETA_STEP
    loss = (inputs.sum() - staircase[:, None] * betas).abs()
    # the first candidate, alpha = 1, is combined only with beta = 1
    loss[0, betas != 1.0] = torch.inf
    best, beta = divmod(int(loss.argmin()), _BETAS)
    return float(tops[best] / mu), float(betas[beta])
