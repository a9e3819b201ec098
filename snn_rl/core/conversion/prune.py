"""Magnitude pruning of every layer's smallest weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snn_rl.core.networks import Network


@torch.no_grad()
def magnitude_masks(network: Network, fraction: float) -> dict[str, Tensor]:
    """Returns masks that remove the smallest weights of every hidden weight layer.

    The head and the biases are not pruned; they are a few thousandths of the weights.

    Source: [IIR] section 5 (90 % of a T1 network's weights), after Han et al. (2015).

    Args:
        network: Analog or spiking network.
        fraction: Fraction of each layer's weights to remove, in [0, 1).

    Returns:
        Masks of ones and zeros in the shape of the weights, by parameter name.

    Raises:
        ValueError: `fraction` is out of range.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction={fraction}: must be at least 0 and below 1")
    masks = {}
    for name, module in network.synapses.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            mask = torch.ones(weight.numel(), dtype=weight.dtype, device=weight.device)
            mask[weight.abs().flatten().argsort()[: int(fraction * weight.numel())]] = 0.0
            masks[f"synapses.{name}.weight"] = mask.view(weight.shape)
    return masks


@torch.no_grad()
def apply_masks_(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the removed weights to zero; to be called after every optimizer step."""
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask)
