"""Devices: names, and whether they exist."""

import pytest
import torch

from snn_rl.utils.device import check_device, uses_bf16
from snn_rl.utils.errors import UserError


@pytest.mark.parametrize(
    ("device", "gpus", "words"),
    [
        *((device, 0, "") for device in ("auto", "cpu")),
        *((device, 2, "") for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:1")),
        ("cuda", 0, "device=cuda: PyTorch finds no GPU"),
        ("cuda:2", 2, "device=cuda:2: PyTorch finds 2 GPU"),
        ("mps", 0, "device=mps: PyTorch finds no Apple GPU"),
        *((device, 2, "must be one of auto, cpu") for device in ("gpu", "", "cuda:", "cpu:0")),
    ],
)
def test_a_device_exists_or_is_refused(
    device: str, gpus: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if not words:
        check_device(device)
        return
    with pytest.raises(UserError, match=words):
        check_device(device)


def test_bfloat16_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    found = {device: uses_bf16("auto", device) for device in ("auto", "cpu", "cuda:1", "mps")}
    assert found == {"auto": True, "cpu": False, "cuda:1": True, "mps": False}
