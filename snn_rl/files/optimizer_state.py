"""The state of an optimizer as named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

_PREFIX = "optimizer."


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns the optimizer's state tensors as "optimizer.<parameter>.<name>"."""
    return {
        f"{_PREFIX}{index}.{key}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if isinstance(value, Tensor)
    }


def load_moments(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores the state that `moments` returned; other tensors are ignored."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith(_PREFIX):
            continue
        index, _, key = name.removeprefix(_PREFIX).partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Fused updates need the memory layout of the parameter.
            value = torch.empty_like(parameter).copy_(value).detach()
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
