"""Training by several processes (workers), one per GPU, on one machine or several.

    torchrun --nproc-per-node 8 -m snn_rl.classify dataset=imagenet net=vgg16 T=1

torchrun starts the workers, which run the same program on different parts of every batch and
average their gradients. Only the first worker (rank 0) writes files and shows progress; the other
workers read its files, so run_dir must be on a file system that all machines share. Without
torchrun there is one worker, and the functions of this module have no effect.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from snn_rl.configs.compose import print_error
from snn_rl.core.networks import Network
from snn_rl.images.sync_batch_norm import synchronize_batch_norm
from snn_rl.utils.errors import UserError

# Function like `Network.activity`: images to outputs and the activity of the hidden layers
Activity = Callable[[Tensor], tuple[Tensor, list[Tensor]]]

_FAILED = "snn_rl/ended"  # number of failed workers, a key in the workers' shared store
_store: Any = None  # a dist.Store


@contextmanager
def workers() -> Iterator[None]:
    """Joins the workers that torchrun has started, if any, and ends the process afterwards.

    An error of one worker ends all workers. Only the first worker that fails prints the error, as
    the others fail for the same reason or because the first is gone.
    """
    global _store
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield
        return
    _store, number, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=_store, rank=number, world_size=count)
    code: object = 0
    try:
        yield
        barrier()
        dist.destroy_process_group()
    except SystemExit as end:
        code = end.code
    except Exception:
        if _first_to_fail():
            traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # a regular exit may wait for the threads of the backend
    os._exit(code if isinstance(code, int) else 1)


def complain(error: UserError) -> None:
    """Prints an error, unless another worker has already failed."""
    if _first_to_fail():
        print_error(error)


def _first_to_fail() -> bool:
    if _store is None:
        return True
    try:
        return bool(_store.add(_FAILED, 1) == 1)
    except dist.DistError:  # the worker that keeps the store is gone
        return False


def rank() -> int:
    """Returns the number of this worker, from 0."""
    return dist.get_rank() if _initialized() else 0


def size() -> int:
    """Returns the number of workers."""
    return dist.get_world_size() if _initialized() else 1


def is_first() -> bool:
    """Returns True if this worker writes the files and shows the progress."""
    return rank() == 0


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def launcher() -> str:
    """Returns the part of this run's command line before the module's name."""
    if size() == 1:
        return "python -m"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
    return f"torchrun --nnodes {size() // local} --nproc-per-node {local} -m"


def own_device(device: torch.device) -> torch.device:
    """Returns the device of this worker; each worker on a machine needs its own GPU."""
    if size() == 1 or device.type != "cuda":
        return device
    local = int(os.environ.get("LOCAL_RANK", rank()))
    if local >= torch.cuda.device_count():
        raise UserError(
            f"worker {local + 1} of this machine has no GPU: there are {torch.cuda.device_count()}."
            " Start one worker per GPU (torchrun --nproc-per-node), or use device=cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def total(values: Sequence[float]) -> list[float]:
    """Returns the sums of some numbers over all workers; waits for all workers."""
    if size() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return [float(value) for value in sums]


def barrier() -> None:
    """Waits for all workers, after which they can read the files of the first worker."""
    total([0.0])


def replicated(network: Network) -> Activity:
    """Returns `network.activity` for training, with gradients averaged over the workers.

    All workers start from the parameters of the first worker. Batch normalization uses the
    statistics of the whole batch.
    """
    if size() == 1:
        return network.activity
    synchronize_batch_norm(network)
    device = network.head.weight.device
    return DistributedDataParallel(
        _Activity(network),
        device_ids=[device] if device.type == "cuda" else None,
        forward_sync_buffers=False,  # the running statistics are equal
    )


class _Activity(nn.Module):
    """Module whose `forward`, the only method of DistributedDataParallel, is `activity`."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.network.activity(images)
