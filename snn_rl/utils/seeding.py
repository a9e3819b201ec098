"""Seeds of random number generators."""

import random

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Returns a 31-bit seed that is derived from several numbers; trailing zeros have no effect."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0]) >> 1


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
