"""Fusion of batch normalization into the weights."""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from snn_rl.core.networks import AnalogNetwork


@torch.no_grad()
def fuse_batch_norm(analog: AnalogNetwork) -> AnalogNetwork:
    """Returns an equivalent network whose weights and biases contain the running statistics.

    Source: [IIR] A.2.2, after Rueckauer et al. (2017).

    Args:
        analog: Network that is left unchanged. A network without batch normalization is returned
            itself.
    """
    if not analog.spec.batch_norm:
        return analog
    fused = AnalogNetwork(replace(analog.spec, batch_norm=False, bias=True)).to(analog.head.weight)
    fused.dropout = analog.dropout
    if fused.mu is not None and analog.mu is not None:
        fused.mu.copy_(analog.mu)
    targets, sources = [*fused.synapses, fused.head], [*analog.synapses, analog.head]
    for target, source in zip(targets, sources, strict=True):
        if isinstance(source, nn.Sequential):
            conv, norm = deepcopy(source).eval()  # fusion requires both in evaluation mode
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            source = fuse_conv_bn_eval(conv, norm)
        state = source.state_dict()
        if isinstance(target, nn.Conv2d | nn.Linear):
            assert target.bias is not None
            state.setdefault("bias", torch.zeros_like(target.bias))
        target.load_state_dict(state)
    return fused
