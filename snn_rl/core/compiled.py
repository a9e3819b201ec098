"""The LIF neuron as one node of the autograd graph: `lif` with less memory traffic.

Written out operation by operation, the neuron reads and writes its whole layer dozens of times per
timestep, which takes about as long as the convolutions do. Here all timesteps of a few neurons are
worked through while they lie in the processor's cache. The loops are compiled by numba, which is
optional (the extra `fast`): `available` says whether they can serve.
"""

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from snn_rl.core.surrogate import Derivative, boxcar, exponential, linear

_Result = TypeVar("_Result")

_KINDS: dict[Derivative, str] = {linear: "LINEAR", exponential: "EXPONENTIAL", boxcar: "BOXCAR"}
_THREADED = 2**16  # with fewer values a second thread takes longer to start than it saves
_SUMS = 2**17  # neurons whose sums are added up together, whatever the number of threads


@cache
def _kernels() -> ModuleType | None:
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("snn_rl.core.kernels")


def available(current: Tensor, derivative: Derivative) -> bool:
    """Whether `fused_lif` can be had for this current and surrogate."""
    if torch.compiler.is_compiling():
        return False  # compilers and exporters see torch's own operations only
    on_cpu = current.device.type == "cpu" and current.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and derivative in _KINDS and current.numel() > 0 and _kernels() is not None


def _dense(x: Tensor) -> bool:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return last or x.is_contiguous()


def _like(x: Tensor, steps: int) -> Tensor:
    """An uninitialised [steps, *x.shape], every step of it laid out as x is."""
    return x.new_empty_strided((steps, *x.shape), (x.numel(), *x.stride()))


def _rows(x: Tensor, like: Tensor) -> Any:
    """Timesteps laid out as `like`, as an array [T, M] in the order in which they lie in memory.

    Of a current that is expanded over time there is one row. Of bfloat16 there are the bits.
    """
    if x.stride(0) == 0:
        x = x[:1]
    dense = x.stride()[1:] == like.stride() and x.stride(0) in (0, like.numel())
    if not dense:
        x = _like(like, len(x)).copy_(x)
    rows = x.detach().as_strided((len(x), like.numel()), (like.numel(), 1))
    return rows.numpy() if x.dtype == torch.float32 else rows.view(torch.uint16).numpy()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _split(task: Callable[[int, int], _Result], steps: int, size: int) -> list[_Result]:
    """Runs a task on ranges of neurons, in as many threads as torch uses."""
    starts = range(0, size, _SUMS)
    stops = [min(start + _SUMS, size) for start in starts]
    threads = torch.get_num_threads()
    if threads == 1 or steps * size < _THREADED:
        return list(map(task, starts, stops))
    return list(_pool(threads).map(task, starts, stops))


class _FusedLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, v_threshold: Tensor, leak: Tensor, derivative: Derivative
    ) -> Tensor:
        kernels = _kernels()
        assert kernels is not None
        like = current[0] if _dense(current[0]) else current[0].contiguous()
        spikes = _like(like, len(current))
        rows, out = _rows(current, like), _rows(spikes, like)
        scalars = np.float32(v_threshold.item()), np.float32(leak.item())
        _split(
            lambda *part: kernels.forward(rows, *scalars, out, *part),
            *out.shape,
        )
        ctx.save_for_backward(current, v_threshold, leak)
        ctx.derivative = derivative
        return spikes

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        kernels = _kernels()
        assert kernels is not None
        current, v_threshold, leak = ctx.saved_tensors
        like = current[0] if _dense(current[0]) else current[0].contiguous()
        grad = _like(like, len(current))
        rows, incoming, out = (_rows(x, like) for x in (current, grad_outputs[0], grad))
        scalars = np.float32(v_threshold.item()), np.float32(leak.item())
        kind = getattr(kernels, _KINDS[ctx.derivative])
        sums = _split(
            lambda *part: kernels.backward(rows, *scalars, kind, incoming, out, *part),
            *out.shape,
        )
        grad_v, grad_leak = (sum(parts) for parts in zip(*sums, strict=True))
        return (
            grad,
            torch.full_like(v_threshold, grad_v),
            torch.full_like(leak, grad_leak),
            None,
        )


def fused_lif(current: Tensor, v_threshold: Tensor, leak: Tensor, derivative: Derivative) -> Tensor:
    """`lif` from an empty membrane: the same spikes, and to rounding the same gradients.

    Membranes are float32 whatever the current is. Spikes and the current's gradient are of its
    type, which autocast would turn them into for the next layer, one pass over memory each.

    Args:
        current: Input current, [T, N, ...], float32 or bfloat16, on the processor.
        v_threshold: Scalar, positive.
        leak: Scalar in [0, 1].
        derivative: ds/dz, one of `snn_rl.core.surrogate.SURROGATES`.

    Returns:
        Spikes [T, N, ...], each timestep laid out in memory as the current's.
    """
    spikes: Tensor = _FusedLIF.apply(  # type: ignore[no-untyped-call]
        current, v_threshold, leak, derivative
    )
    return spikes
