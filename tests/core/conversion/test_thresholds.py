"""Percentile thresholds, against NumPy, and scaling factors, against [ULL] algorithm 1."""

import numpy as np
import pytest
import torch
from torch import Tensor

from snn_rl.core.conversion.thresholds import (
    ConversionError,
    ThresholdSearch,
    find_scales,
    find_threshold,
    percentile,
    percentiles,
)


def compute_loss(p_all: list[float], mu: float, alpha: float, beta: float, T: int) -> float:
    """Implements ComputeLoss of the paper, with its segments in the loop over the percentiles."""
    loss = 0.0
    for p in p_all:
        for j in range(T):
            if j * alpha * mu / T <= p <= (j + 1) * alpha * mu / T:
                loss += p - j * alpha * beta * mu / T
        if alpha * mu < p <= mu:
            loss += p - alpha * beta * mu
        elif p > mu:
            loss += mu * (1 - alpha * beta)
    return loss


def find_scaling_factors(p_all: list[float], mu: float, T: int) -> tuple[float, float]:
    """Implements FindScalingFactors of the paper, with alpha > 0 as in section III-B."""
    alpha, beta, best = 1.0, 1.0, abs(compute_loss(p_all, mu, 1.0, 1.0, T))
    for p in p_all:
        if p <= 0:
            continue
        for k in range(201):
            loss = abs(compute_loss(p_all, mu, p / mu, k / 100, T))
            if loss < best:
                alpha, beta, best = p / mu, k / 100, loss
    return alpha, beta


def inputs(seed: int, shape: str) -> Tensor:
    """Returns inputs on a fine grid, so that alpha * mu equals p exactly if mu is a power of 2."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(5000, generator=generator, dtype=torch.float64)
    values = {"normal": normal, "skewed": normal.abs() ** 3, "negative": normal - 1}[shape]
    return (values * 2**30).round() / 2**30


@pytest.mark.parametrize("timesteps", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("seed", "shape", "mu"),
    [(0, "normal", 2.0), (1, "skewed", 1.0), (2, "skewed", 64.0), (3, "negative", 0.5)],
)
def test_scales_equal_loops_of_paper(seed, shape, mu, timesteps):
    few = percentiles(inputs(seed, shape))[::5]  # the loops are slow
    up_to_mu = [p for p in few.tolist() if p <= mu]
    alpha, beta = find_scaling_factors(up_to_mu, mu, timesteps)
    assert find_scales(few, mu, timesteps) == pytest.approx((alpha, beta), rel=1e-12)
    assert (alpha, beta) != (1.0, 1.0)


def test_percentiles_above_clip_have_no_effect():
    found = percentiles(inputs(0, "skewed"))
    mu = float(found[80])
    assert find_scales(found, mu, 2) == find_scales(found[:81], mu, 2)
    assert find_scales(found, mu, 2) != find_scales(found, float(found[90]), 2)


def test_staircase_with_zero_loss_is_kept():
    """The loss is 0 without inputs below the clip."""
    assert find_scales(torch.tensor([-1.0, 0.0, 9.0]), 2.0, 3) == (1.0, 1.0)


def test_scales_of_two_percentiles_by_hand():
    alpha, beta = find_scales(torch.tensor([0.5, 1.0]), 1.0, 1)
    # with alpha = 1/2 only p = 1 fires, and the loss 1.5 - beta / 2 is at least 0.5
    assert (alpha, beta) == (0.5, 2.0)


@pytest.mark.parametrize("size", [1, 7, 100, 250])
def test_percentiles_are_nearest_ranks(size):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size))
    ranked = list(enumerate(sorted(values.tolist()), 1))
    expected = [next(v for rank, v in ranked if rank * 100 >= i * size) for i in range(101)]
    assert percentiles(values.view(-1, 1)).tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 9, 64, 1001])
@pytest.mark.parametrize("q", [0.5, 12.5, 50.0, 90.0, 99.0, 100.0])
def test_percentile_equals_numpy(size, q):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size))
    expected = np.percentile(values.numpy(), q, method="inverted_cdf")
    assert percentile(values, q).item() == expected


def test_percentile_accepts_more_values_than_torch_quantile():
    values = torch.arange(17_000_000, dtype=torch.float32).reshape(1000, -1)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values.flatten(), 0.9)
    # float32 represents integers up to 16,777,216, which is above the 90th percentile
    assert percentile(values, 90.0).item() == 0.9 * values.numel() - 1


@pytest.mark.parametrize("q", [50.0, 90.0, 100.0])
@pytest.mark.parametrize("over", ["positive", "all"])
def test_threshold_is_maximum_over_timesteps(q, over):
    current = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(1)) + 0.2
    found = []
    for step in current.numpy():
        values = step[step > 0] if over == "positive" else step.flatten()
        found.append(np.percentile(values, q, method="inverted_cdf"))
    assert find_threshold(current, q, over) == max(found)
    assert len(set(found)) == 4


def test_timesteps_without_positive_entries_are_skipped():
    current = torch.tensor([[[-1.0, -2.0]], [[3.0, -1.0]], [[0.0, 0.0]]])
    assert find_threshold(current, 90.0) == 3.0


@pytest.mark.parametrize("over", ["positive", "all"])
@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_threshold_that_is_not_positive_is_rejected(over, value):
    with pytest.raises(ConversionError, match="positive"):
        find_threshold(torch.full((2, 3, 4), value), 90.0, over)


def test_hundredth_percentile_is_threshold_balancing():
    """Threshold balancing ([STDB]) takes the largest input over all timesteps."""
    current = torch.randn(6, 5, 40, generator=torch.Generator().manual_seed(2))
    assert find_threshold(current, 100.0) == current.max().item()


@pytest.mark.parametrize(
    "options", [{"method": "clips"}, {"over": "some"}, {"blocks": "one"}, {"percentile": 101.0}]
)
def test_invalid_options_are_rejected(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}: must be"):
        ThresholdSearch(**options)
