"""Stages of an image classifier's chain."""

from pathlib import Path

import pytest
import torch

from snn_rl.chain.runner import load_stage
from snn_rl.configs.compose import compose
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.images.chain import ImageChain, chain
from snn_rl.images.data.datasets import PIXELS
from snn_rl.images.data.splits import Dataset, MemorySplit

# 8 updates of the ANN and 4 of one spiking stage
SHORT = [
    *("dataset=cifar10", "net=vgg5", "precision=float32", "threads=1", "T_start=5"),
    *("fit.epochs=2", "fit.batch_size=10", "iir.epochs=1", "iir.t1_epochs=0"),
    *("iir.batch_size=10", "iir.conversion_samples=20", "iir.window=0"),
]


def random_images(side: int = 8) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, side, side, 3), generator=generator, dtype=torch.uint8)
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    split = MemorySplit(images, torch.arange(40) % 10, mean, std)
    return Dataset("cifar10", 10, (3, side, side), mean, std, split, split)


@pytest.mark.parametrize(
    "preset", ["default T=5", "paper T=5", "stdb T=10", "ull T=2", "stdb T=10 net=resnet8"]
)
def test_layers_stay_alive_with_every_preset(tmp_path: Path, preset: str) -> None:
    config = compose(ClassifyConfig, [*SHORT, *f"preset={preset}".split()])
    dataset = PIXELS[config.pixels](random_images())
    stages = ImageChain(config, dataset, tmp_path)
    images, _ = next(dataset.train.batches(40))
    for stage in chain(config):
        stages.fit(stage)
        network = load_stage(tmp_path, stage.name)
        outputs, layers = network.activity(images)
        assert all(layer.any() for layer in layers)
        (outputs[:, 0] - outputs[:, 1]).square().sum().backward()
        weights = [weight for name, weight in network.named_parameters() if weight.dim() > 1]
        assert all(weight.grad is not None and weight.grad.any() for weight in weights)
