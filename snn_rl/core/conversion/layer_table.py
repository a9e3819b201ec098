"""Thresholds and spike rates of the hidden layers, as a table."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snn_rl.core.networks import SpikingNetwork, State


@dataclass(frozen=True)
class LayerReport:
    """Statistics of one hidden layer."""

    name: str  # name of the layer: conv1, fc1, ...
    v_threshold: float  # firing threshold, in units of the analog network's activation
    spike_rate: float  # spikes per neuron and decision, summed over the timesteps
    dead: float  # fraction of the neurons that never fire on the given images


def activity_rates(layers: Sequence[Tensor]) -> Tensor:
    """Returns `spike_rates` as a tensor, float64 [layers], without waiting for the device."""
    if not layers:
        return torch.zeros(0, dtype=torch.float64)
    return torch.stack([layer.count_nonzero().double() / layer[0].numel() for layer in layers])


def spike_rates(layers: Sequence[Tensor]) -> list[float]:
    """Returns the spikes per neuron and decision of every hidden layer.

    For an analog network the rate is the fraction of non-zero activations, the work of an engine
    that skips zeros.

    Args:
        layers: Activity of every hidden layer, each [T, N, ...], from `Network.activity`.
    """
    rates: list[float] = activity_rates(layers).tolist()
    return rates


@torch.no_grad()
def layer_table(network: SpikingNetwork, images: Tensor, state: State) -> list[LayerReport]:
    """Returns the statistics of every hidden layer, and warns about layers that never fire.

    Args:
        network: Spiking network.
        images: Input [N, channels, height, width].
        state: Membranes before the images, see `Network.step`.
    """
    if state:
        counts = [layer.sum(0) for layer in network.step(images, state)[1]]
    else:
        counts = network.count(images)[1]
    rows = []
    for name, neuron, count in zip(network.spec.names(), network.neurons, counts, strict=False):
        rate = float(count.sum(dtype=torch.float64)) / count.numel()
        dead = float((count.amax(0) == 0).float().mean())
        rows.append(LayerReport(name, float(neuron.v_threshold), rate, dead))
        if dead == 1.0:
            warnings.warn(
                f"layer {name} never fires: lower the threshold percentile (iir.percentile), or "
                "check that the network was trained before its conversion",
                stacklevel=2,
            )
    return rows


def format_table(rows: Sequence[LayerReport]) -> str:
    """Returns the rows of `layer_table` as text."""
    lines = [f"{'layer':<8}{'threshold':>12}{'spike rate':>12}{'dead':>8}"]
    for row in rows:
        lines.append(
            f"{row.name:<8}{row.v_threshold:>12.4f}{row.spike_rate:>12.4f}{row.dead:>8.1%}"
        )
    return "\n".join(lines)
