"""Device and precision of a run."""

import re

import torch

from snn_rl.utils.errors import UserError


def uses_bf16(precision: str, device: str) -> bool:
    """Returns True if training uses bfloat16 autocast.

    Args:
        precision: "bfloat16", "float32", or "auto": bfloat16 if the device supports it natively.
        device: "auto", "cpu", "cuda", "cuda:1", ...
    """
    if precision == "auto":
        if device != "cpu" and torch.cuda.is_available():
            return True
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return precision == "bfloat16"


def check_device(device: str) -> None:
    """Raises a UserError if a requested device is missing: training on the CPU would take days."""
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise UserError(f"device={device}: must be one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= (gpus := torch.cuda.device_count()):
        raise UserError(
            f"device={device}: PyTorch finds {gpus or 'no'} GPU{'s' * (gpus != 1)} (run "
            "`python -m snn_rl.doctor` for details); device=auto uses the CPU if there is no GPU"
        )
