"""Q-network and policy of `SpikingDQN`."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
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
    clear,
    layers_name,
    q_network,
)

# Threshold of an untrained network. With PyTorch's default initialization, currents rarely exceed
# 1, and a layer without spikes passes on neither activity nor gradients. If a fraction p of the
# inputs are spikes, the standard deviation of the currents is sqrt(p / 3). With a threshold of 0.1,
# up to 40 % of the neurons in every layer spike, even for mostly black images.
FRESH_THRESHOLD = 0.1


def check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raises a ValueError unless the spaces are uint8 images and discrete actions from 0.

    The networks divide pixels by 255, so normalized images would be scaled twice.
    """
    if not is_image_space(observation_space):
        raise ValueError(
            "observations must be uint8 images from 0 to 255, [channels, height, width]; "
            f"normalized images (VecNormalize) are not supported; got {observation_space}"
        )
    if not is_image_space_channels_first(observation_space):  # type: ignore[arg-type]
        raise ValueError(
            "observations must be [channels, height, width] with fewer channels than rows and "
            f"columns, as in Stable-Baselines3 (VecTransposeImage); got {observation_space}"
        )
    if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
        raise ValueError(f"actions must be Discrete and start at 0, got {action_space}")


def network_spec(
    network: str | Mapping[str, Any],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    bias: bool,
    frames: int | None = None,
) -> NetworkSpec:
    """Returns the description of a Q-network for an environment's spaces.

    Args:
        network: Name or layers of the network, see `snn_rl.core.networks.q_network`, or the result
            of `NetworkSpec.to_dict` for layers that a name cannot express.
        observation_space: Images [channels, height, width].
        action_space: Discrete actions.
        bias: True if the layers have biases.
        frames: Number of most recent frames that the network receives; None for all frames.

    Raises:
        ValueError: The spaces are not supported, see `check_spaces`, the network is unknown, or the
            images are too small for its layers.
    """
    check_spaces(observation_space, action_space)
    assert isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 3
    assert isinstance(action_space, spaces.Discrete)
    channels, height, width = observation_space.shape
    if frames is not None and not 1 <= frames <= channels:
        raise ValueError(f"frames={frames}: must be from 1 to {channels}")
    shape, actions = (frames or channels, height, width), int(action_space.n)
    if isinstance(network, str):
        return q_network(network, shape, actions, bias)
    spec = replace(NetworkSpec.from_dict(network), input_shape=shape, outputs=actions, bias=bias)
    spec.connections()
    return spec


def network_kwargs(network: AnalogNetwork | SpikingNetwork) -> dict[str, Any]:
    """Returns the policy_kwargs of a policy with the architecture of a network."""
    spec = network.spec
    layers: str | dict[str, Any]
    try:
        layers = layers_name(spec.layers)
    except ValueError:
        layers = spec.to_dict()
    return {
        "network": layers,
        "bias": spec.bias,
        "frames": spec.input_shape[0],
        **(asdict(network.options) if isinstance(network, SpikingNetwork) else {}),
    }


class Decision(NamedTuple):
    """Greedy actions for N observations, and the network outputs behind them.

    Attributes:
        actions: Actions with the largest Q-values, [N].
        q_values: Q-values, [N, actions].
        spikes: Activity of every hidden layer, each [T, N, ...]; an analog network has T = 1.
        state: Membrane potentials after the decision; [] without `carry_state`.
    """

    actions: NDArray[np.int64]
    q_values: Tensor
    spikes: list[Tensor]
    state: State


class QNetwork(Protocol):
    """Q-network that can be evaluated."""

    action_space: spaces.Space[Any]

    @property
    def device(self) -> torch.device:
        """Device of the network."""

    def decide(self, obs: Tensor | NDArray[Any], state: State | None = None) -> Decision:
        """Returns the greedy actions for a batch of observations, without gradients."""


class SpikingQNetwork(BasePolicy):
    """Q-network for image observations, analog or spiking.

    All thresholds of a new spiking network are `FRESH_THRESHOLD`.

    Args:
        observation_space: Images [channels, height, width], uint8.
        action_space: Discrete actions.
        network: Name or layers of the network, see `network_spec`, or an existing network, for
            which the following arguments have no effect.
        timesteps: Number of timesteps T of a spiking network; None for an analog network.
        bias: True if the layers have biases.
        frames: Number of most recent frames that the network receives; None for all frames.
        **options: Other fields of `SpikingOptions`: surrogate, encoding, carry_state, exact.

    Raises:
        ValueError: The network is unknown, the images are too small for its layers, or an option
            is invalid.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        network: str | Mapping[str, Any] | AnalogNetwork | SpikingNetwork = "mnih",
        timesteps: int | None = None,
        bias: bool = False,
        frames: int | None = None,
        **options: Any,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=FlattenExtractor(observation_space)
        )
        if not isinstance(network, AnalogNetwork | SpikingNetwork):
            spec = network_spec(network, observation_space, action_space, bias, frames)
            network = _untrained(spec, timesteps, **options)
        self.network = network
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images(self, obs: Tensor) -> Tensor:
        """Converts uint8 observations to network inputs, see `Network.images`."""
        return self.network.images(obs)

    def forward(self, obs: Any) -> Tensor:
        """Returns Q-values [N, actions] for uint8 observations [N, channels, height, width]."""
        q_values: Tensor = self.network(self.images(obs))
        return q_values

    @torch.no_grad()
    def decide(self, obs: Tensor | NDArray[np.uint8], state: State | None = None) -> Decision:
        """Returns the greedy actions for a batch of observations, without gradients.

        Args:
            obs: Images [N, channels, height, width], uint8, the most recent frame last.
            state: `Decision.state` of the previous observations; None for zero membrane potentials.
        """
        images = self.images(torch.as_tensor(obs, device=self.device))
        if state is None:
            state = self.network.initial_state(len(images))
        q_values, spikes, state = self.network.step(images, state)
        return Decision(q_values.argmax(1).cpu().numpy(), q_values, spikes, state)

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Returns greedy actions and the state, like Stable-Baselines3's recurrent policies.

        Args:
            observation: Images [N, channels, height, width], uint8, or a single image.
            state: State returned by the previous call; None for zero membrane potentials.
            episode_start: Mask [N] of observations that start an episode; their membrane
                potentials are reset.
            deterministic: Ignored; a Q-network is greedy.

        Returns:
            Actions [N], or one action for a single image, and the membrane potentials, or None
            without `carry_state`.
        """
        self.set_training_mode(False)
        obs, vectorized = self.obs_to_tensor(observation)
        assert isinstance(obs, Tensor)
        membranes = None
        if state is not None:
            membranes = [torch.as_tensor(each, device=self.device) for each in state]
            if episode_start is not None:
                ended = torch.as_tensor(episode_start, device=self.device).bool()
                membranes = clear(membranes, ended)
        actions, _, _, membranes = self.decide(obs, membranes)
        after = tuple(each.cpu().numpy() for each in membranes) or None
        return np.asarray(actions if vectorized else actions[0]), after

    def _predict(self, observation: Any, deterministic: bool = True) -> Tensor:
        return torch.as_tensor(self.decide(observation).actions)


def _untrained(
    spec: NetworkSpec, timesteps: int | None, **options: Any
) -> AnalogNetwork | SpikingNetwork:
    # also validates the options of an analog network
    chosen = SpikingOptions(timesteps or 1, **options)
    if timesteps is None:
        return AnalogNetwork(spec)
    network = SpikingNetwork(spec, chosen)
    for neuron in network.neurons:
        neuron.v_threshold.data.fill_(FRESH_THRESHOLD)
    return network


class SpikingDQNPolicy(DQNPolicy):
    """Policy of `SpikingDQN`: Q-network, target network, and optimizer.

    `network_kwargs` are the keyword arguments of `SpikingQNetwork`: network, timesteps, bias, ...
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        **network_kwargs: Any,
    ):
        self.network_kwargs = network_kwargs  # super().__init__ calls make_q_net, which reads it
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    def make_q_net(self) -> SpikingQNetwork:  # type: ignore[override]
        """Returns a new Q-network on the policy's device."""
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
