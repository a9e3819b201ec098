"""Accuracy and spike rates of a trained network on test images."""

import time

import torch
from tqdm import tqdm

from snn_rl.chain.records import Score
from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.images import distributed
from snn_rl.images.data.datasets import Split
from snn_rl.utils.process_memory import PeakMemory


@torch.no_grad()
def score(
    network: Network, split: Split, batch_size: int, name: str, limit: int | None = None
) -> Score:
    """Classifies the images of a split in float32, in order, divided among the workers.

    With a limit, only this number of images is classified, balanced over the classes.
    """
    network.eval()
    device = network.head.weight.device
    total = limit or len(split)
    peak, started = PeakMemory(device), time.monotonic()
    correct, intensity = 0.0, 0.0
    rates = torch.zeros(len(network.spec.shapes()), dtype=torch.float64)
    batches = tqdm(
        split.batches(batch_size, limit=limit, shard=(distributed.rank(), distributed.size())),
        total=-(-total // batch_size),
        desc=f"{name} test",
        unit="batch",
        disable=not distributed.is_first(),
    )
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        outputs, counts = network.count(images)
        correct += float((outputs.argmax(1) == labels).sum())
        means = [float(count.mean(dtype=torch.float64)) for count in counts]
        rates += torch.tensor(means, dtype=torch.float64) * len(labels)
        intensity += float(images.abs().clamp(max=1).mean()) * len(labels)
    correct, intensity, *sums = distributed.total([correct, intensity, *rates.tolist()])
    input_rate = None
    if isinstance(network, SpikingNetwork) and network.options.encoding == "poisson":
        input_rate = network.options.timesteps * intensity / total
    return Score(
        correct / total,
        total,
        [value / total for value in sums],
        input_rate,
        (time.monotonic() - started) / total,
        peak.read(),
    )
