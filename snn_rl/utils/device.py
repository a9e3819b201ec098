"""Device and precision of a run."""

import torch

from snn_rl.utils.errors import UserError


def uses_bf16(precision: str, device: str) -> bool:
    """Returns whether training uses bfloat16 autocast.

    Args:
        precision: "bfloat16", "float32", or "auto": bfloat16 if the device supports it natively.
        device: "auto", "cpu" or "cuda".
    """
    if precision == "auto":
        if device != "cpu" and torch.cuda.is_available():
            return True
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return precision == "bfloat16"


def check_device(device: str) -> None:
    """Raises a UserError if a requested GPU is missing: training on the CPU would take days."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: PyTorch finds no GPU (run `python -m snn_rl.doctor` for details); "
            "device=auto uses the CPU if there is no GPU"
        )
