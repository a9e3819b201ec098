"""DQN for spiking networks whose membrane potentials persist between frames."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from torch import Tensor

from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.objectives import sequence_td_loss
from snn_rl.agents.policies import SpikingQNetwork
from snn_rl.agents.replay.sequences import SequenceReplayBuffer, SequenceSamples
from snn_rl.agents.saved import SAVED, Range
from snn_rl.core.networks import SpikingNetwork, State, clear


class CarriedDQN(SpikingDQN):
    """`SpikingDQN` for a network with `carry_state`, with one timestep per frame.

    The agent learns from sequences with stored initial membrane potentials, by backpropagation
    through the frames of a window. The "td" objective uses 1-step targets from a target network
    with separate membrane potentials. Episodes start with zero membrane potentials.

    Args:
        *args: Arguments of `SpikingDQN`.
        burn_in: Number of frames before the window, which only update the membrane potentials.
        window: Number of frames in the loss.
        **kwargs: Arguments of `SpikingDQN`; policy_kwargs must contain carry_state=True.

    Raises:
        ValueError: n_steps is not 1, or carry_state is missing.
    """

    saved: ClassVar[Mapping[str, Range]] = {
        **SAVED,
        "burn_in": (int, 0, 1_000),
        "window": (int, 2, 1_000),
    }

    def __init__(self, *args: Any, burn_in: int = 8, window: int = 8, **kwargs: Any):
        if kwargs.get("n_steps", 1) != 1:
            raise ValueError(f"CarriedDQN requires n_steps=1, got n_steps={kwargs['n_steps']}")
        if not kwargs.get("policy_kwargs", {}).get("carry_state"):
            raise ValueError("CarriedDQN requires policy_kwargs with carry_state=True")
        self.burn_in = burn_in
        self.window = window
        kwargs |= {
            "replay_buffer_class": SequenceReplayBuffer,
            "replay_buffer_kwargs": {"burn_in": burn_in, "window": window},
        }
        super().__init__(*args, **kwargs)

    @property
    def network(self) -> SpikingNetwork:
        """The trained network."""
        network = self.q_net.network
        assert isinstance(network, SpikingNetwork) and network.options.carry_state
        return network

    @property
    def sequences(self) -> SequenceReplayBuffer:
        """The replay buffer."""
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        return self.replay_buffer

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Returns actions and the state, see `SpikingQNetwork.predict`; explores by default."""
        actions, state = self.q_net.predict(observation, state, episode_start)
        if not deterministic:
            self._explore(actions, self.exploration_rate)
        return actions, state

    def activity(self) -> list[Tensor]:
        """Returns the spikes of every hidden layer at the last decision, each [1, n_envs, ...]."""
        return self._spikes

    def _explore(self, actions: NDArray[Any], epsilon: float) -> None:
        """Replaces actions by random actions, independently in each environment."""
        explores = np.random.random(actions.shape) < epsilon
        actions[explores] = [self.action_space.sample() for _ in range(np.count_nonzero(explores))]

    # --- rollouts ------------------------------------------------------------------------------

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        # A resumed run has no stored membrane potentials, so an uninterrupted run discards them.
        self.sequences.forget()
        self.membranes = self.network.initial_state(self.n_envs)
        return super()._setup_learn(*args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        assert isinstance(self._last_obs, np.ndarray)
        self.sequences.remember(self.membranes)
        # Membrane potentials depend on all observations, even if the action is random.
        actions, _, self._spikes, self.membranes = self.q_net.decide(self._last_obs, self.membranes)
        self._explore(
            actions, 1.0 if self.num_timesteps < learning_starts else self.exploration_rate
        )
        return actions, actions

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: NDArray[Any],
        new_obs: Any,
        reward: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self.membranes = clear(self.membranes, torch.as_tensor(dones, device=self.device))

    # --- losses --------------------------------------------------------------------------------

    def _labeled(self, batch: SequenceSamples) -> Tensor:
        return batch.observations[self.burn_in :].flatten(0, 1)

    def _q_values(self, batch: SequenceSamples) -> Tensor:
        return self._unroll(self.q_net, batch)

    def _unroll(self, q_net: SpikingQNetwork, batch: SequenceSamples) -> Tensor:
        """Returns the Q-values [window, N, actions] of the frames after the burn-in."""
        network, shape = q_net.network, batch.observations.shape[:2]
        assert isinstance(network, SpikingNetwork)
        images = q_net.images(batch.observations.flatten(0, 1)).unflatten(0, shape)
        state = batch.state or network.initial_state(shape[1])
        if self.burn_in:
            with torch.no_grad():
                early, keep = images[: self.burn_in], batch.keep[: self.burn_in]
                state = network.unroll(early, state, keep)[2]
        return network.unroll(images[self.burn_in :], state, batch.keep[self.burn_in :])[0]

    def situations(self, count: int) -> tuple[Tensor, State]:
        """Returns images [count, channels, height, width] from the replay buffer and the state."""
        batch = self.sequences.sample(count * self.window)
        state = batch.state or self.network.initial_state(count)
        images = [self.q_net.images(obs) for obs in batch.observations]
        keep = batch.keep
        state = self.network.unroll(torch.stack(images[:-1]), state, keep[:-1])[2]
        return images[-1], clear(state, keep[-1] == 0)

    def _td_loss(self, q_values: Tensor, batch: SequenceSamples) -> Tensor:
        with torch.no_grad():
            target_q = self._unroll(self.q_net_target, batch)
        return sequence_td_loss(q_values, target_q, batch, self.gamma, self.double)
