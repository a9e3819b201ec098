"""Seeds: one for every part of a run, derived from the run's own."""

import random

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """One 31-bit seed from several numbers; trailing zeros do not count."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0]) >> 1


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
