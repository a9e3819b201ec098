"""Network and policy of a privileged teacher, which observes the emulator's state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from snn_rl.agents.policies import Decision

_LIMIT = 10.0  # largest input, for numbers that hardly vary in random play
_LEAST_VALUES = 8  # fewest values of a number that the network compares with others


@dataclass(frozen=True)
class StateScale:
    """Numbers of the state that a teacher observes, and their standardization.

    Attributes:
        columns: Indices of the numbers.
        mean: Mean of each of these numbers.
        std: Standard deviation of each of these numbers.
        change: Root mean square of the change of each number from one state of an episode to the
            next; `std` if the number only differs between episodes.
        compared: Positions in `columns` of the numbers that take at least 8 values, such as the
            coordinates of objects.
    """

    columns: NDArray[np.int64]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    change: NDArray[np.float32]
    compared: NDArray[np.int64]

    @classmethod
    def of(
        cls, states: NDArray[Any], starts: NDArray[np.bool_], columns: NDArray[np.int64]
    ) -> "StateScale":
        """Computes the standardization of these columns of the states that `explore` returns."""
        numbers = states[..., columns].astype(np.float64)
        mean, std = numbers.mean((0, 1)), numbers.std((0, 1))
        within = ~starts[1:, :, None]
        change = np.sqrt((np.diff(numbers, axis=0) ** 2).mean((0, 1), where=within))
        change = np.where(change == 0, std, change)
        values = [len(np.unique(numbers[..., k])) for k in range(len(columns))]
        compared = np.flatnonzero(np.array(values) >= _LEAST_VALUES)
        mean, std, change = (each.astype(np.float32) for each in (mean, std, change))
        return cls(columns, mean, std, change, compared)


def explore(env: VecEnv, steps: int, seed: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Visits states with random actions.

    Args:
        env: Environments of `make_state_env` with all state variables.
        steps: Number of agent steps, summed over the environments.
        seed: Seed of the actions.

    Returns:
        Visited states [steps, n_envs, numbers], and True for the first state of each episode.
    """
    assert isinstance(env.action_space, spaces.Discrete)
    rng, n = np.random.default_rng(seed), env.action_space.n
    visited = [np.asarray(env.reset())[:, -1]]
    starts = [np.ones(env.num_envs, np.bool_)]
    for _ in range(-(-steps // env.num_envs)):
        obs, _, dones, _ = env.step(rng.integers(n, size=env.num_envs))
        visited.append(np.asarray(obs)[:, -1].copy())
        starts.append(dones.astype(np.bool_))
    return np.stack(visited), np.stack(starts)


class StateNetwork(nn.Module):
    """Quantiles of the return of every action, from the last states.

    The inputs are the newest state and the changes from state to state, each standardized, because
    changes are small compared to the states. Further inputs are the differences between state
    variables, each divided by every range and limited to [-1, 1], because the relative positions
    of two objects often decide (Liang et al., 2016).

    Args:
        scale: Observed state variables.
        frames: Number of states per observation.
        actions: Number of actions.
        hidden: Number of neurons of each hidden layer.
        quantiles: Number of quantiles.
        ranges: Ranges of the differences between the `scale.compared` numbers of the newest state.
    """

    columns: Tensor
    compared: Tensor
    mean: Tensor
    std: Tensor
    change: Tensor

    def __init__(
        self,
        scale: StateScale,
        frames: int,
        actions: int,
        hidden: Sequence[int] = (256, 256),
        quantiles: int = 32,
        ranges: Sequence[float] = (),
    ):
        super().__init__()
        self.frames, self.actions, self.quantiles = frames, actions, quantiles
        self.hidden, self.ranges = list(hidden), list(ranges)
        # Both networks of a policy have their own copies, because files cannot share tensors.
        self.register_buffer("columns", torch.tensor(scale.columns), persistent=False)
        self.register_buffer("compared", torch.tensor(scale.compared), persistent=False)
        self.register_buffer("mean", torch.tensor(scale.mean))
        self.register_buffer("std", torch.tensor(scale.std))
        self.register_buffer("change", torch.tensor(scale.change))
        layers: list[nn.Module] = []
        pairs = math.comb(len(scale.compared), 2)
        width = frames * len(scale.columns) + len(ranges) * pairs
        for size in hidden:
            layers += [nn.Linear(width, size), nn.LayerNorm(size), nn.ReLU()]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, actions * quantiles))

    @property
    def scale(self) -> StateScale:
        """Observed state variables."""
        buffers = (self.columns, self.mean, self.std, self.change, self.compared)
        return StateScale(*(each.cpu().numpy() for each in buffers))

    def forward(self, obs: Tensor) -> Tensor:
        """Returns quantiles [N, actions, quantiles] for observations [N, frames, columns]."""
        states = obs.float()
        newest = (states[:, -1] - self.mean) / self.std
        changes = states.diff(dim=1) / self.change
        inputs = torch.cat([newest, changes.flatten(1)], 1).clamp_(-_LIMIT, _LIMIT)
        if self.ranges:
            inputs = torch.cat([inputs, *self._differences(states[:, -1])], 1)
        values: Tensor = self.layers(inputs)
        return values.view(-1, self.actions, self.quantiles)

    def _differences(self, newest: Tensor) -> list[Tensor]:
        """Returns the limited differences of each range, [N, pairs]."""
        count = len(self.compared)
        first, second = torch.triu_indices(count, count, 1, device=newest.device)
        numbers = newest[:, self.compared]
        differences = numbers[:, first] - numbers[:, second]
        return [(differences / each).clamp_(-1, 1) for each in self.ranges]


class StateQNetwork(BasePolicy):
    """Q-network for observations of `make_state_env`.

    Args:
        observation_space: States [frames, columns].
        action_space: Discrete actions.
        network: Observed state variables for a new network, or an existing network.
        **network_kwargs: Other arguments of a new `StateNetwork`: hidden, quantiles, ranges.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        network: StateScale | StateNetwork,
        **network_kwargs: Any,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=FlattenExtractor(observation_space)
        )
        if isinstance(network, StateScale):
            assert isinstance(observation_space, spaces.Box)
            frames, actions = observation_space.shape[0], int(action_space.n)
            network = StateNetwork(network, frames, actions, **network_kwargs)
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        """Returns Q-values [N, actions]."""
        q_values: Tensor = self.network(obs).mean(2)
        return q_values

    @torch.no_grad()
    def decide(self, obs: Tensor | NDArray[Any], state: Any = None) -> Decision:
        """Returns the greedy actions for observations [N, frames, columns]."""
        q_values = self(torch.as_tensor(obs, device=self.device))
        return Decision(q_values.argmax(1).cpu().numpy(), q_values, [], [])

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return torch.as_tensor(self.decide(observation).actions)


class StateDQNPolicy(DQNPolicy):
    """Policy of `StateDQN`: trained network, averaged network, and optimizer.

    Args:
        observation_space: States [frames, columns].
        action_space: Discrete actions.
        lr_schedule: Learning rate.
        scale: Observed state variables.
        **network_kwargs: Other arguments of `StateNetwork`: hidden, quantiles, ranges.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        scale: StateScale,
        **network_kwargs: Any,
    ):
        # super().__init__ calls make_q_net, which reads these arguments
        self.network_kwargs = {"network": scale, **network_kwargs}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            optimizer_class=torch.optim.AdamW,
            optimizer_kwargs={"fused": True},
        )

    def make_q_net(self) -> StateQNetwork:  # type: ignore[override]
        """Returns a new Q-network on the policy's device."""
        q_net = StateQNetwork(self.observation_space, self.action_space, **self.network_kwargs)  # type: ignore[arg-type]
        return q_net.to(self.device)
