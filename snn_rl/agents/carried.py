"""CarriedDQN: an agent of single frames whose membranes live on from frame to frame."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from torch import Tensor
from torch.nn import functional as F

from snn_rl.agents.dqn import SAVED, SpikingDQN
from snn_rl.agents.policies import SpikingQNetwork
from snn_rl.agents.replay.sequences import SequenceReplayBuffer, SequenceSamples
from snn_rl.core.networks import SpikingNetwork, State, clear


class CarriedDQN(SpikingDQN):
    """`SpikingDQN` whose network carries its state: one timestep a frame.

    It learns from sequences, each with the membranes it began with, by backpropagation through
    the frames of its window ("td" with 1-step targets, valued by a target network with membranes of
    its own). An episode begins with empty membranes.

    Args:
        *args: `SpikingDQN`'s.
        burn_in: Frames that only bring the stored membranes up to date.
        window: Frames behind them that are learnt from.
        **kwargs: `SpikingDQN`'s; policy_kwargs must ask for carry_state.
    """

    saved = (*SAVED, "burn_in", "window")

    def __init__(self, *args: Any, burn_in: int = 8, window: int = 8, **kwargs: Any):
        if kwargs.get("n_steps", 1) != 1:
            raise ValueError(
                f"CarriedDQN learns from 1-step targets, not n_steps={kwargs['n_steps']}"
            )
        if not kwargs.get("policy_kwargs", {}).get("carry_state"):
            raise ValueError("CarriedDQN needs policy_kwargs with carry_state=True")
        self.burn_in = burn_in
        self.window = window
        kwargs |= {
            "replay_buffer_class": SequenceReplayBuffer,
            "replay_buffer_kwargs": {"burn_in": burn_in, "window": window},
        }
        super().__init__(*args, **kwargs)

    @property
    def network(self) -> SpikingNetwork:
        """The learning network itself."""
        network = self.q_net.network
        assert isinstance(network, SpikingNetwork) and network.options.carry_state
        return network

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Actions and membranes, as Stable-Baselines3's recurrent agents return them.

        Args:
            observation: [N, channels, height, width], uint8, or a single one.
            state: What the call before returned; None: empty membranes.
            episode_start: [N], true where the membranes have to be emptied first.
            deterministic: Never explore.
        """
        obs, vectorized = self.policy.obs_to_tensor(observation)
        assert isinstance(obs, Tensor)
        memory = self.network.initial_state(len(obs))
        if state is not None:
            memory = [torch.as_tensor(rest, device=self.device) for rest in state]
        if episode_start is not None:
            memory = clear(memory, torch.as_tensor(episode_start, device=self.device).bool())
        actions, _, _, memory = self.q_net.decide(obs, memory)
        if not deterministic:
            self._explore(actions, self.exploration_rate)
        after = tuple(rest.cpu().numpy() for rest in memory)
        return (actions if vectorized else actions[0]), after

    def activity(self) -> list[Tensor]:
        """See `SpikingDQN.activity`; its frame is in the memory already."""
        return self._layers

    def _explore(self, actions: NDArray[Any], epsilon: float) -> None:
        """Replaces actions by random ones, in every game for itself."""
        explores = np.random.random(len(actions)) < epsilon
        actions[explores] = [self.action_space.sample() for _ in range(int(explores.sum()))]

    # --- playing -------------------------------------------------------------------------------

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        # what resumes here must not differ from what goes on: neither knows earlier membranes
        self.replay_buffer.forget()
        self.memory = self.network.initial_state(self.n_envs)
        return super()._setup_learn(*args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        assert isinstance(self._last_obs, np.ndarray)
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        self.replay_buffer.remember(self.memory)
        # the membranes follow the observations, whoever chooses the action
        actions, _, self._layers, self.memory = self.q_net.decide(self._last_obs, self.memory)
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
        self.memory = clear(self.memory, torch.as_tensor(dones, device=self.device))

    # --- learning ------------------------------------------------------------------------------

    def _learnt_from(self, batch: SequenceSamples) -> Tensor:
        return batch.observations[self.burn_in :].flatten(0, 1)

    def _q_values(self, batch: SequenceSamples) -> Tensor:
        return self._unroll(self.q_net, batch)

    def _unroll(self, q_net: SpikingQNetwork, batch: SequenceSamples) -> Tensor:
        """Q-values [window, N, actions] behind the burn-in."""
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
        """Images [count, channels, height, width] from the replay buffer, and the state before."""
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        batch = self.replay_buffer.sample(count * self.window)
        state = batch.state or self.network.initial_state(count)
        images = [self.q_net.images(obs) for obs in batch.observations]
        keep = batch.keep
        state = self.network.unroll(torch.stack(images[:-1]), state, keep[:-1])[2]
        return images[-1], clear(state, keep[-1] == 0)

    def _td_loss(self, q_values: Tensor, batch: SequenceSamples) -> Tensor:
        actions, rewards, dones, timeouts = (
            rows[self.burn_in : -1]
            for rows in (batch.actions, batch.rewards, batch.dones, batch.timeouts)
        )
        with torch.no_grad():
            following = self._unroll(self.q_net_target, batch)[1:]
            chooser = q_values[1:] if self.double else following
            value = following.gather(2, chooser.argmax(2, keepdim=True)).squeeze(2)
            target = rewards + (1 - dones) * self.gamma * value
        taken = q_values[:-1].gather(2, actions.long().unsqueeze(2)).squeeze(2)
        errors = F.smooth_l1_loss(taken, target, reduction="none")
        # where a time limit cut the episode off, the image that followed is not in the sequence
        valid = 1 - timeouts
        return (errors * valid).sum() / valid.sum().clamp(min=1.0)
