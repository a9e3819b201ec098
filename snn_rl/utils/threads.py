"""The processor threads that PyTorch computes with."""

import torch

_FROM_THE_START = torch.get_num_threads()


def use_threads(number: int) -> None:
    """Computes with so many threads from now on.

    Several jobs of a sweep may run in one process: what one asked for is not meant for the next.

    Args:
        number: How many; 0 is as many as the process began with, by default one for each core.
    """
    torch.set_num_threads(number or _FROM_THE_START)
