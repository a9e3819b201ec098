"""The Q-network and the policy that Stable-Baselines3's DQN drives."""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor

from snn_rl.core.networks import (
    AnalogNetwork,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
    State,
    q_network,
)

# Of a network that nothing is loaded into. PyTorch's weights drive hardly any neuron above 1: no
# layer fires, and without spikes there are neither Q-values nor gradients. Inputs of which a
# fraction p are spikes give currents with a standard deviation of sqrt(p / 3), of which 0.1 leaves
# p = 0.4 above it, layer after layer; of mostly black images it still leaves some.
FRESH_THRESHOLD = 0.1


def network_spec(
    network: str,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    bias: bool,
    frames: int | None = None,
) -> NetworkSpec:
    """The description of a named Q-network for these spaces.

    Args:
        network: A name or layers, see `snn_rl.core.networks.q_network`.
        observation_space: Images, channels first.
        action_space: Discrete.
        bias: Whether the layers have biases.
        frames: How many of the newest frames the network sees; None: all.

    Raises:
        ValueError: No such network, or images too small for it.
    """
    assert isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 3
    assert isinstance(action_space, spaces.Discrete)
    channels, height, width = observation_space.shape
    return q_network(network, (frames or channels, height, width), int(action_space.n), bias)


class Decision(NamedTuple):
    """Greedy actions for N observations, and the quantities behind them.

    Attributes:
        actions: Actions with the largest Q-values, [N].
        q_values: Q-values, [N, actions].
        spikes: Activity of every hidden layer, each [T, N, ...]; an analog network has T = 1.
        state: Membranes after the decision; [] if the network does not carry its state.
    """

    actions: NDArray[np.int64]
    q_values: Tensor
    spikes: list[Tensor]
    state: State


class SpikingQNetwork(BasePolicy):
    """Q-values from images; analog or spiking by the number of timesteps.

    Of the spiking form, thresholds begin at `FRESH_THRESHOLD`.

    Args:
        observation_space: Images, uint8, channels first.
        action_space: Discrete.
        network: A name or layers, see `snn_rl.core.networks.q_network`.
        timesteps: T, or None for the analog network.
        bias: Whether the layers have biases.
        surrogate: Surrogate gradient of the spiking form.
        encoding: Input encoding of the spiking form.
        carry_state: Whether the spiking form's membranes live on from frame to frame.
        exact: Whether the spiking form is on the grid of `snn_rl.core.conversion.integer_grid`.
        frames: How many of the newest frames it sees; None: all of an observation's.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        network: str = "mnih",
        timesteps: int | None = None,
        bias: bool = False,
        surrogate: str = "linear",
        encoding: str = "direct",
        carry_state: bool = False,
        exact: bool = False,
        frames: int | None = None,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=FlattenExtractor(observation_space)
        )
        spec = network_spec(network, observation_space, action_space, bias, frames)
        self.network: AnalogNetwork | SpikingNetwork = (
            AnalogNetwork(spec)
            if timesteps is None
            else SpikingNetwork(
                spec, SpikingOptions(timesteps, surrogate, encoding, carry_state, exact)
            )
        )
        if isinstance(self.network, SpikingNetwork):
            for neuron in self.network.neurons:
                neuron.v_threshold.data.fill_(FRESH_THRESHOLD)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images(self, obs: Tensor) -> Tensor:
        """Observations (uint8) as the network takes them, see `Network.images`."""
        return self.network.images(obs)

    def forward(self, obs: Any) -> Tensor:
        """Observations [N, channels, height, width], uint8, to Q-values [N, actions]."""
        q: Tensor = self.network(self.images(obs))
        return q

    @torch.no_grad()
    def decide(self, obs: Tensor | NDArray[np.uint8], state: State | None = None) -> Decision:
        """Returns the greedy actions for a batch of observations, without gradients.

        Args:
            obs: Images [N, channels, height, width], uint8, the newest frame last.
            state: `Decision.state` of the previous observations; None empties the membranes.
        """
        images = self.images(torch.as_tensor(obs, device=self.device))
        if state is None:
            state = self.network.initial_state(len(images))
        q_values, spikes, state = self.network.step(images, state)
        return Decision(q_values.argmax(1).cpu().numpy(), q_values, spikes, state)

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return torch.as_tensor(self.decide(observation).actions)


class SpikingDQNPolicy(DQNPolicy):
    """DQN's policy around `SpikingQNetwork`; takes its arguments as policy_kwargs.

    Args:
        observation_space: Images, uint8, channels first.
        action_space: Discrete.
        lr_schedule: Learning rate over the remaining progress.
        network: See `SpikingQNetwork`.
        timesteps: See `SpikingQNetwork`.
        bias: See `SpikingQNetwork`.
        surrogate: See `SpikingQNetwork`.
        encoding: See `SpikingQNetwork`.
        carry_state: See `SpikingQNetwork`.
        exact: See `SpikingQNetwork`.
        frames: See `SpikingQNetwork`.
        optimizer_class: Optimizer of the Q-network.
        optimizer_kwargs: Its arguments besides the learning rate.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        network: str = "mnih",
        timesteps: int | None = None,
        bias: bool = False,
        surrogate: str = "linear",
        encoding: str = "direct",
        carry_state: bool = False,
        exact: bool = False,
        frames: int | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        # before super().__init__, which builds the networks
        self.network_kwargs = {
            "network": network,
            "timesteps": timesteps,
            "bias": bias,
            "surrogate": surrogate,
            "encoding": encoding,
            "carry_state": carry_state,
            "exact": exact,
            "frames": frames,
        }
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def make_q_net(self) -> SpikingQNetwork:  # type: ignore[override]
        """A fresh Q-network on the policy's device."""
        q_net = SpikingQNetwork(self.observation_space, self.action_space, **self.network_kwargs)  # type: ignore[arg-type]
        return q_net.to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self.network_kwargs,
        }
