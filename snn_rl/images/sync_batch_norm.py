"""Batch-norm over a batch that is split among several workers."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

_OVER = (0, 2, 3)  # images, lines and columns: all but the channels


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in training are those of all workers' images together.

    torch's SyncBatchNorm does the same on GPUs only. Every worker needs as many images as the
    others.
    """

    @classmethod
    def sharing(cls, norm: nn.BatchNorm2d) -> "SynchronizedBatchNorm2d":
        """The same layer, with the very parameters and statistics of `norm`."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Currents [N, channels, height, width] of this worker's images, normalised."""
        if not self.training:
            return super().forward(x)
        mean, variance = _statistics(x.detach().to(self.weight.dtype))
        count = x.numel() // x.shape[1] * dist.get_world_size()
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        out: Tensor = _Normalize.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, mean, variance, self.eps
        )
        return out


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of every channel over all workers, each [channels].

    From the workers' own: the sum of squares would lose what a large mean leaves of the digits.
    """
    variance, mean = torch.var_mean(x, _OVER, correction=0)
    own = torch.stack([mean, variance])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    means, variances = torch.stack(everyone, 1)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


class _Normalize(torch.autograd.Function):
    """Normalises, and sends back gradients through the statistics of all workers (eq. of [1]).

    [1] Ioffe and Szegedy, Batch normalization (2015), section 3. The gradients of weight and bias
    are this worker's own: they are averaged with all the others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        gradient = gradients[0].to(weight.dtype)
        normal = (x.to(weight.dtype) - _wide(mean)) * _wide(scale)
        own = torch.stack([gradient.sum(_OVER), (gradient * normal).sum(_OVER)])
        everyone = own.clone()
        dist.all_reduce(everyone)
        everyone /= x.numel() // x.shape[1] * dist.get_world_size()
        inner = gradient - _wide(everyone[0]) - normal * _wide(everyone[1])
        return (inner * _wide(weight * scale)).to(x.dtype), own[1], own[0], None, None, None


def _wide(channels: Tensor) -> Tensor:
    """[channels] as it multiplies [N, channels, height, width]."""
    return channels.view(1, -1, 1, 1)


def synchronize_batch_norm(network: nn.Module) -> None:
    """Puts `SynchronizedBatchNorm2d` in the place of every `nn.BatchNorm2d`, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, SynchronizedBatchNorm2d.sharing(child))
