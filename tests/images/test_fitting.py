"""Tests of training: schedules, the distillation loss, and resuming to the same bits."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.core.conversion import ThresholdSearch, convert, fuse_batch_norm
from snn_rl.core.conversion.prune import magnitude_masks
from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    AnalogNetwork,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.images.chain import initialize
from snn_rl.images.data.splits import MemorySplit
from snn_rl.images.fitting import (
    Recipe,
    cosine,
    distillation,
    fit,
    onecycle,
    steps,
)
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec(
    (3, 8, 8), (Conv(6, 3, 1, 1), AvgPool(2), Dropout(), Dense(16)), 4, batch_norm=True
)


def stripes(count: int = 64) -> MemorySplit:
    """Returns images with one bright row, whose index is the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 60, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)
    for n, label in enumerate(labels.tolist()):
        images[n, 2 * label] += 180
    return MemorySplit(images, labels, torch.full((3,), 0.2), torch.full((3,), 0.2))


class Unpadded(MemorySplit):
    """Split without augmentation, which would move the rows."""

    def _draw(self, generator: torch.Generator) -> Tensor:
        return torch.tensor([[4, 4, 0]]).expand(len(self), 3)


def unpadded(count: int = 64) -> MemorySplit:
    split = stripes(count)
    return Unpadded(split.images, split.labels, torch.full((3,), 0.2), torch.full((3,), 0.2))


def recipe(epochs: int = 3, **changes: Any) -> Recipe:
    return Recipe(epochs, lambda progress: 0.05 * cosine(progress, ()), 16, **changes)


def analog() -> AnalogNetwork:
    torch.manual_seed(0)
    return AnalogNetwork(SPEC)


def sgd(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)


def test_steps_divide_by_five_after_each_milestone():
    rates = [steps(progress, (0.45, 0.7, 0.9)) for progress in (0.0, 0.44, 0.45, 0.7, 0.95)]
    assert rates == pytest.approx([1, 1, 1 / 5, 1 / 25, 1 / 125])


def test_cosine_and_onecycle_end_at_zero():
    assert [cosine(p, ()) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert [onecycle(p, ()) for p in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )


def test_distillation_is_the_divergence_of_softened_logits():
    student, teacher = torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0]])

    def softened(logits: list[float]) -> list[float]:
        powers = [math.exp(x / 2.0) for x in logits]
        return [x / sum(powers) for x in powers]

    p, q = softened([2.0, 0.0, 1.0]), softened([1.0, 3.0, 0.0])
    expected = 4.0 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(expected)
    assert float(distillation(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-6)


def accuracy(network: torch.nn.Module, split: MemorySplit) -> float:
    images, labels = next(split.batches(len(split)))
    return float((network(images).argmax(1) == labels).float().mean())


def test_an_ann_learns_and_teaches_a_one_timestep_network(tmp_path):
    split, network = unpadded(), analog()
    counters = fit(network, sgd(network), split, recipe(12), tmp_path / "ann", (0, 0))
    assert counters.updates == 12 * 4
    losses = [epoch["loss"] for epoch in counters.history]
    assert losses[-1] < losses[0] / 2
    assert accuracy(network, split) > 0.95
    images, _ = next(split.batches(64))
    spiking = convert(network, images, SpikingOptions(1))
    adam = torch.optim.Adam([p for p in spiking.parameters() if p.requires_grad], 0.05)
    teacher = fuse_batch_norm(network).eval()
    student = recipe(12, distill=1.0, temperature=2.0, teacher=teacher)
    fit(spiking, adam, split, student, tmp_path / "T1", (0, 1))
    assert accuracy(spiking, split) > 0.9


@pytest.mark.parametrize("spiking", [False, True])
def test_an_interrupted_fit_resumes_to_the_same_bits(tmp_path, monkeypatch, spiking):
    """The training has dropout and augmentation and is interrupted in the second epoch."""

    def run(directory: Path) -> dict[str, Tensor]:
        torch.manual_seed(0)
        if spiking:
            layers = (Conv(6, 3, 1, 1), AvgPool(2), Dropout(), Dense(16))
            network: AnalogNetwork | SpikingNetwork = SpikingNetwork(
                NetworkSpec((3, 8, 8), layers, 4), SpikingOptions(2, encoding="poisson")
            )
            optimizer: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        else:
            network = analog()
            optimizer = sgd(network)
        fit(network, optimizer, stripes(), recipe(3, dropout=0.3), directory, (5, 1))
        return dict(network.state_dict())

    expected = run(tmp_path / "whole")
    real = MemorySplit._normalize
    calls = []

    def dying(self: MemorySplit, images: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(MemorySplit, "_normalize", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    torch.rand(17)  # the state of the global generator has no effect
    resumed = run(tmp_path / "killed")
    assert len(calls) == 6 + 2 * 4  # the first epoch is not repeated
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())


def test_pruned_weights_stay_zero(tmp_path):
    network = analog()
    masks = magnitude_masks(network, 0.8)
    fit(network, sgd(network), stripes(), recipe(2, masks=masks), tmp_path, (0,))
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        assert float(mask.mean()) == pytest.approx(0.2, abs=0.01)
        assert torch.equal(parameters[name] != 0, mask.bool())


def test_a_batch_must_not_exceed_the_images(tmp_path):
    network = analog()
    with pytest.raises(
        UserError, match="the training set has 8 images, fewer than one batch of 16"
    ):
        fit(network, sgd(network), stripes(8), recipe(), tmp_path, (0,))


def test_the_state_of_another_network_is_rejected(tmp_path):
    network = analog()
    fit(network, sgd(network), stripes(), recipe(1), tmp_path, (0,))
    other = AnalogNetwork(NetworkSpec((3, 8, 8), (Dense(5),), 4))
    with pytest.raises(UserError, match="is not the state of this stage"):
        fit(other, sgd(other), stripes(), recipe(2), tmp_path, (0,))


@pytest.mark.parametrize("net", ["vgg16", "resnet34"])
def test_gradients_reach_the_first_layer_of_deep_networks(net):
    """The linear surrogate removes nine tenths of the gradients in every layer at T=1."""
    torch.manual_seed(0)
    network = AnalogNetwork(IMAGE_NETWORKS[net]((3, 32, 32), 10, batch_norm=False)).eval()
    initialize(network)
    images = torch.randn(2, 3, 32, 32)
    adam_epsilon = 1e-8  # smaller gradients hardly change a weight
    for surrogate, arrives in ((ClassifyConfig().iir.surrogate, True), ("linear", False)):
        options = SpikingOptions(1, surrogate=surrogate)
        spiking = convert(network, images, options, ThresholdSearch(percentile=70.0))
        (spiking(images) - network(images).detach()).pow(2).mean().backward()
        first = spiking.synapses[0].weight.grad.pow(2).mean().sqrt()
        assert bool(first > adam_epsilon) == arrives
