"""Settings for the whole test run."""

import torch

# One thread: sums keep their order from machine to machine, and parallel runs do not fight.
torch.set_num_threads(1)
