"""Device and precision of a run."""

import torch

from snn_rl.utils.errors import UserError


def uses_bf16(precision: str, device: str) -> bool:
    """Whether training runs in bfloat16 autocast: as asked, or where the processor has it."""
    if precision == "auto":
        if device != "cpu" and torch.cuda.is_available():
            return True
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return precision == "bfloat16"


def check_device(device: str) -> None:
    """Refuses a GPU that is not there: training on the processor instead would take days.

    Args:
        device: auto, cpu or cuda.

    Raises:
        UserError: There is none, or this torch cannot use it.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: this torch finds no GPU (`python -m snn_rl.doctor` says more); "
            "device=auto takes the processor then"
        )
