"""How the process holds on to memory between training steps, and how much it needs."""

import ctypes
import ctypes.util
from pathlib import Path

import torch

# Parameters of glibc's mallopt, from malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LIMIT, _PAD = 2**30, 2**28


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks for the next allocation instead of unmapping them.

    Every training step allocates and frees the same activations, megabytes each. glibc maps such
    blocks afresh from the system each time, and every new page has to be touched first:
    benchmarks/allocator.py measures what that costs. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LIMIT)
    mallopt(_M_TRIM_THRESHOLD, _LIMIT)
    mallopt(_M_TOP_PAD, _PAD)


class PeakMemory:
    """The most memory in use since this was made: of a GPU, or of the whole process on Linux.

    What the process does not need any more is given back first, so that the peak of a small stage
    is not that of a large one before it. Other processes and threads are not told apart.

    Args:
        device: Where the computation is.
    """

    _STATUS = Path("/proc/self/status")

    def __init__(self, device: torch.device):
        self.device = device
        self._works = True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
        except (OSError, AttributeError):
            self._works = False

    def read(self) -> int | None:
        """In bytes; None where it cannot be measured."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if not self._works:
            return None
        for line in self._STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return None
