"""How the process holds on to memory between training steps."""

import ctypes
import ctypes.util

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
