"""The LIF neuron, against a loop over neurons and against an unrolled autograd graph."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snn_rl.core.lif import LIF, MIN_THRESHOLD, NeuronState, lif, timed_lif
from snn_rl.core.surrogate import SURROGATES, SpikeTime

# Antiderivatives of ds/dz, whose slope is the expected gradient
SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: 0.3 * (z.clamp(-1, 1) - z.clamp(-1, 1) * z.clamp(-1, 1).abs() / 2),
    "exponential": lambda z: 0.3 * z.sign() * (1 - torch.exp(-z.abs())),
    "boxcar": lambda z: z.clamp(-1, 1),
}


def eighths(*shape: int, seed: int = 0) -> Tensor:
    """Returns currents in eighths from -0.5 to 1.5; sums are exact and often at the threshold."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 13, shape, generator=generator) / 8


def loop(current: Tensor, v: float, leak: float, rest: Tensor | None = None) -> tuple[list, list]:
    """Simulates neuron by neuron; returns spikes [T][N] and membranes [N] after the reset."""
    steps, neurons = current.shape
    spikes = [[0.0] * neurons for _ in range(steps)]
    left = [0.0] * neurons if rest is None else rest.tolist()
    for n in range(neurons):
        for t in range(steps):
            u = leak * left[n] + float(current[t, n])
            spikes[t][n] = 1.0 if u > v else 0.0
            left[n] = u - v * spikes[t][n]
    return spikes, left


def unrolled(
    current: Tensor,
    v: Tensor,
    leak: Tensor,
    smooth: Callable[[Tensor], Tensor],
    detach_spike: bool = True,
    detach_threshold: bool = False,
) -> Tensor:
    """Simulates the neuron as an ordinary autograd graph with a straight-through spike."""
    spikes = []
    rest = torch.zeros_like(current[0])
    for entry in current:
        u = leak * rest + entry
        soft = smooth(u / v - 1)
        s = (u > v).to(u.dtype) + soft - soft.detach()
        spikes.append(s)
        reset_by = v.detach() if detach_threshold else v
        rest = u - reset_by * (s.detach() if detach_spike else s)
    return torch.stack(spikes)


def leaves(steps: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a current, a threshold and a leak with gradients, in float64."""
    current = eighths(steps, 12).double().requires_grad_()
    v = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    leak = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    return current, v, leak


def weighted(spikes: Tensor) -> Tensor:
    """Returns a loss with a different weight on every spike."""
    return (spikes * torch.linspace(0.5, 2.0, spikes.numel()).reshape(spikes.shape)).sum()


@pytest.mark.parametrize("leak", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_spikes_equal_loop(steps, leak):
    current = eighths(steps, 60)
    spikes, state = lif(current, torch.tensor(0.75), torch.tensor(leak))
    expected, _ = loop(current, 0.75, leak)
    assert spikes.tolist() == expected
    assert 0 < spikes.mean() < 1
    assert state is None


@pytest.mark.parametrize("leak", [0.0, 0.5, 1.0])
def test_state_equals_loop(leak):
    current, rest = eighths(4, 60), eighths(60, seed=1)
    spikes, state = lif(current, torch.tensor(0.75), torch.tensor(leak), state=rest)
    expected, left = loop(current, 0.75, leak, rest)
    assert spikes.tolist() == expected
    assert state.tolist() == left


def test_membrane_at_threshold_does_not_fire():
    current = torch.tensor([[0.5], [0.5], [0.25]])
    spikes, state = lif(current, torch.tensor(1.0), torch.tensor(1.0), state=torch.zeros(1))
    assert spikes.flatten().tolist() == [0.0, 0.0, 1.0]
    assert state.item() == 0.25


def test_constant_current_fires_at_its_rate():
    """Without leak, a current of p / q thresholds fires p times in q steps, one step late."""
    steps, v = 64, 2.0
    fractions = torch.arange(0, 9) / 8
    spikes, _ = lif((fractions * v).expand(steps, -1), torch.tensor(v), torch.tensor(1.0))
    # with a strict threshold, a neuron fires ceil(t * f) - 1 times in t steps, never for f = 0
    expected = (steps * fractions).ceil() - 1
    assert torch.equal(spikes.sum(0), expected.clamp(min=0))


def test_single_step_equals_first_of_several():
    current = eighths(3, 40)
    v, leak = torch.tensor(0.75), torch.tensor(0.5)
    single, state = lif(current[:1], v, leak)
    assert state is None
    assert torch.equal(single[0], lif(current, v, leak)[0][0])
    assert torch.equal(single, lif(current[:1], v, leak, state=torch.zeros(40))[0])


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_split_calls_equal_one_call(cut):
    current, empty = eighths(5, 3, 7), torch.zeros(3, 7)
    v, leak = torch.tensor(0.75), torch.tensor(0.5)
    whole, end = lif(current, v, leak, state=empty)
    first, between = lif(current[:cut], v, leak, state=empty)
    second, last = lif(current[cut:], v, leak, state=between)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(last, end)
    # the carried membrane matters: a second half with empty membranes differs
    assert not torch.equal(lif(current[cut:], v, leak, state=empty)[0], second)


@pytest.mark.parametrize("leak", [0.5, 1.0])
def test_keep_zero_empties_membrane(leak):
    current, rest = eighths(6, 3), eighths(3, seed=1) / 4
    keep = torch.ones(6, 3)
    keep[2, 0] = keep[0, 1] = 0
    spikes, left = lif(current, torch.tensor(0.75), torch.tensor(leak), state=rest, keep=keep)
    begins = {0: 2, 1: 0}
    for n in range(3):
        first = begins.get(n, 0)
        start = rest[n : n + 1] * (n == 2)
        expected, after = loop(current[first:, n : n + 1], 0.75, leak, start)
        assert spikes[first:, n].tolist() == [row[0] for row in expected]
        assert left is not None and left[n].item() == after[0]
    before = loop(current[:2, :1], 0.75, leak, rest[:1])[0]
    assert spikes[:2, 0].tolist() == [row[0] for row in before]


def test_gradient_flows_through_split_calls():
    current, v, leak = leaves(5)
    empty = torch.zeros(12, dtype=torch.float64)
    whole = torch.autograd.grad(weighted(lif(current, v, leak, state=empty)[0]), (current, v, leak))
    first, between = lif(current[:2], v, leak, state=empty)
    second, _ = lif(current[2:], v, leak, state=between)
    split = torch.autograd.grad(weighted(torch.cat([first, second])), (current, v, leak))
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b)


def test_rows_of_a_batch_are_independent():
    current = eighths(4, 6, 5)
    v, leak = torch.tensor(0.75), torch.tensor(0.5)
    together, state = lif(current, v, leak, state=torch.zeros(6, 5))
    for row in range(6):
        alone, rest = lif(current[:, row : row + 1], v, leak, state=torch.zeros(1, 5))
        assert torch.equal(alone[:, 0], together[:, row])
        assert torch.equal(rest[0], state[row])


def test_inputs_are_unchanged():
    current, rest = eighths(3, 20), eighths(20, seed=1)
    before = current.clone(), rest.clone()
    lif(current, torch.tensor(0.75), torch.tensor(0.5), state=rest)
    assert torch.equal(current, before[0])
    assert torch.equal(rest, before[1])


def test_shape_and_memory_layout_are_kept():
    current = eighths(3, 2, 4, 5, 6)
    spikes, state = lif(
        current, torch.tensor(0.75), torch.tensor(1.0), state=torch.zeros(2, 4, 5, 6)
    )
    assert spikes.shape == current.shape
    assert state.shape == current.shape[1:]
    flat, _ = lif(current.flatten(1), torch.tensor(0.75), torch.tensor(1.0))
    assert torch.equal(spikes.flatten(1), flat)
    last = current.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 2))
    folded = lif(last, torch.tensor(0.75), torch.tensor(1.0))[0]
    assert torch.equal(folded, spikes)
    assert folded.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_equal_unrolled_graph(name):
    inputs = leaves()
    spikes, _ = lif(*inputs, SURROGATES[name])
    reference = unrolled(*inputs, SMOOTH[name])
    torch.testing.assert_close(spikes, reference.detach())
    actual = torch.autograd.grad(weighted(spikes), inputs)
    expected = torch.autograd.grad(weighted(reference), inputs)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("wrong", "differs"),
    [
        ({"detach_spike": False}, (True, True, True)),
        # detaching the threshold in the reset changes only the gradient of the threshold
        ({"detach_threshold": True}, (False, True, False)),
    ],
)
def test_reset_detaches_spike_but_not_threshold(wrong, differs):
    inputs = leaves()
    actual = torch.autograd.grad(weighted(lif(*inputs)[0]), inputs)
    other = torch.autograd.grad(weighted(unrolled(*inputs, SMOOTH["linear"], **wrong)), inputs)
    assert tuple(not torch.allclose(a, b) for a, b in zip(actual, other, strict=True)) == differs


def test_threshold_gradient_of_two_steps_in_closed_form():
    """d s_2 / dv = g(z_2) * (du_2/dv / v - u_2 / v^2), and du_2/dv = -leak * s_1."""
    first, second, v, leak, gamma = 0.9, 0.5, 0.6, 0.8, 0.3
    current = torch.tensor([[first], [second]], requires_grad=True)
    threshold = torch.tensor(v, requires_grad=True)
    leaky = torch.tensor(leak, requires_grad=True)
    spikes, _ = lif(current, threshold, leaky)
    assert spikes[0].item() == 1.0
    spikes[1].sum().backward()

    u = leak * (first - v) + second
    slope = gamma * max(0.0, 1 - abs(u / v - 1))
    assert threshold.grad.item() == pytest.approx(slope * (-leak / v - u / v**2))
    assert leaky.grad.item() == pytest.approx(slope * (first - v) / v)
    assert current.grad.flatten().tolist() == pytest.approx([slope * leak / v, slope / v])


def test_module_equals_function():
    layer = LIF(0.75, 0.5, "boxcar")
    current, rest = eighths(3, 20), eighths(20, seed=1)
    v, leak = torch.tensor(0.75), torch.tensor(0.5)
    for membrane in (None, rest):
        state = None if membrane is None else NeuronState(membrane)
        spikes, left = layer(current, state)
        expected, expected_left = lif(current, v, leak, SURROGATES["boxcar"], membrane)
        assert torch.equal(spikes, expected)
        assert left is None if state is None else torch.equal(left.membrane, expected_left)
    assert {name for name, _ in layer.named_parameters()} == {"v_threshold", "leak"}
    assert not list(layer.buffers())


def test_module_uses_its_surrogate():
    gradients = {}
    for name in SURROGATES:
        layer = LIF(0.75, 0.5, name)
        layer(eighths(3, 20))[0].sum().backward()
        gradients[name] = layer.v_threshold.grad.item()
    assert len(set(gradients.values())) == len(SURROGATES)


@pytest.mark.parametrize(
    ("v", "leak", "expected"),
    [(-0.3, -0.1, (MIN_THRESHOLD, 0.0)), (0.4, 0.9, (0.4, 0.9)), (7.0, 1.2, (7.0, 1.0))],
)
def test_clamp_projects_parameters_into_ranges(v, leak, expected):
    layer = LIF(v, leak)
    layer.clamp_()
    assert (layer.v_threshold.item(), layer.leak.item()) == pytest.approx(expected)
    assert layer.v_threshold.requires_grad
    assert layer.leak.requires_grad


def stdb_by_hand(
    current: Tensor, weights: Tensor, v: float, leak: float, alpha: float, beta: float
) -> tuple[list[list[float]], list[list[float]], float, float]:
    """Evaluates [STDB] eq. 2, 3, 10, 11 for the loss sum(weights * o), neuron by neuron.

    Returns:
        Spikes o [T][N], and the gradients of the current [T][N], of the threshold and of the leak.
    """
    steps, neurons = current.shape
    fired = [[0.0] * neurons for _ in range(steps)]
    in_current = [[0.0] * neurons for _ in range(steps)]
    in_v = in_leak = 0.0
    for n in range(neurons):
        last_spike = -math.inf
        rests, slopes = [0.0], []
        for t in range(steps):
            u = leak * rests[-1] + float(current[t, n])
            if u > v:
                fired[t][n], last_spike = 1.0, t
            slopes.append(alpha * math.exp(-beta * (t - last_spike)))
            rests.append(u - v * fired[t][n])
        later = 0.0  # derivative of the loss in the membrane of the next timestep
        for t in reversed(range(steps)):
            direct = float(weights[t, n]) * slopes[t]
            in_u = direct + leak * later
            in_current[t][n] = in_u
            in_v += -direct - (leak * later * fired[t][n])
            in_leak += in_u * rests[t]
            later = in_u
    return fired, in_current, in_v, in_leak


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.01), (0.5, 0.4)])
def test_stdb_equals_equations_of_paper(alpha, beta):
    current, v, leak = leaves(9)
    weights = torch.linspace(-1.0, 2.0, current.numel(), dtype=torch.float64).view_as(current)
    spikes, state = timed_lif(current, v, leak, SpikeTime(alpha, beta))
    actual = torch.autograd.grad((spikes * weights).sum(), (current, v, leak))
    by_hand = stdb_by_hand(current.detach(), weights, v.item(), leak.item(), alpha, beta)
    fired, in_current, in_v, in_leak = by_hand
    assert spikes.tolist() == fired
    assert 0 < spikes.mean() < 1
    torch.testing.assert_close(actual[0], torch.tensor(in_current, dtype=torch.float64))
    assert actual[1].item() == pytest.approx(in_v)
    assert actual[2].item() == pytest.approx(in_leak)
    assert state.membrane.tolist() == loop(current.detach(), v.item(), leak.item())[1]


def test_spike_time_gradient_is_zero_before_first_spike():
    current = torch.tensor([[0.5, 1.5], [0.0, 0.0]], requires_grad=True)
    timed_lif(current, torch.tensor(1.0), torch.tensor(1.0), SpikeTime())[0].sum().backward()
    assert current.grad[:, 0].tolist() == [0.0, 0.0]
    assert (current.grad[:, 1] > 0).all()


@pytest.mark.parametrize("name", SURROGATES)
def test_windows_equal_single_call(name):
    current = eighths(7, 3, 20)
    layer = LIF(0.75, 0.5, name)
    whole = layer(current)[0]
    weights = torch.linspace(-1.0, 2.0, whole.numel()).view_as(whole)
    expected = torch.autograd.grad((whole * weights).sum(), list(layer.parameters()))
    state = NeuronState()
    parts = []
    for part in current.split(3):
        spikes, state = layer(part, state)
        parts.append(spikes)
    assert torch.equal(torch.cat(parts), whole)
    actual = torch.autograd.grad((torch.cat(parts) * weights).sum(), list(layer.parameters()))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)
