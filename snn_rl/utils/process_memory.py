"""Memory of the process: reuse between training steps, and peak usage."""

import ctypes
import ctypes.util
from pathlib import Path

import torch

# Parameters of glibc's mallopt, from malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LIMIT, _PAD = 2**30, 2**28


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks for the next allocation instead of unmapping them.

    Every training step allocates and frees the same activations, several megabytes each. By
    default glibc maps such blocks anew and touches every page (benchmarks/allocator.py measures
    the cost). Without glibc the function has no effect.
    """
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LIMIT)
    mallopt(_M_TRIM_THRESHOLD, _LIMIT)
    mallopt(_M_TOP_PAD, _PAD)


class PeakMemory:
    """Peak memory since construction, of a GPU or of the whole process on Linux.

    Freed memory is returned to the system at construction, so that the peak of an earlier, larger
    stage is not counted again.
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
        """Returns the peak in bytes, or None if the system does not report it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if not self._works:
            return None
        for line in self._STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return None
