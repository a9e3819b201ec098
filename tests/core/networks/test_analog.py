"""The analog network, against a stack of ReLU layers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from snn_rl.core.lif import MIN_THRESHOLD
from snn_rl.core.networks import AnalogNetwork, Conv, Dense, NetworkSpec

SPEC = NetworkSpec((2, 10, 9), (Conv(4, 3, 2), Conv(3, 2), Dense(7)), 3, bias=True)
CLIPPED = replace(SPEC, clip=True)


def images(n: int = 4) -> Tensor:
    return torch.rand(n, *SPEC.input_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("clips", [None, (0.5, 0.375, 0.125)])
def test_equals_relu_stack(clips):
    torch.manual_seed(0)
    network, x = AnalogNetwork(CLIPPED if clips else SPEC), images()
    for parameter in network.parameters():
        parameter.data.uniform_(-0.25, 0.375)  # large enough to reach the clips
    if network.mu is not None:
        network.mu.data.copy_(torch.tensor(clips))
    weights = {name: p.detach().double() for name, p in network.state_dict().items()}
    out, layers = network.activity(x)
    assert torch.equal(network(x), out)
    h = x.double()
    for i, layer in enumerate(SPEC.layers):
        weight, bias = weights[f"synapses.{i}.weight"], weights[f"synapses.{i}.bias"]
        if isinstance(layer, Conv):
            h = F.conv2d(h, weight, bias, layer.stride)
        else:
            h = h.flatten(1) @ weight.T + bias
        h = h.clamp(0, None if clips is None else weights["mu"][i])
        assert clips is None or h.max() == weights["mu"][i]
        assert layers[i].shape == (1, *h.shape)
        torch.testing.assert_close(layers[i][0], h.float(), rtol=1e-5, atol=1e-5)
    q = h.flatten(1) @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(out, q.float(), rtol=0, atol=1e-4)


def test_gradient_of_a_clipped_neuron_goes_to_the_clip():
    """Checks [ULL] eq. 1 with a different weight on every neuron."""
    network = AnalogNetwork(CLIPPED)
    network.mu.data.copy_(torch.tensor([9.0, 2.0, 9.0]))
    current = torch.tensor([-1.0, 0.0, 0.5, 2.0, 2.5, 8.0], requires_grad=True)
    (network.fire(1, current) * torch.arange(1.0, 7.0)).sum().backward()
    assert current.grad.tolist() == [0, 0, 3, 4, 0, 0]
    assert network.mu.grad.tolist() == [0, 5 + 6, 0]


def test_clips_stay_above_zero():
    network = AnalogNetwork(CLIPPED)
    network.mu.data.copy_(torch.tensor([-1.0, 0.0, 3.0]))
    network.clamp_()
    assert network.mu.tolist() == pytest.approx([MIN_THRESHOLD, MIN_THRESHOLD, 3.0])
    AnalogNetwork(SPEC).clamp_()


def test_counts_are_the_active_neurons():
    network = AnalogNetwork(SPEC)
    outputs, layers = network.activity(images())
    counted, counts = network.count(images())
    assert torch.equal(counted, outputs)
    assert all(torch.equal(a, (b[0] > 0).float()) for a, b in zip(counts, layers, strict=True))
