"""Contents of the files that `SpikingDQN.save` writes."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from snn_rl.agents.policies import network_spec
from snn_rl.chain.records import Record
from snn_rl.core.networks import SpikingOptions
from snn_rl.files.optimizer_state import state_names

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "RMSprop": torch.optim.RMSprop,
}

Range = tuple[Any, float, float]  # type, minimum and maximum
_SHARE = (float | int, 0, 1)
# Constructor arguments that are saved, besides those of the policy. The limits bound what a file
# can make the agent allocate or compute. Larger values must be passed to `load`.
SAVED: dict[str, Range] = {
    "buffer_size": (int, 1, 10**7),
    "learning_starts": (float | int, 0, 10**9),
    "batch_size": (int, 1, 10**6),
    "tau": _SHARE,
    "gamma": _SHARE,
    "gradient_steps": (int, -1, 10**6),
    "n_steps": (int, 1, 10**4),
    "target_update_interval": (int, 1, 10**9),
    "exploration_fraction": _SHARE,
    "exploration_initial_eps": _SHARE,
    "exploration_final_eps": _SHARE,
    "max_grad_norm": (float | int, 0, math.inf),
    "seed": (int | None, 0, 2**32 - 1),
    "learning_rate": (float | int, 0, 10),
    "double": (bool, 0, 1),
    "objective": (str, 0, 0),
    "sharpness": (float | int, 0, 1e6),
    "bf16": (bool, 0, 1),
}


@dataclass(frozen=True, kw_only=True)
class SavedAgent(Record):
    """Metadata of a saved agent, stored next to its tensors."""

    settings: dict[str, Any]  # constructor arguments of the agent
    policy_kwargs: dict[str, Any]  # constructor arguments of the policy
    optimizer: str  # key of `OPTIMIZERS`
    optimizer_kwargs: dict[str, Any]
    num_timesteps: int
    n_updates: int
    schedule: bool = False  # True if the learning rate had a schedule, which is not saved

    def __post_init__(self) -> None:
        if min(self.num_timesteps, self.n_updates) < 0:
            raise ValueError("negative number of steps")

    def arguments(self, saved: Mapping[str, Range], given: Collection[str]) -> dict[str, Any]:
        """Returns the saved constructor arguments, except those in `given`.

        Raises:
            ValueError: An argument is missing or not in its range.
        """
        arguments = {}
        for name, (kind, low, high) in saved.items():
            value: Any = self.settings.get(name)
            is_kind = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
            if name not in given:
                free = value is None or isinstance(value, str)
                if not is_kind or not (free or low <= value <= high):
                    limits = "" if kind in (bool, str) else f": must be from {low:,} to {high:,}"
                    raise ValueError(f"{name}={value!r} is invalid{limits}; pass {name}= to load")
                arguments[name] = value
        if "train_freq" not in given:
            match self.settings.get("train_freq"):
                case [int(frequency), "step" | "episode" as unit] if frequency > 0:
                    arguments["train_freq"] = (frequency, unit)
                case other:
                    raise ValueError(f"train_freq={other!r}, expected [number, step or episode]")
        return arguments

    def policy_arguments(self, env: VecEnv, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the constructor arguments of the policy for an environment.

        Raises:
            ValueError: An argument is missing or invalid, or the network has more weights than the
                file.
        """
        kinds: dict[str, Any] = {"network": str | dict, "bias": bool, "frames": int | None}
        layers = {"network": "mnih", "bias": False, "frames": None, **self.policy_kwargs}
        options = {key: layers.pop(key) for key in layers.keys() - kinds.keys()}
        for name, kind in kinds.items():
            if not isinstance(layers[name], kind):
                raise ValueError(f"{name}={layers[name]!r} has the wrong type")
        spec = network_spec(
            observation_space=env.observation_space, action_space=env.action_space, **layers
        )
        stored = sum(tensor.numel() for tensor in tensors.values())
        described = sum(connection.weights for connection in spec.connections())
        if described > stored:
            raise ValueError(
                f"the network has {described:,} weights, but the file has only {stored:,} values"
            )
        try:
            if "lr" in self.optimizer_kwargs:  # the policy passes the learning rate
                raise ValueError("optimizer_kwargs must not contain lr")
            SpikingOptions(**options | {"timesteps": options.get("timesteps") or 1})
            optimizer = OPTIMIZERS[self.optimizer]
            state_names(optimizer, {"lr": 1e-3} | self.optimizer_kwargs)
        except (KeyError, TypeError, IndexError, RuntimeError, AssertionError) as error:
            raise ValueError(f"invalid policy or optimizer: {error}") from None
        return {
            **self.policy_kwargs,
            "optimizer_class": optimizer,
            "optimizer_kwargs": self.optimizer_kwargs,
        }
