"""What a finished network is worth on the test images."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from snn_rl.classify import distributed
from snn_rl.classify.datasets import Split
from snn_rl.convert import spike_rates
from snn_rl.networks import Network


@dataclass
class Score:
    """A network on the test images.

    Attributes:
        accuracy: Fraction of the images whose class it finds (top-1).
        images: How many.
        spike_rates: Of every hidden layer, spikes per neuron and image; of an analog network the
            fraction of non-zero activations.
    """

    accuracy: float
    images: int
    spike_rates: list[float]


@torch.no_grad()
def score(network: Network, split: Split, batch_size: int, name: str) -> Score:
    """Classifies every image of a split, in float32; several workers share the work.

    Args:
        network: Analog or spiking.
        split: The images, taken in order and without augmentation.
        batch_size: Images at a time.
        name: For the progress bar.
    """
    network.eval()
    device = network.head.weight.device
    correct, rates = 0.0, torch.zeros(len(network.spec.shapes()), dtype=torch.float64)
    batches = tqdm(
        split.batches(batch_size, shard=(distributed.rank(), distributed.size())),
        total=-(-len(split) // batch_size),
        desc=f"{name} test",
        unit="batch",
        disable=not distributed.is_first(),
    )
    for images, labels in batches:
        outputs, layers = network.activity(images.to(device))
        correct += float((outputs.argmax(1).cpu() == labels).sum())
        rates += torch.tensor(spike_rates(layers), dtype=torch.float64) * len(labels)
    correct, *sums = distributed.total([correct, *rates.tolist()])
    return Score(correct / len(split), len(split), [value / len(split) for value in sums])
