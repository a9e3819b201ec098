"""The compiled neuron, against the spikes and gradients of the plain neuron."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snn_rl.core import compiled
from snn_rl.core.compiled import available, fused_lif
from snn_rl.core.lif import LIF, lif
from snn_rl.core.networks import (
    Q_NETWORKS,
    AvgPool,
    Block,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.core.networks.base import Scale
from snn_rl.core.networks.spec import Layer
from snn_rl.core.surrogate import SURROGATES, Derivative

pytest.importorskip("numba")
# sizes that fill a block of the kernels, and sizes that do not
NAMES = ["boxcar", "exponential", "linear"]
SHAPES = [(1,), (3, 5), (2, 1024), (5, 700), (3, 4, 6, 7), (2, 8, 16, 16)]


def outcome(
    neuron: str,
    current: Tensor,
    v: float,
    leak: float,
    surrogate: Derivative,
    steps: int,
    weights: Tensor,
) -> list[Tensor]:
    """Returns spikes, and the gradients of a weighted sum of them."""
    source = current.clone().requires_grad_()
    parameters = [torch.tensor(x, requires_grad=True) for x in (v, leak)]
    # a single timestep is expanded, like the current of the first layer
    given_current = source.expand(steps, *source.shape[1:])
    if neuron == "fused":
        spikes = fused_lif(given_current, parameters[0], parameters[1], surrogate)
    else:
        spikes = lif(given_current, parameters[0], parameters[1], surrogate)[0]
    (spikes * weights).sum().backward()
    grads = [x.grad if x.grad is not None else torch.zeros(()) for x in (source, *parameters)]
    return [spikes.detach(), *grads]


def assert_same(ours: list[Tensor], plain: list[Tensor]) -> None:
    (spikes, current, *scalars), (expected, expected_current, *expected_scalars) = ours, plain
    assert torch.equal(spikes, expected)
    largest, total = float(expected_current.abs().max()), float(expected_current.abs().sum())
    torch.testing.assert_close(current, expected_current, rtol=1e-5, atol=1e-6 * largest)
    for mine, other in zip(scalars, expected_scalars, strict=True):
        # sums over all neurons in another order, where cancellation leaves rounding errors
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6 * total)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    shape=st.sampled_from(SHAPES),
    steps=st.integers(1, 6),
    once=st.booleans(),
    v=st.sampled_from([1e-3, 0.3, 1.0, 2.5]),
    leak=st.sampled_from([0.0, 0.9, 1.0]),
    name=st.sampled_from(NAMES),
    channels_last=st.booleans(),
)
def test_equals_plain_neuron(
    seed: int,
    shape: tuple[int, ...],
    steps: int,
    once: bool,
    v: float,
    leak: float,
    name: str,
    channels_last: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    entries = 1 if once else steps
    current = torch.randn(entries * shape[0], *shape[1:], generator=generator) * v
    # in eighths of the threshold, so that membranes hit it exactly
    current = torch.where(current.abs() < v, (current * 8 / v).round() * v / 8, current)
    weights = torch.randn(steps, *shape, generator=generator)
    if channels_last and len(shape) == 4:
        current = current.contiguous(memory_format=torch.channels_last)
        weights = weights.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        weights = weights.unflatten(0, (steps, shape[0]))
    current = current.unflatten(0, (entries, shape[0]))
    arguments = (current, v, leak, SURROGATES[name], steps, weights)
    assert_same(outcome("fused", *arguments), outcome("plain", *arguments))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("entries", "steps"), [(1, 1), (1, 4), (4, 4)])
def test_bfloat16_is_rounded_only_when_stored(name: str, entries: int, steps: int) -> None:
    torch.manual_seed(0)
    current = torch.randn(entries, 5, 700).bfloat16()
    weights = torch.randn(steps, 5, 700).bfloat16()
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        source = current.expand(steps, 5, 700).to(dtype).requires_grad_()
        v, leak = (torch.tensor(x, requires_grad=True) for x in (0.3, 0.9))
        spikes = fused_lif(source, v, leak, SURROGATES[name])
        spikes.backward(weights.to(dtype))
        assert spikes.dtype == source.grad.dtype == dtype
        results.append([spikes.float(), source.grad, v.grad, leak.grad])
    (spikes, grad, *sums), (expected, expected_grad, *expected_sums) = results
    assert 0 < spikes.mean() < 1 and torch.equal(spikes, expected)
    assert torch.equal(grad, expected_grad.bfloat16())
    assert sums == expected_sums


def test_nan_gradients_stay_nan_in_bfloat16() -> None:
    source = torch.zeros(1, 3, dtype=torch.bfloat16, requires_grad=True)
    scalars = torch.tensor(1.0), torch.tensor(1.0)
    # the largest bits of a NaN, which rounding would turn into zero
    odd = torch.tensor([[-1, 0x7F80, 0x3F80]], dtype=torch.int16).view(torch.bfloat16)
    fused_lif(source, *scalars, SURROGATES["boxcar"]).backward(odd)
    assert source.grad[0].isnan().tolist() == [True, False, False]
    assert source.grad[0, 1:].tolist() == [float("inf"), 1.0]


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize(
    "layers",
    [
        (Conv(16, 8, 4), Conv(32, 4, 2), Dense(64)),
        (Conv(16, 3, 1, 1), AvgPool(2), Block(16, 1), Block(32, 2), Block(32, 1)),
    ],
    ids=["plain", "residual"],
)
def test_spikes_equal_plain_neuron_under_autocast(
    layers: tuple[Layer, ...], timesteps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec((2, 28, 28), layers, 3)
    network = SpikingNetwork(spec, SpikingOptions(timesteps)).eval()
    with torch.no_grad():
        for neuron in network.neurons:
            neuron.v_threshold.fill_(0.1)
            neuron.leak.fill_(0.9)
        for module in network.modules():
            if isinstance(module, Scale):
                module.weight.fill_(0.7314)  # not representable in bfloat16
    images = torch.rand(4, 2, 28, 28)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs, layers = network.activity(images)
        monkeypatch.setattr(compiled, "_kernels", lambda: None)
        plain, spikes = network.activity(images)
    assert torch.bfloat16 in {layer.dtype for layer in layers}
    assert {layer.dtype for layer in spikes} == {torch.float32}  # membranes in full precision
    assert all(0 < layer.mean() < 1 for layer in spikes[:-1])
    assert all(torch.equal(a.float(), b) for a, b in zip(layers, spikes, strict=True))
    assert outputs.dtype == torch.float32 and torch.equal(outputs, plain)


def test_any_memory_layout_is_supported() -> None:
    torch.manual_seed(0)
    steps, shape = 3, (4, 6, 5, 2)
    strange = torch.randn(*reversed(shape), steps).permute(4, 3, 2, 1, 0)
    assert strange.shape == (steps, *shape)
    weights = torch.randn(*shape, steps).permute(4, 0, 1, 2, 3)
    arguments = (strange, 0.5, 0.9, SURROGATES["linear"], steps, weights)
    assert_same(outcome("fused", *arguments), outcome("plain", *arguments))


def test_spikes_keep_channels_last() -> None:
    current = torch.randn(3 * 4, 6, 5, 7).contiguous(memory_format=torch.channels_last)
    spikes = LIF()(current.unflatten(0, (3, 4)))[0]
    assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_number_of_threads_changes_no_bit(two_threads: None) -> None:
    torch.manual_seed(0)
    shape = (70, 4, 32, 32)  # split into several ranges
    assert torch.Size(shape).numel() > 2 * compiled._SUMS
    current, weights = torch.randn(2, *shape), torch.randn(2, *shape)
    arguments = (current, 0.5, 0.9, SURROGATES["linear"], 2, weights)
    several = outcome("fused", *arguments)
    torch.set_num_threads(1)
    for one, other in zip(outcome("fused", *arguments), several, strict=True):
        assert torch.equal(one, other)


def test_network_gradients_equal_plain_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = SpikingNetwork(Q_NETWORKS["mnih"]((2, 40, 40), 3), SpikingOptions(timesteps=4))
    with torch.no_grad():
        for neuron in network.neurons:
            neuron.v_threshold.fill_(0.1)
            neuron.leak.fill_(0.9)
    images = torch.rand(5, 2, 40, 40)

    def gradients() -> list[Tensor]:
        network.zero_grad()
        outputs, layers = network.activity(images)
        outputs.square().sum().backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        return [torch.cat([layer.flatten() for layer in layers]), *grads]

    fast = gradients()
    assert 0 < fast[0].mean() < 1
    monkeypatch.setattr(compiled, "_kernels", lambda: None)
    plain = gradients()
    assert len(plain) == len(fast) > 8
    assert torch.equal(fast[0], plain[0])
    for mine, other in zip(fast[1:], plain[1:], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_unsupported_inputs_use_plain_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    current = torch.randn(2, 3)
    assert available(current, SURROGATES["linear"])
    assert available(current.bfloat16(), SURROGATES["linear"])
    assert not available(current.double(), SURROGATES["linear"])
    assert not available(current, lambda z: z)
    assert not available(current[:, :0], SURROGATES["linear"])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not available(current, SURROGATES["linear"])


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_gradient_expanded_over_timesteps(steps: int) -> None:
    """The gradient of a sum is a single number, expanded to all timesteps and neurons."""
    torch.manual_seed(0)
    current = torch.randn(steps, 4, 300)
    weight = torch.ones(())
    results = [
        outcome(neuron, current, 0.3, 0.9, SURROGATES["linear"], steps, weight)
        for neuron in ("fused", "plain")
    ]
    assert_same(*results)
    source = current.clone().requires_grad_()
    fused_lif(source, torch.tensor(0.3), torch.tensor(0.9), SURROGATES["linear"]).sum().backward()
    torch.testing.assert_close(source.grad, results[1][1])
