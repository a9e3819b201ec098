"""Comparison of an exported file with the original network on the same images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_rl.core.networks import SpikingNetwork
from snn_rl.formats.registry import Engine

BATCH = 32

Outputs = tuple[Tensor, list[Tensor]]


@dataclass(frozen=True)
class Agreement:
    """Agreement of two engines on the same images.

    Attributes:
        frames: Number of images.
        spikes: Fraction of (neuron, timestep) pairs on which both engines agree; None if an engine
            does not expose spikes.
        actions: Fraction of images with the same greedy action.
        error: Largest absolute difference between Q-values.
    """

    frames: int
    spikes: float | None
    actions: float
    error: float

    @classmethod
    def of(cls, ours: Outputs, theirs: Outputs) -> "Agreement":
        """Compares the outputs of two engines."""
        (mine, my_spikes), (other, other_spikes) = ours, theirs
        spikes = None
        if other_spikes:
            pairs = list(zip(my_spikes, other_spikes, strict=True))
            same = sum(int((a == b).sum()) for a, b in pairs)
            spikes = same / sum(a.numel() for a, _ in pairs)
        actions = (mine.argmax(1) == other.argmax(1)).double().mean()
        return cls(len(mine), spikes, float(actions), float((mine - other).abs().max()))

    @property
    def is_exact(self) -> bool:
        """True if all Q-values and spikes are equal."""
        return self.spikes in (None, 1.0) and self.error == 0.0

    def __str__(self) -> str:
        parts = [] if self.spikes is None else [f"same spikes {self.spikes:.4%}"]
        parts += [f"same action {self.actions:.2%}", f"largest Q-value error {self.error:.2g}"]
        return f"{self.frames} frames: {', '.join(parts)}"


def in_torch(network: SpikingNetwork, layout: torch.memory_format) -> Engine:
    """Returns an engine that runs the network in PyTorch on images in a memory format."""

    def run(pixels: Tensor) -> Outputs:
        with torch.no_grad():
            return network.activity(network.images(pixels).contiguous(memory_format=layout))

    return run


def check(
    network: SpikingNetwork, engines: Mapping[str, Engine], pixels: Tensor
) -> Iterator[tuple[str, Agreement]]:
    """Compares engines with the network.

    An exact network is also compared with itself for other batch sizes and memory formats.

    Yields:
        Name of the trial (engine or memory format, and batch size), and its agreement with the
        network.

    Raises:
        RuntimeError: The network is exact, but a trial is not bit-identical.
    """
    ours = in_batches(in_torch(network, torch.channels_last), pixels, BATCH)
    trials = {name: (engine, BATCH) for name, engine in engines.items()}
    if network.exact:
        trials |= {f"{name}, batch 1": (engine, 1) for name, engine in engines.items()}
        for layout in (torch.channels_last, torch.contiguous_format):
            engine = in_torch(network, layout)
            trials |= {f"{layout}, batch {n}": (engine, n) for n in (1, BATCH)}
    for name, (engine, batch) in trials.items():
        agreement = Agreement.of(ours, in_batches(engine, pixels, batch))
        yield name, agreement
        if network.exact and not agreement.is_exact:
            raise RuntimeError(f"the exact network is not bit-identical in {name}")


def in_batches(engine: Engine, pixels: Tensor, batch: int = BATCH) -> Outputs:
    """Returns the outputs of an engine for all images, in batches."""
    outputs, layers = zip(*(engine(part) for part in pixels.split(batch)), strict=True)
    return torch.cat(outputs), [torch.cat(parts, 1) for parts in zip(*layers, strict=True)]
