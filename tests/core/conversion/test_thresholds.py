"""The search of [ULL] algorithm 1, against its loops as they are printed."""

import pytest
import torch
from torch import Tensor

from snn_rl.core.conversion.thresholds import find_scales, percentiles


def compute_loss(p_all: list[float], mu: float, alpha: float, beta: float, T: int) -> float:
    """ComputeLoss of the paper, its segments inside the loop over the percentiles."""
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
    """FindScalingFactors of the paper; alpha lies above 0 in its section III-B."""
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
    """On a fine grid: with a clip that is a power of 2, alpha * mu is p again to the last bit."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(5000, generator=generator, dtype=torch.float64)
    values = {"normal": normal, "skewed": normal.abs() ** 3, "negative": normal - 1}[shape]
    return (values * 2**30).round() / 2**30


@pytest.mark.parametrize("timesteps", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("seed", "shape", "mu"),
    [(0, "normal", 2.0), (1, "skewed", 1.0), (2, "skewed", 64.0), (3, "negative", 0.5)],
)
def test_the_search_is_the_paper_s_loops(seed, shape, mu, timesteps):
    few = percentiles(inputs(seed, shape))[::5]  # the loops are slow
    up_to_mu = [p for p in few.tolist() if p <= mu]
    alpha, beta = find_scaling_factors(up_to_mu, mu, timesteps)
    assert find_scales(few, mu, timesteps) == pytest.approx((alpha, beta), rel=1e-12)
    assert (alpha, beta) != (1.0, 1.0)


def test_percentiles_above_the_clip_have_no_say():
    found = percentiles(inputs(0, "skewed"))
    mu = float(found[80])
    assert find_scales(found, mu, 2) == find_scales(found[:81], mu, 2)
    assert find_scales(found, mu, 2) != find_scales(found, float(found[90]), 2)


def test_a_staircase_that_is_right_already_is_kept():
    """A loss of 0 cannot be beaten: no input at all, or all of them on the edge of a step."""
    assert find_scales(torch.tensor([-1.0, 0.0, 9.0]), 2.0, 3) == (1.0, 1.0)


def test_inputs_of_one_size_are_hit_exactly():
    """The first alpha that lets p fire at all T steps, and the beta that makes that p, by hand."""
    alpha, beta = find_scales(torch.tensor([0.5, 1.0]), 1.0, 1)
    # alpha = 1/2 fires for p = 1 alone: 1.5 - beta / 2 is 0.5 at most; alpha = 1 never fires
    assert (alpha, beta) == (0.5, 2.0)


@pytest.mark.parametrize("size", [1, 7, 100, 250])
def test_percentiles_are_the_least_values_that_so_many_do_not_exceed(size):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size))
    ranked = list(enumerate(sorted(values.tolist()), 1))
    expected = [next(v for rank, v in ranked if rank * 100 >= i * size) for i in range(101)]
    assert percentiles(values.view(-1, 1)).tolist() == expected
