"""The state of an optimizer as named tensors."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

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
    """Restores the state that `moments` returned; other tensors are ignored.

    Raises:
        ValueError: The state does not match the parameters and the kind of the optimizer.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    accepted = signature(type(optimizer)).parameters  # AdamW adds a default of its own
    options = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    expected = state_names(type(optimizer), options)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith(_PREFIX):
            continue
        number, _, key = name.removeprefix(_PREFIX).partition(".")
        index = int(number) if number.isdecimal() else len(parameters)
        if index >= len(parameters) or key not in expected or not value.is_floating_point():
            raise ValueError(f"unexpected state of the optimizer: {name[:100]!r}")
        parameter = parameters[index]
        if value.shape not in (parameter.shape, ()):
            raise ValueError(f"{name!r} has shape {tuple(value.shape)}")
        if value.shape == parameter.shape:
            # Fused updates need the memory layout of the parameter.
            value = torch.empty_like(parameter).copy_(value).detach()
        state.setdefault(index, {})[key] = value
    if any(entries.keys() != expected for entries in state.values()):
        raise ValueError(
            f"the optimizer state is incomplete: expected {', '.join(sorted(expected))}"
        )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def state_names(kind: type[Optimizer], options: Mapping[str, Any]) -> set[str]:
    """Returns the names of the state tensors of each parameter after an update."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    trial = kind([parameter], **options)
    trial.step()
    return {key for key, value in trial.state[parameter].items() if isinstance(value, Tensor)}
