"""The LIF neuron as a single node of the autograd graph, with loops compiled by numba.

The plain neuron reads and writes its whole layer dozens of times per timestep, which takes about
as long as the convolutions. These loops simulate all timesteps of a few neurons while the neurons
are in the CPU's cache. numba is optional (the extra `fast`), see `available`.
"""

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from snn_rl.core.surrogate import Derivative, boxcar, exponential, linear

_Result = TypeVar("_Result")

_KINDS: dict[Derivative, str] = {linear: "LINEAR", exponential: "EXPONENTIAL", boxcar: "BOXCAR"}
_THREADED = 2**16  # with fewer values, starting a second thread takes longer than it saves
_SUMS = 2**17  # neurons per partial sum, so that sums do not depend on the number of threads


@cache
def _kernels() -> ModuleType | None:
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("snn_rl.core.kernels")


def available(current: Tensor, derivative: Derivative) -> bool:
    """Returns True if `fused_lif` supports this current and this surrogate gradient."""
    if torch.compiler.is_compiling():
        return False  # compilers and exporters need torch's own operations
    on_cpu = current.device.type == "cpu" and current.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and derivative in _KINDS and current.numel() > 0 and _kernels() is not None


def _layout_of(current: Tensor) -> Tensor:
    """Returns a dense tensor with the shape and, if possible, the memory layout of a timestep."""
    x = current[0]
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if channels_last else x.contiguous()


def _empty(steps: int, like: Tensor) -> Tensor:
    """Returns an uninitialized [steps, *like.shape] with the layout of `like` in every step."""
    return like.new_empty_strided((steps, *like.shape), (like.numel(), *like.stride()))


def _rows(x: Tensor, like: Tensor) -> Any:
    """Returns the timesteps as an array [T, M], or [1, M] if the tensor is expanded over time.

    The values are in the memory order of `like`. bfloat16 is returned as its bits.
    """
    if x.stride(0) == 0:
        x = x[:1]
    dense = x.stride()[1:] == like.stride() and x.stride(0) in (0, like.numel())
    if not dense:
        x = _empty(len(x), like).copy_(x)
    rows = x.detach().as_strided((len(x), like.numel()), (like.numel(), 1))
    return rows.numpy() if x.dtype == torch.float32 else rows.view(torch.uint16).numpy()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _split(task: Callable[[tuple[int, int]], _Result], steps: int, size: int) -> list[_Result]:
    """Runs a task on ranges of neurons, in as many threads as torch uses."""
    parts = [(start, min(start + _SUMS, size)) for start in range(0, size, _SUMS)]
    threads = torch.get_num_threads()
    if threads == 1 or steps * size < _THREADED:
        return list(map(task, parts))
    return list(_pool(threads).map(task, parts))


class _FusedLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, v_threshold: Tensor, leak: Tensor, derivative: Derivative
    ) -> Tensor:
        kernels = _kernels()
        assert kernels is not None
        like = _layout_of(current)
        spikes = _empty(len(current), like)
        rows, out = _rows(current, like), _rows(spikes, like)
        scalars = np.float32(v_threshold.item()), np.float32(leak.item())
        _split(partial(kernels.forward, rows, *scalars, out), *out.shape)
        ctx.save_for_backward(current, v_threshold, leak)
        ctx.derivative = derivative
        return spikes

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        kernels = _kernels()
        assert kernels is not None
        current, v_threshold, leak = ctx.saved_tensors
        like = _layout_of(current)
        grad = _empty(len(current), like)
        rows, incoming, out = (_rows(x, like) for x in (current, grad_outputs[0], grad))
        scalars = np.float32(v_threshold.item()), np.float32(leak.item())
        kind = getattr(kernels, _KINDS[ctx.derivative])
        sums = _split(partial(kernels.backward, rows, *scalars, kind, incoming, out), *out.shape)
        grad_v, grad_leak = (sum(parts) for parts in zip(*sums, strict=True))
        return grad, torch.full_like(v_threshold, grad_v), torch.full_like(leak, grad_leak), None


def fused_lif(current: Tensor, v_threshold: Tensor, leak: Tensor, derivative: Derivative) -> Tensor:
    """Computes `lif` from an empty membrane: equal spikes, and equal gradients up to rounding.

    Membranes are float32 for every input type. Spikes and the current's gradient have the type of
    the current, as autocast would cast them for the next layer, which saves a pass over memory.

    Args:
        current: Input current [T, N, ...], float32 or bfloat16, on the CPU.
        v_threshold: Scalar, > 0.
        leak: Scalar in [0, 1].
        derivative: ds/dz: `linear`, `exponential` or `boxcar`.

    Returns:
        Spikes [T, N, ...], with the memory layout of the current in every timestep.
    """
    spikes: Tensor = _FusedLIF.apply(  # type: ignore[no-untyped-call]
        current, v_threshold, leak, derivative
    )
    return spikes
