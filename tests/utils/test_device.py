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
        ("cuda", 0, "device=cuda: PyTorch finds no GPUs \\(run"),
        ("cuda:2", 2, "device=cuda:2: PyTorch finds 2 GPUs \\(run"),
        ("cuda:1", 1, "device=cuda:1: PyTorch finds 1 GPU \\(run"),
        *(
            (device, 2, "must be one of auto, cpu")
            for device in ("gpu", "", "cuda:", "cpu:0", "mps")
        ),
    ],
)
def test_a_device_exists_or_is_refused(
    device: str, gpus: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if not words:
        check_device(device)
        return
    with pytest.raises(UserError, match=words):
        check_device(device)


def test_bfloat16_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    found = {device: uses_bf16("auto", device) for device in ("auto", "cpu", "cuda:1")}
    assert found == {"auto": True, "cpu": False, "cuda:1": True}
