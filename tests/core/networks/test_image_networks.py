"""Image networks and their layers, against a simulation timestep by timestep."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    AnalogNetwork,
    AvgPool,
    Block,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
    image_network,
)

LAYERS = (
    Conv(4, 3, 1, 1),
    Dropout(),
    AvgPool(2),
    Block(4),
    Block(6, 2),
    MaxPool(2),
    Dense(8),
    Dropout(),
)
SPEC = NetworkSpec((2, 12, 12), LAYERS, 3, bias=True)


def on_grid_(network: torch.nn.Module) -> None:
    """Sets weights in 64ths and biases in 32nds, whose sums are exact in every order."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() and name.endswith("weight"):
                parameter.copy_(torch.randint(-16, 20, parameter.shape, generator=generator) / 64)
            elif name.endswith("bias"):
                parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 32)


def spiking(timesteps: int) -> SpikingNetwork:
    network = SpikingNetwork(SPEC, SpikingOptions(timesteps))
    on_grid_(network)
    with torch.no_grad():
        for i, neuron in enumerate(network.neurons):
            neuron.v_threshold.fill_(0.25 + 0.25 * (i % 3))
            neuron.leak.fill_(1.0 - 0.5 * (i % 2))
        network.synapses[3].weight.fill_(0.5)  # identity shortcut of the first block
    return network


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 5, (count, *SPEC.input_shape), generator=generator) / 4


class Simulation:
    """The network of `spiking`, one timestep at a time."""

    def __init__(self, network: SpikingNetwork):
        self.p = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        self.rest: dict[int, Tensor | float] = {}

    def neuron(self, index: int, current: Tensor) -> Tensor:
        v = self.p[f"neurons.{index}.v_threshold"]
        u = self.p[f"neurons.{index}.leak"] * self.rest.get(index, 0.0) + current
        spikes = (u > v).float()
        self.rest[index] = u - v * spikes
        return spikes

    def conv(self, index: int, x: Tensor, **options: Any) -> Tensor:
        weight, bias = self.p[f"synapses.{index}.weight"], self.p[f"synapses.{index}.bias"]
        return F.conv2d(x, weight, bias, **options)

    def step(self, x: Tensor) -> Tensor:
        x = self.neuron(0, self.conv(0, x, padding=1))
        x = x.reshape(*x.shape[:2], 6, 2, 6, 2).mean((3, 5))
        inner = self.neuron(1, self.conv(1, x, padding=1))
        around = self.p["synapses.3.weight"] * x
        x = self.neuron(2, self.conv(2, inner, padding=1) + around)
        inner = self.neuron(3, self.conv(4, x, padding=1, stride=2))
        around = self.conv(6, x, stride=2)
        x = self.neuron(4, self.conv(5, inner, padding=1) + around)
        x = x[..., :2, :2].reshape(*x.shape[:2], 1, 2, 1, 2).amax((3, 5))
        x = x.flatten(1)
        x = self.neuron(5, x @ self.p["synapses.7.weight"].T + self.p["synapses.7.bias"])
        return x @ self.p["head.weight"].T + self.p["head.bias"]


@pytest.mark.parametrize("timesteps", [1, 4])
def test_activity_equals_simulation(timesteps):
    network, x = spiking(timesteps), images()
    simulation = Simulation(network)
    expected = sum(simulation.step(x) for _ in range(timesteps)) / timesteps
    outputs, layers = network.activity(x)
    torch.testing.assert_close(outputs, expected)
    assert all(0 < layer.mean() < 1 for layer in layers)
    assert [tuple(layer.shape) for layer in layers] == [
        (timesteps, 3, *shape) for shape in SPEC.shapes()
    ]


def test_followers_of_residual_blocks():
    network = SpikingNetwork(SPEC, SpikingOptions(1))
    assert network.followers(0) == [network.synapses[1], network.synapses[3]]
    assert network.followers(5) == [network.head]


def test_dropout_mask_is_shared_by_timesteps():
    network = SpikingNetwork(
        NetworkSpec((1, 6, 6), (Conv(4, 3), Dropout(), Dense(50)), 2), SpikingOptions(5)
    )
    network.dropout = 0.5
    x = torch.rand(3, 1, 6, 6) + 0.5
    seen: list[Tensor] = []
    network.synapses[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.synapses[0].weight.fill_(1.0)  # every neuron fires at every timestep
    network.train()
    torch.manual_seed(0)
    network(x)
    masks = seen.pop().unflatten(0, (5, 3))
    assert set(masks.unique().tolist()) == {0.0, 2.0}
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert not torch.equal(masks[0, 0], masks[0, 1])
    network.eval()
    network(x)
    assert seen.pop().unique().tolist() == [1.0]


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_number_of_weight_layers_equals_name(name):
    """The 1x1 shortcuts do not count, and resnet34 has three layers in place of the first."""
    for size, classes in ((32, 10), (224, 1000)):
        spec = IMAGE_NETWORKS[name]((3, size, size), classes)
        extra = 2 if name == "resnet34" else 0
        assert len(spec.names()) == int(name.removeprefix("vgg").removeprefix("resnet")) + extra


def test_vgg16_has_weights_and_neurons_of_paper():
    """Checks [IIR] "Inference Efficiency": 39.9 M weights and 0.285 M membranes on CIFAR."""
    spec = IMAGE_NETWORKS["vgg16"]((3, 32, 32), 10, batch_norm=False)
    weights = sum(parameter.numel() for parameter in AnalogNetwork(spec).parameters())
    assert weights / 1e6 == pytest.approx(39.9, abs=0.05)
    assert sum(math.prod(shape) for shape in spec.shapes()) / 1e6 == pytest.approx(0.285, abs=5e-4)


def test_vgg16_pools_224_pixels_to_7():
    spec = IMAGE_NETWORKS["vgg16"]((3, 224, 224), 1000)
    dense = next(c for c in spec.connections() if isinstance(c.layer, Dense))
    assert dense.input_shape == (512, 7, 7)
    assert sum(isinstance(layer, AvgPool) for layer in spec.layers) == 5


def test_resnets_pool_large_images_completely():
    for name in ("resnet20", "resnet34"):
        spec = IMAGE_NETWORKS[name]((3, 224, 224), 1000)
        assert spec.connections()[-1].input_shape == (512, 1, 1)


def test_max_pooling_replaces_average_pooling():
    spec = IMAGE_NETWORKS["vgg6"]((3, 32, 32), 10, pooling=MaxPool)
    assert MaxPool(2) in spec.layers
    assert AvgPool(2) not in spec.layers


def small(input_shape, classes, batch_norm, pooling):
    return NetworkSpec(input_shape, (Conv(4, 3), pooling(2)), classes, batch_norm=batch_norm)


def test_registered_and_imported_networks_are_built(monkeypatch):
    monkeypatch.setattr(IMAGE_NETWORKS, "find", {"small": small, "mine:small": small}.get)
    for name in ("small", "mine:small"):
        spec = image_network(name, (3, 8, 8), 5, False, MaxPool)
        assert spec == NetworkSpec((3, 8, 8), (Conv(4, 3), MaxPool(2)), 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg7", "net=vgg7: must be one of vgg5, .*; did you mean vgg"),
        ("no_such_module:net", "net=no_such_module:net: cannot be imported"),
        ("vgg16", "net=vgg16: images of .* are too small"),
    ],
)
def test_invalid_networks_are_rejected(name, message):
    with pytest.raises(ValueError, match=message):
        image_network(name, (3, 8, 8), 5)
