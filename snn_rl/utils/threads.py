"""Number of CPU threads that PyTorch uses."""

import torch

_AT_START = torch.get_num_threads()


def use_threads(number: int) -> None:
    """Sets the number of threads.

    Several jobs of a sweep may run in one process, so every job has to set its own number.

    Args:
        number: Number of threads. 0 restores the number at the start of the process, by default
            the number of cores.
    """
    torch.set_num_threads(number or _AT_START)
