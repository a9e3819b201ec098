"""Batch normalization over a batch that is split among several workers."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_OVER = (0, 2, 3)  # all dimensions but the channels


def synchronize_batch_norm(network: nn.Module) -> None:
    """Replaces every `nn.BatchNorm2d` by a layer with the statistics of all workers, in place.

    The parameters and running statistics stay the same tensors.
    """
    if next(network.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                new = CPUSyncBatchNorm2d(child.num_features, child.eps, child.momentum)
                new.weight, new.bias = child.weight, child.bias
                new.running_mean, new.running_var = child.running_mean, child.running_var
                new.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, new.train(child.training))


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.SyncBatchNorm` on a CPU, as PyTorch's layer needs CUDA.

    All workers need the same number of images.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalizes the currents of this worker's images, [N, channels, height, width]."""
        if not self.training:
            return super().forward(x)
        workers = dist.get_world_size()
        values = x.to(self.weight.dtype)
        mean = _total(values.mean(_OVER)) / workers
        centered = values - _wide(mean)
        variance = _total(centered.square().mean(_OVER)) / workers
        count = x.numel() // x.shape[1] * workers
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * _wide(scale) + _wide(self.bias)).to(x.dtype)


def _wide(channels: Tensor) -> Tensor:
    """Returns [channels] as [1, channels, 1, 1]."""
    return channels.view(1, -1, 1, 1)


class _Sum(torch.autograd.Function):
    """Sum over all workers, whose gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total
