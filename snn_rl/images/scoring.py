"""What a finished network is worth on the test images."""

import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.images import distributed
from snn_rl.images.data.datasets import Split
from snn_rl.utils.process_memory import PeakMemory


@dataclass
class Score:
    """A network on the test images.

    Attributes:
        accuracy: Fraction of the images whose class it finds (top-1).
        images: How many.
        spike_rates: Of every hidden layer, spikes per neuron and image; of an analog network the
            fraction of non-zero activations.
        input_rate: Expected input spikes per pixel value and image; None: the input is analog.
        seconds: Per image, reading it included.
        memory: The most that was in use, in bytes, see `PeakMemory`; None: not known.
        test_is_train: They were training images, see `Dataset.test_is_train`.
        test_images: The fingerprint of the images there were; None: kept before it was noted.
    """

    accuracy: float
    images: int
    spike_rates: list[float]
    input_rate: float | None = None
    seconds: float | None = None
    memory: int | None = None
    test_is_train: bool = False
    test_images: str | None = None


@torch.no_grad()
def score(
    network: Network, split: Split, batch_size: int, name: str, limit: int | None = None
) -> Score:
    """Classifies every image of a split, in float32; several workers share the work.

    Memory holds a few timesteps at a time.

    Args:
        network: Analog or spiking.
        split: The images, taken in order and without augmentation.
        batch_size: Images at a time.
        name: For the progress bar.
        limit: Only as many images, of all classes alike.
    """
    network.eval()
    device = network.head.weight.device
    total = limit or len(split)
    peak, started = PeakMemory(device), time.monotonic()
    correct, rates = 0.0, torch.zeros(len(network.spec.shapes()), dtype=torch.float64)
    intensity = 0.0
    shard = (distributed.rank(), distributed.size())
    batches = tqdm(
        split.batches(batch_size, limit=limit, shard=shard),
        total=-(-total // batch_size),
        desc=f"{name} test",
        unit="batch",
        disable=not distributed.is_first(),
    )
    for images, labels in batches:
        outputs, counts = network.count(images.to(device))
        correct += float((outputs.argmax(1).cpu() == labels).sum())
        means = [float(count.mean(dtype=torch.float64)) for count in counts]
        rates += torch.tensor(means, dtype=torch.float64) * len(labels)
        intensity += float(images.abs().clamp(max=1).mean()) * len(labels)
    correct, intensity, *sums = distributed.total([correct, intensity, *rates.tolist()])
    input_rate = None
    if isinstance(network, SpikingNetwork) and network.encoding == "poisson":
        input_rate = network.timesteps * intensity / total
    return Score(
        correct / total,
        total,
        [value / total for value in sums],
        input_rate,
        (time.monotonic() - started) / total,
        peak.read(),
    )
