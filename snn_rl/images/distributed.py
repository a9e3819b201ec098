"""Training by several processes (workers) together: one per GPU, on one machine or on several.

    torchrun --nproc-per-node 8 -m snn_rl.classify dataset=imagenet net=vgg16 T=1

torchrun starts the workers and tells each who it is through the environment. All run the same
program; each takes its share of every batch, and the gradients are averaged. The first worker
(rank 0) alone writes files and shows progress; the others read what it has written, so run_dir has
to lie where all machines see it. Without torchrun there is one worker, and nothing here does
anything.
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

from snn_rl.core.networks import Network
from snn_rl.images.sync_batch_norm import synchronize_batch_norm
from snn_rl.utils.errors import UserError

# Images [N, channels, height, width] to outputs and the layers' activity: `Network.activity`
Activity = Callable[[Tensor], tuple[Tensor, list[Tensor]]]

_ENDED = "snn_rl/ended"  # how many workers have ended by an error, in the store that all share
_store: Any = None  # a dist.Store


@contextmanager
def workers() -> Iterator[None]:
    """Joins the workers that torchrun has started, if it has, and ends the process behind them.

    An error of one ends all. Only the first to fail says why: the others fail because it is gone,
    or for the very same reason.
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
        if _first_to_end():
            traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # at once: the interpreter's own end may wait for the threads of the backend
    os._exit(code if isinstance(code, int) else 1)


def complain(error: UserError) -> None:
    """Prints the line of an error, unless another worker has already ended by one."""
    if _first_to_end():
        print(f"error: {error}", file=sys.stderr, flush=True)


def _first_to_end() -> bool:
    if _store is None:
        return True
    try:
        return bool(_store.add(_ENDED, 1) == 1)
    except dist.DistError:  # whoever kept the store is gone
        return False


def rank() -> int:
    """The number of this worker, from 0."""
    return dist.get_rank() if _together() else 0


def size() -> int:
    """How many workers there are."""
    return dist.get_world_size() if _together() else 1


def is_first() -> bool:
    """Whether this worker writes the files and shows the progress."""
    return rank() == 0


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def launcher() -> str:
    """What stands in front of the module's name on the command line of this run."""
    if size() == 1:
        return "python -m"
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
    return f"torchrun --nnodes {size() // local} --nproc-per-node {local} -m"


def own_device(device: torch.device) -> torch.device:
    """The device of this worker: on a machine with several GPUs each takes one of its own.

    Raises:
        UserError: There are more workers on this machine than GPUs.
    """
    if size() == 1 or device.type != "cuda":
        return device
    local = int(os.environ.get("LOCAL_RANK", rank()))
    if local >= torch.cuda.device_count():
        raise UserError(
            f"worker {local + 1} of this machine finds {torch.cuda.device_count()} GPUs: start one "
            "worker for each (torchrun --nproc-per-node), or say device=cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def total(values: Sequence[float]) -> list[float]:
    """The sums of these numbers over all workers; every worker waits for the others here."""
    if size() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return [float(value) for value in sums]


def barrier() -> None:
    """Waits until all workers are here.

    What the first worker wrote before it, all can read behind it.
    """
    total([0.0])


def replicated(network: Network) -> Activity:
    """`network.activity` for training, whose gradients are averaged over the workers.

    Every worker starts from the first one's parameters. Batch-norm, where the network has it, takes
    its statistics from the whole batch.
    """
    if size() == 1:
        return network.activity
    synchronize_batch_norm(network)
    device = network.head.weight.device
    return DistributedDataParallel(
        _Activity(network),
        device_ids=[device] if device.type == "cuda" else None,
        forward_sync_buffers=False,  # batch-norm's are the same everywhere
    )


class _Activity(nn.Module):
    """A network called for its activity: DistributedDataParallel calls `forward` alone."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.network.activity(images)
