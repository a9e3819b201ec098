"""The spike function: a hard threshold forward, closed-form derivatives backward."""

import math
import sys

import pytest
import torch
from torch import Tensor

from snn_rl.core import surrogate
from snn_rl.core.surrogate import (
    NEVER,
    SURROGATES,
    SpikeTime,
    check_surrogate,
    get_surrogate,
    register_surrogate,
    spike,
    timed_spike,
)
from snn_rl.utils.plugins import Registry

# Independent definitions of ds/dz, for floats
CLOSED_FORMS = {
    "linear": lambda z: 0.3 * max(0.0, 1.0 - abs(z)),
    "exponential": lambda z: 0.3 * math.exp(-abs(z)),
    "boxcar": lambda z: 1.0 if abs(z) <= 1.0 else 0.0,
}


def membranes() -> Tensor:
    """Returns membranes on both sides of every kink of the surrogates, and at the threshold."""
    return torch.tensor([-3.0, -0.5, 0.0, 0.25, 1.0, 1.9, 2.0, 2.1, 3.5, 4.0, 4.5, 9.0])


def test_all_surrogates_are_tested():
    assert set(SURROGATES) == {*CLOSED_FORMS, "stdb"}


def test_fires_strictly_above_threshold():
    v = torch.tensor(0.7)
    u = torch.stack(
        [torch.nextafter(v, torch.tensor(0.0)), v, torch.nextafter(v, torch.tensor(1.0))]
    )
    assert spike(u, v).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spikes_have_shape_and_dtype_of_membrane(dtype):
    u = torch.linspace(-1, 3, 24, dtype=dtype).reshape(2, 3, 4)
    spikes = spike(u, torch.tensor(1.0, dtype=dtype))
    assert spikes.shape == u.shape
    assert spikes.dtype == dtype
    assert torch.equal(spikes, torch.where(u > 1, 1.0, 0.0).to(dtype))


@pytest.mark.parametrize("threshold", [0.02, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_gradients_in_membrane_and_threshold(name, threshold):
    # a different weight on every spike, to detect permuted gradients
    u = (membranes() * threshold / 2).double().requires_grad_()
    v = torch.tensor(threshold, dtype=torch.float64, requires_grad=True)
    weights = torch.arange(1.0, len(u) + 1, dtype=torch.float64)
    (spike(u, v, SURROGATES[name]) * weights).sum().backward()

    slope = [CLOSED_FORMS[name](x / threshold - 1) for x in u.tolist()]
    in_u = [w * g / threshold for w, g in zip(weights.tolist(), slope, strict=True)]
    in_v = -sum(g * x / threshold for g, x in zip(in_u, u.tolist(), strict=True))
    assert u.grad.tolist() == pytest.approx(in_u)
    assert v.grad.item() == pytest.approx(in_v)
    assert v.grad.shape == v.shape


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_gradient_is_independent_of_units(name):
    """ds/dz does not depend on the units of membrane and threshold."""
    slopes = []
    for unit in (1.0, 64.0):
        u = (membranes() / 2 * unit).requires_grad_()
        spike(u, torch.tensor(unit), SURROGATES[name]).sum().backward()
        slopes.append(u.grad * unit)
    assert torch.equal(slopes[0], slopes[1])
    assert slopes[0].max() > 0


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.01), (0.7, 0.5)])
def test_spike_time_table_equals_equation(alpha, beta):
    dt = [0, 1, 2, 75, 2500, NEVER - 1]
    slopes = SpikeTime(alpha, beta).slopes(torch.tensor(dt, dtype=torch.int16), torch.float64)
    assert slopes.tolist() == pytest.approx([alpha * math.exp(-beta * t) for t in dt], abs=0)
    never = torch.tensor([NEVER], dtype=torch.int16)
    assert SpikeTime(alpha, beta).slopes(never, torch.float32).tolist() == [0.0]


def test_time_since_spike_counts_up_to_never():
    u, v = torch.tensor([0.0, 0.0, 0.0, 2.0, 1.0]), torch.tensor(1.0)
    since = torch.tensor([0, NEVER - 1, NEVER, NEVER, 7], dtype=torch.int16)
    spikes, now = timed_spike(u, v, since, SpikeTime())
    assert spikes.tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert now.tolist() == [1, NEVER, NEVER, 0, 8]


def test_names_refer_to_distinct_surrogates():
    assert len({get_surrogate(name) for name in SURROGATES}) == len(SURROGATES)
    assert get_surrogate("stdb") == SpikeTime(alpha=0.3, beta=0.01)


def triangle(z: Tensor) -> Tensor:
    return 0.5 * (1 - z.abs()).clamp(min=0)


def test_registered_surrogate_is_used(monkeypatch):
    monkeypatch.setattr(surrogate, "SURROGATES", Registry("surrogate", dict(SURROGATES)))
    register_surrogate("triangle", triangle)
    assert get_surrogate("triangle") is triangle
    with pytest.raises(ValueError, match="the name is taken"):
        register_surrogate("linear", triangle)


def test_imported_surrogate_is_loaded_with_its_first_gradient(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_surrogate.py").write_text(
        "def double(z): return 2 * z\ndef scalar(z): return 1"
    )
    derivative = get_surrogate("own_surrogate:double")
    u = torch.tensor([0.5, 3.0], requires_grad=True)
    spikes = spike(u, torch.tensor(1.0), derivative)
    assert "own_surrogate" not in sys.modules
    spikes.sum().backward()
    assert u.grad.tolist() == [-1.0, 4.0]
    check_surrogate("own_surrogate:double")
    for name, message in (("scalar", "must map a tensor"), ("missing", "cannot be imported")):
        with pytest.raises(ValueError, match=f"surrogate=own_surrogate:{name}: {message}"):
            check_surrogate(f"own_surrogate:{name}")


def test_unknown_surrogate_is_rejected():
    with pytest.raises(
        ValueError, match=r"surrogate=liner: must be one of .*; did you mean linear"
    ):
        get_surrogate("liner")
