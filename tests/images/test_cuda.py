"""Tests of image classification on a GPU, skipped without a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from snn_rl.core.conversion import convert, fuse_batch_norm
from snn_rl.core.lif import LIF
from snn_rl.core.networks import IMAGE_NETWORKS, AnalogNetwork, SpikingOptions
from snn_rl.core.surrogate import SURROGATES
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.images.chain import initialize
from snn_rl.images.data.splits import MemorySplit
from snn_rl.images.fitting import Recipe, fit
from snn_rl.images.scoring import score

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def random_split(count: int = 64) -> MemorySplit:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return MemorySplit(images, torch.arange(count) % 10, torch.full((3,), 0.5), torch.ones(3) / 4)


def small_network(device: torch.device) -> AnalogNetwork:
    torch.manual_seed(0)
    network = AnalogNetwork(IMAGE_NETWORKS["vgg5"]((3, 32, 32), 10))
    initialize(network)
    return network.to(device, memory_format=torch.channels_last)


@pytest.mark.parametrize("augment", [False, True])
def test_batches_match_those_on_the_cpu(augment: bool) -> None:
    split = random_split()

    def batches() -> list[tuple[Tensor, Tensor]]:
        return list(split.batches(24, generator=torch.Generator().manual_seed(1), augment=augment))

    before, fingerprint = batches(), split.fingerprint()
    split.to(GPU)
    for (images, labels), (theirs, their_labels) in zip(batches(), before, strict=True):
        assert images.device.type == labels.device.type == "cuda"
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels.cpu(), their_labels)
        torch.testing.assert_close(images.cpu(), theirs, rtol=0, atol=1e-6)
    assert split.fingerprint() == fingerprint
    in_order = torch.cat([labels for _, labels in split.batches(24, limit=30)])
    assert len(in_order) == 30


@pytest.mark.parametrize("surrogate", list(SURROGATES))
def test_neurons_match_those_on_the_cpu(surrogate: str) -> None:
    current = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))

    def run(device: torch.device) -> tuple[Tensor, ...]:
        neuron = LIF(0.5, 0.9, surrogate).to(device)
        x = current.detach().to(device).requires_grad_()
        spikes = neuron(x)[0]
        (spikes * torch.arange(5.0, device=device)).sum().backward()
        assert x.grad is not None and neuron.v_threshold.grad is not None
        return spikes.detach().cpu(), x.grad.cpu(), neuron.v_threshold.grad.cpu()

    here, there = run(CPU), run(GPU)
    assert torch.equal(here[0], there[0])
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoding", ["direct", "poisson"])
@pytest.mark.parametrize("bf16", [False, True])
def test_training_resumes_scores_and_saves(tmp_path: Path, encoding: str, bf16: bool) -> None:
    split = random_split()
    split.to(GPU)
    recipe = Recipe(2, lambda progress: 0.01, 16, dropout=0.1, bf16=bf16)
    analog = small_network(GPU)
    sgd = torch.optim.SGD(analog.parameters(), 0.01, momentum=0.9, fused=True)
    fit(analog, sgd, split, recipe, tmp_path / "ann", (0, 0))
    images = next(split.batches(32))[0]
    options = SpikingOptions(2, encoding=encoding)
    spiking = convert(analog.eval(), images, options)
    spiking.to(GPU, memory_format=torch.channels_last)
    teacher = fuse_batch_norm(analog).to(GPU).eval()
    shared = {"distill": 0.5, "bf16": bf16, "teacher": teacher}
    taught = Recipe(2, lambda progress: 1e-4, 16, window=1, **shared)
    adam = torch.optim.Adam([p for p in spiking.parameters() if p.requires_grad], 1e-4, fused=True)
    counters = fit(spiking, adam, split, taught, tmp_path / "T2", (0, 2))
    assert counters.updates == 8 and np.isfinite(counters.history[-1]["loss"])
    # resumed in a new network
    again = convert(analog, images, options).to(GPU)
    adam = torch.optim.Adam([p for p in again.parameters() if p.requires_grad], 1e-4, fused=True)
    longer = Recipe(3, lambda progress: 1e-4, 16, **shared)
    assert fit(again, adam, split, longer, tmp_path / "T2", (0, 2)).epoch == 3
    result = score(again, split, 16, "T2")
    assert result.images == 64 and all(0 <= rate <= 2 for rate in result.spike_rates)
    save_network(tmp_path / "network.safetensors", again)
    loaded, _ = load_network(tmp_path / "network.safetensors")
    for name, tensor in again.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.cpu())


def test_thresholds_match_those_on_the_cpu() -> None:
    images = next(random_split().batches(32))[0]
    here = convert(small_network(CPU).eval(), images, SpikingOptions())
    there = convert(small_network(GPU).eval(), images.to(GPU), SpikingOptions())
    for ours, theirs in zip(here.neurons, there.neurons, strict=True):
        assert theirs.v_threshold.item() == pytest.approx(ours.v_threshold.item(), rel=1e-2)
