"""Encodings, against their statistics."""

import math

import pytest
import torch

from snn_rl.core.encoding import direct, poisson


@pytest.mark.parametrize("timesteps", [1, 5])
def test_direct_is_image_with_one_timestep(timesteps):
    x = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    encoded = direct(x, timesteps)
    assert encoded.shape == (1, *x.shape)
    assert torch.equal(encoded[0], x)


def test_poisson_is_reproducible():
    x = torch.rand(2, 3, 4, 4)
    torch.manual_seed(3)
    first = poisson(x, 5)
    torch.manual_seed(3)
    assert torch.equal(poisson(x, 5), first)
    assert first.shape == (5, *x.shape)
    assert not torch.equal(first[0], first[1])


def test_poisson_is_deterministic_at_extremes():
    x = torch.tensor([[-3.0, -1.0, 0.0, 1.0, 2.0]])
    spikes = poisson(x, 50)
    assert torch.equal(spikes, torch.tensor([[-1.0, -1.0, 0.0, 1.0, 1.0]]).expand(50, 1, 5))


def test_poisson_has_probability_and_sign_of_pixel():
    torch.manual_seed(0)
    draws = 20_000
    x = torch.tensor([[-0.9, -0.3, 0.1, 0.5, 0.8]])
    spikes = poisson(x, draws)
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert bool(((spikes == 0) | (spikes == x.sign())).all())
    for pixel, mean in zip(x.flatten().tolist(), spikes.mean(0).flatten().tolist(), strict=True):
        deviation = math.sqrt(abs(pixel) * (1 - abs(pixel)) / draws)
        assert abs(mean - pixel) < 5 * deviation


def test_poisson_timesteps_are_independent():
    """Spikes at t and t + 1 coincide with probability p^2."""
    torch.manual_seed(0)
    p, draws = 0.5, 20_000
    spikes = poisson(torch.full((1, 1), p), draws).flatten()
    both = (spikes[0::2] * spikes[1::2]).mean().item()
    assert abs(both - p * p) < 5 * math.sqrt(p * p * (1 - p * p) / (draws / 2))


@pytest.mark.parametrize("pixel", [-0.7, 0.05, 0.4])
def test_poisson_counts_are_binomial(pixel):
    """Mean T p and variance T p (1 - p), each within five of its standard errors."""
    torch.manual_seed(1)
    timesteps, draws, p = 75, 10_000, abs(pixel)
    counts = poisson(torch.full((draws,), pixel), timesteps).sum(0).double() * (
        1 if pixel > 0 else -1
    )
    variance = timesteps * p * (1 - p)
    fourth = variance * (1 + 3 * (timesteps - 2) * p * (1 - p))  # central moment of a binomial
    assert abs(counts.mean().item() - timesteps * p) < 5 * math.sqrt(variance / draws)
    assert abs(counts.var().item() - variance) < 5 * math.sqrt((fourth - variance**2) / draws)
