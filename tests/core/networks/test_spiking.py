"""The spiking network, against a simulation timestep by timestep."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.core.encoding import poisson
from snn_rl.core.lif import MIN_THRESHOLD
from snn_rl.core.networks import (
    WINDOW,
    AnalogNetwork,
    Conv,
    Dense,
    Dropout,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
    clear,
)

SPEC = NetworkSpec((2, 10, 9), (Conv(4, 3, 2), Conv(3, 2), Dense(7)), 3, bias=True)
Array = NDArray[np.float64]


def on_grid_(network: torch.nn.Module, seed: int = 0) -> None:
    """Sets weights in 64ths and biases in 32nds, whose sums are exact in every order."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                parameter.copy_(torch.randint(-16, 25, parameter.shape, generator=generator) / 64)
            elif name.endswith("bias"):
                parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 32)


def spiking(timesteps: int, spec: NetworkSpec = SPEC, **options: Any) -> SpikingNetwork:
    """Returns a network of exact weights, with a different threshold and leak in every layer."""
    network = SpikingNetwork(spec, SpikingOptions(timesteps, **options))
    on_grid_(network)
    with torch.no_grad():
        for neuron, v, leak in zip(
            network.neurons, (0.5, 0.75, 0.25), (0.5, 1.0, 0.5), strict=True
        ):
            neuron.v_threshold.fill_(v)
            neuron.leak.fill_(leak)
    return network


def images(n: int = 4, seed: int = 0) -> Tensor:
    """Returns images with values in quarters."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (n, *SPEC.input_shape), generator=generator) / 4


def weigh(layer: Conv | Dense | None, weight: Array, bias: Array, x: Array) -> Array:
    """Applies a weight layer to one image or spike map, [C, H, W] or [units]."""
    if not isinstance(layer, Conv):
        return weight @ x.reshape(-1) + bias
    height, width = ((n - layer.kernel) // layer.stride + 1 for n in x.shape[1:])
    out = np.empty((layer.channels, height, width))
    for c in range(layer.channels):
        for i in range(height):
            for j in range(width):
                top, left = i * layer.stride, j * layer.stride
                patch = x[:, top : top + layer.kernel, left : left + layer.kernel]
                out[c, i, j] = (patch * weight[c]).sum() + bias[c]
    return out


def stepped(network: SpikingNetwork, frames: Array) -> tuple[Array, list[list[Array]]]:
    """Simulates a decision timestep by timestep.

    Args:
        network: Spiking network.
        frames: Input of every timestep, [T, C, H, W].

    Returns:
        Mean over time of the head's output, and the spikes by layer and timestep.
    """
    arrays = {name: p.detach().double().numpy() for name, p in network.state_dict().items()}
    spec = network.spec
    rest: list[Array | float] = [0.0] * len(spec.layers)
    history: list[list[Array]] = [[] for _ in spec.layers]
    total: Array = np.zeros(spec.outputs)
    for frame in frames:
        x = frame
        for i, layer in enumerate(spec.layers):
            u = arrays[f"neurons.{i}.leak"] * rest[i] + weigh(
                layer, arrays[f"synapses.{i}.weight"], arrays[f"synapses.{i}.bias"], x
            )
            x = (u > arrays[f"neurons.{i}.v_threshold"]).astype(np.float64)
            rest[i] = u - arrays[f"neurons.{i}.v_threshold"] * x
            history[i].append(x)
        total = total + weigh(None, arrays["head.weight"], arrays["head.bias"], x)
    return total / len(frames), history


@pytest.mark.parametrize("timesteps", [1, 3, 5])
def test_activity_equals_simulation(timesteps):
    network, x = spiking(timesteps), images()
    out, layers = network.activity(x)
    assert torch.equal(network(x), out)
    for n, image in enumerate(x.double().numpy()):
        expected, history = stepped(network, np.stack([image] * timesteps))
        for layer, steps in zip(layers, history, strict=True):
            assert np.array_equal(layer[:, n].detach().numpy(), np.stack(steps))
        assert out[n].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert all(0 < layer.mean() < 1 for layer in layers)


def test_poisson_input_equals_simulation():
    timesteps = 4
    network, x = spiking(timesteps, encoding="poisson"), images()
    torch.manual_seed(5)
    frames = poisson(x, timesteps)
    torch.manual_seed(5)
    out = network(x)
    for n in range(len(x)):
        expected, _ = stepped(network, frames[:, n].double().numpy())
        assert out[n].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("timesteps", [1, 5])
def test_head_adds_bias_once(timesteps):
    network, x = spiking(timesteps), images()
    before = network(x)
    with torch.no_grad():
        network.head.bias += 2.0
    torch.testing.assert_close(network(x), before + 2.0)


@pytest.mark.parametrize("timesteps", [1, 4])
def test_first_current_is_computed_once(timesteps):
    network, x = spiking(timesteps), images(3)
    rows: list[int] = []
    for layer in (*network.synapses, network.head):
        layer.register_forward_hook(lambda _m, args, _out: rows.append(len(args[0])))
    network(x)
    assert rows == [3, 3 * timesteps, 3 * timesteps, 3]


@pytest.mark.parametrize("timesteps", [1, 3])
def test_rows_of_a_batch_are_independent(timesteps):
    network, x = spiking(timesteps), images(5)
    together = network(x)
    for order in ([3], [4, 1], [2, 0, 1, 4, 3]):
        torch.testing.assert_close(network(x[order]), together[order])


def test_calls_are_independent():
    network, x = spiking(5), images()
    first = network(x)
    network(images(seed=1))
    assert torch.equal(network(x), first)


def unfolded(network: SpikingNetwork, x: Tensor) -> Tensor:
    """Simulates the network as an ordinary autograd graph with a straight-through spike."""
    rest: list[Tensor | float] = [0.0] * len(network.neurons)
    total = torch.zeros(len(x), network.spec.outputs)
    for _ in range(network.timesteps):
        s = x
        for i, (layer, neuron) in enumerate(zip(network.synapses, network.neurons, strict=True)):
            flat = s.flatten(1) if isinstance(layer, torch.nn.Linear) else s
            u = neuron.leak * rest[i] + layer(flat)
            z = (u / neuron.v_threshold - 1).clamp(-1, 1)
            soft = 0.3 * (z - z * z.abs() / 2)
            s = (u > neuron.v_threshold).float() + soft - soft.detach()
            rest[i] = u - neuron.v_threshold * s.detach()
        total = total + network.head(s.flatten(1))
    return total / network.timesteps


@pytest.mark.parametrize("timesteps", [1, 3])
def test_gradients_equal_unfolded_graph(timesteps):
    network, x = spiking(timesteps), images()
    weights = torch.linspace(-1, 1, len(x) * SPEC.outputs).reshape(len(x), -1)
    parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
    actual = torch.autograd.grad((network(x) * weights).sum(), list(parameters.values()))
    reference = (unfolded(network, x) * weights).sum()
    expected = torch.autograd.grad(reference, list(parameters.values()))
    for name, a, b in zip(parameters, actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert a.abs().sum() > 0, name


def test_leak_is_frozen_only_at_one_timestep():
    for timesteps, trained in ((1, False), (2, True)):
        for neuron in SpikingNetwork(SPEC, SpikingOptions(timesteps)).neurons:
            assert neuron.leak.requires_grad is trained
            assert neuron.v_threshold.requires_grad


def test_weights_have_names_and_shapes_of_analog_network():
    analog = {n: p.shape for n, p in AnalogNetwork(SPEC).named_parameters()}
    forms = {n: p.shape for n, p in SpikingNetwork(SPEC, SpikingOptions(3)).named_parameters()}
    assert analog.items() <= forms.items()
    extra = {f"neurons.{i}.{p}" for i in range(len(SPEC.layers)) for p in ("v_threshold", "leak")}
    assert forms.keys() - analog.keys() == extra
    # target networks are synchronized by their parameters only
    assert not list(SpikingNetwork(SPEC, SpikingOptions(3)).buffers())


@pytest.mark.parametrize(("option", "message"), [("clip", "clip"), ("batch_norm", "fuse it first")])
def test_clips_and_batch_norm_are_rejected(option, message):
    with pytest.raises(ValueError, match=message):
        SpikingNetwork(replace(SPEC, **{option: True}), SpikingOptions(2))


def test_clamp_applies_to_every_layer():
    network = spiking(3)
    with torch.no_grad():
        for neuron in network.neurons:
            neuron.v_threshold.fill_(-1.0)
            neuron.leak.fill_(3.0)
    network.clamp_()
    assert [n.v_threshold.item() for n in network.neurons] == pytest.approx([MIN_THRESHOLD] * 3)
    assert [n.leak.item() for n in network.neurons] == [1.0] * 3


def test_shapes_equal_shapes_of_activity():
    _, layers = SpikingNetwork(SPEC, SpikingOptions(2)).activity(images(3))
    assert [(2, 3, *shape) for shape in SPEC.shapes()] == [tuple(x.shape) for x in layers]


@pytest.mark.parametrize("timesteps", [0, -1, 2.5])
def test_invalid_timesteps_are_rejected(timesteps):
    with pytest.raises(ValueError, match="timesteps"):
        SpikingNetwork(SPEC, SpikingOptions(timesteps))


@pytest.mark.parametrize("option", ["surrogate", "encoding"])
def test_unknown_names_are_rejected(option):
    with pytest.raises(ValueError, match=f"{option}=nonsense: must be one of"):
        SpikingNetwork(SPEC, SpikingOptions(2, **{option: "nonsense"}))


@pytest.mark.parametrize("timesteps", [None, 1, 3])
def test_outputs_keep_float32_under_autocast(timesteps: int | None) -> None:
    torch.manual_seed(0)
    network = (
        AnalogNetwork(SPEC)
        if timesteps is None
        else SpikingNetwork(SPEC, SpikingOptions(timesteps))
    )
    received: list[Tensor] = []
    network.head.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = network(images())
    weight, bias = network.head.weight, network.head.bias
    assert q.dtype == torch.float32
    torch.testing.assert_close(q, received[0].float() @ weight.T + bias, rtol=1e-6, atol=1e-6)
    # outputs rounded to bfloat16 would differ
    assert not torch.allclose(q, q.bfloat16().float(), rtol=1e-6, atol=1e-6)


def carrying() -> SpikingNetwork:
    return spiking(1, carry_state=True)


def test_carried_images_equal_simulated_timesteps():
    network, frames = carrying(), images(5)
    outputs, layers, _ = network.unroll(frames.unsqueeze(1), network.initial_state(1))
    _, spikes = stepped(network, frames.numpy().astype(np.float64))
    for layer, expected in zip(layers, spikes, strict=True):
        assert torch.equal(layer[:, 0], torch.as_tensor(np.stack(expected)).float())
    # every image is a decision from its own spikes
    assert torch.equal(outputs[:, 0], network.head(layers[-1][:, 0]))


def test_steps_equal_unroll_and_episodes_start_empty():
    network = carrying()
    frames = torch.stack([images(3, seed) for seed in range(6)])
    ended = torch.zeros(6, 3, dtype=torch.bool)
    ended[1, 0] = ended[3, 2] = True
    keep = torch.cat([torch.ones(1, 3), (~ended[:-1]).float()])
    expected, _, last = network.unroll(frames, network.initial_state(3), keep)
    state = network.initial_state(3)
    for t in range(6):
        outputs, _, state = network.step(frames[t], state)
        assert torch.equal(outputs, expected[t])
        state = clear(state, ended[t])
    assert all(torch.equal(one, other) for one, other in zip(state, last, strict=True))
    fresh = network.step(frames[2], network.initial_state(3))[0]
    assert torch.equal(expected[2, 0], fresh[0])
    assert not torch.equal(expected[2, 1:], fresh[1:])


def test_carrying_with_zero_leak_equals_one_timestep():
    network, plain = carrying(), spiking(1)
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        for neuron in network.neurons:
            neuron.leak.zero_()
    frames = torch.stack([images(3, seed) for seed in range(4)])
    outputs = network.unroll(frames, network.initial_state(3))[0]
    assert torch.equal(outputs, torch.stack([plain(x) for x in frames]))


def test_step_without_carried_state():
    for network in (spiking(3), AnalogNetwork(SPEC)):
        outputs, layers, state = network.step(images(), network.initial_state(4))
        assert state == []
        assert torch.equal(outputs, network(images()))
        assert [layer.shape[1] for layer in layers] == [4, 4, 4]


def test_carried_membranes_recall_the_previous_image():
    """The label is shown in the previous image. The newest image is the same for both labels."""
    torch.manual_seed(0)
    spec = NetworkSpec((1, 4, 4), (Dense(32), Dense(32)), 2, bias=True)
    labels = torch.randint(2, (64,))
    frames = torch.zeros(2, 64, 1, 4, 4)
    frames[0, torch.arange(64), 0, labels * 3] = 1.0
    scores = {}
    for leak in (0.5, 0.0):
        network = SpikingNetwork(spec, SpikingOptions(1, carry_state=True))
        with torch.no_grad():
            for neuron in network.neurons:
                neuron.leak.fill_(leak)
                neuron.leak.requires_grad_(False)
                neuron.v_threshold.fill_(0.3)
        optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), 0.01)
        for _ in range(150):
            outputs = network.unroll(frames, network.initial_state(64))[0]
            loss = torch.nn.functional.cross_entropy(outputs[1], labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            network.clamp_()
        scores[leak] = float((outputs[1].argmax(1) == labels).float().mean())
    assert scores[0.5] == 1.0
    assert scores[0.0] < 0.7


def test_carried_leak_is_trained():
    assert all(neuron.leak.requires_grad for neuron in carrying().neurons)


@pytest.mark.parametrize("options", [{"timesteps": 2}, {"timesteps": 1, "encoding": "poisson"}])
def test_invalid_carry_state_is_rejected(options):
    with pytest.raises(ValueError, match="carry_state"):
        SpikingNetwork(SPEC, SpikingOptions(carry_state=True, **options))


def test_carry_state_with_spike_time_surrogate_is_rejected():
    with pytest.raises(ValueError, match="stdb"):
        SpikingNetwork(SPEC, SpikingOptions(1, "stdb", carry_state=True))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_windows_equal_activity(size):
    network, x = spiking(7), images()
    outputs, layers = network.activity(x)
    parts = list(network.windows(x, size))
    assert torch.equal(parts[-1][0], outputs)
    for index, layer in enumerate(layers):
        assert torch.equal(torch.cat([part[1][index] for part in parts]), layer)
    first = spiking(min(size, 7))
    assert torch.equal(parts[0][0], first(x))


def test_counts_equal_sum_of_spikes_in_bounded_memory(monkeypatch):
    network, x = spiking(2 * WINDOW + 3), images()
    outputs, layers = network.activity(x)
    longest = 0

    class Watching(torch.nn.Module):
        def forward(self, folded: Tensor) -> Tensor:
            nonlocal longest
            longest = max(longest, len(folded) // len(x))
            return inner(folded)

    inner = network.synapses[1]
    monkeypatch.setitem(network.synapses._modules, "1", Watching())
    counted, counts = network.count(x)
    assert longest == WINDOW
    assert torch.equal(counted, outputs)
    assert all(torch.equal(a, b.sum(0)) for a, b in zip(counts, layers, strict=True))


def truncated(network: SpikingNetwork, x: Tensor, size: int, weights: Tensor) -> Tensor:
    """Returns the windows' loss of the unfolded network, detached every `size` timesteps."""
    count = len(network.neurons)
    rest: list[Any] = [0.0] * count
    last: list[Any] = [torch.tensor(-torch.inf)] * count
    total, loss = torch.zeros(len(x), network.head.in_features), torch.zeros(())
    for t in range(network.timesteps):
        if t % size == 0 and t:
            rest, total = [r.detach() for r in rest], total.detach()
        s = x
        for i, (layer, neuron) in enumerate(zip(network.synapses, network.neurons, strict=True)):
            flat = s.flatten(1) if isinstance(layer, torch.nn.Linear) else s
            u = neuron.leak * rest[i] + layer(flat)
            fired = u > neuron.v_threshold
            last[i] = torch.where(fired, float(t), last[i])
            above = u - neuron.v_threshold
            slope = 0.3 * torch.exp(-0.01 * (t - last[i]))
            s = fired.float() + slope * (above - above.detach())
            rest[i] = u - neuron.v_threshold * s.detach()
        total = total + s.flatten(1)
        if (t + 1) % size == 0 or t + 1 == network.timesteps:
            loss = loss + (network.head(total / (t + 1)) * weights).sum()
    return loss


@pytest.mark.parametrize("size", [2, 3, 8])
def test_gradients_of_windows_are_truncated(size):
    network, x = spiking(8, surrogate="stdb"), images()
    weights = torch.linspace(-1, 1, len(x) * SPEC.outputs).reshape(len(x), -1)
    parameters = dict(network.named_parameters())
    loss = sum(((out * weights).sum() for out, _ in network.windows(x, size)), torch.zeros(()))
    actual = torch.autograd.grad(loss, list(parameters.values()))
    reference = truncated(network, x, size, weights)
    expected = torch.autograd.grad(reference, list(parameters.values()))
    torch.testing.assert_close(loss, reference)
    for name, a, b in zip(parameters, actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert a.abs().sum() > 0, name


def test_windows_share_dropout_mask():
    spec = NetworkSpec((1, 6, 6), (Conv(4, 3), Dropout(), Dense(5)), 2, bias=True)
    network = SpikingNetwork(spec, SpikingOptions(12))
    network.dropout = 0.5
    with torch.no_grad():
        network.synapses[0].weight.fill_(1.0)  # fires at every timestep
        network.synapses[1].weight.copy_(torch.rand(5, 64))
    seen = []
    network.synapses[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    list(network.train().windows(torch.ones(3, 1, 6, 6), 1))
    assert len(seen) == 12
    assert all(torch.equal(entry, seen[0]) for entry in seen[1:])
    assert 0 < float((seen[0] == 0).float().mean()) < 1
