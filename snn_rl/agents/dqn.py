"""Stable-Baselines3's DQN with an analog or spiking Q-network."""

import io
import json
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TrainFreq
from torch import Tensor

from snn_rl.agents import objectives
from snn_rl.agents.policies import SpikingDQNPolicy, SpikingQNetwork, check_spaces, network_kwargs
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.replay.journal import load_buffer, save_buffer
from snn_rl.agents.resumable import ResumableDQN
from snn_rl.agents.saved import SAVED, Range, SavedAgent
from snn_rl.core.networks import AnalogNetwork, Network, SpikingNetwork
from snn_rl.files.checkpoint import load_network, load_tensors, save_tensors
from snn_rl.utils.errors import UserError

SelfSpikingDQN = TypeVar("SelfSpikingDQN", bound="SpikingDQN")


class SpikingDQN(ResumableDQN):
    """DQN with a `SpikingQNetwork`, double-DQN targets and distillation from a teacher.

    All features of Stable-Baselines3's DQN (`learn`, `predict`, callbacks, `evaluate_policy`) are
    supported. `save` and `load` use safetensors and JSON instead of pickles. The default replay
    buffer is `FrameReplayBuffer`.

    Args:
        policy: "SpikingCnnPolicy", its alias "SpikingDQNPolicy", or the class.
        env: Environment with uint8 image observations.
        learning_rate: Constant or function of the remaining progress.
        double: True to use double DQN targets.
        objective: "td", "distill", or "distill+td".
        teacher: Network whose Q-values are the distillation targets. It receives the most recent
            frames of an observation, matching its input shape.
        sharpness: See `objectives.distill_loss`.
        bf16: True to train with bfloat16 autocast; weights and optimizer state stay float32.
        **kwargs: Other arguments of DQN.

    Raises:
        ValueError: The objective is unknown, the observations are not uint8 images, or the actions
            are not `Discrete` with start 0.
    """

    policy_aliases = {  # noqa: RUF012
        "SpikingCnnPolicy": SpikingDQNPolicy,
        "SpikingDQNPolicy": SpikingDQNPolicy,
    }
    saved: ClassVar[Mapping[str, Range]] = SAVED
    policy: SpikingDQNPolicy
    q_net: SpikingQNetwork  # type: ignore[assignment]
    q_net_target: SpikingQNetwork  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[SpikingDQNPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-4,
        double: bool = False,
        objective: str = objectives.TD,
        teacher: Network | None = None,
        sharpness: float = 3.0,
        bf16: bool = False,
        **kwargs: Any,
    ):
        if objective not in objectives.OBJECTIVES:
            raise ValueError(f"objective must be one of {objectives.OBJECTIVES}, got {objective!r}")
        self.double = double
        self.objective = objective
        self.teacher = teacher
        self.sharpness = sharpness
        self.bf16 = bf16
        super().__init__(policy, env, learning_rate, **kwargs)
        if self.teacher is not None:
            self.teacher.to(self.device)

    def _setup_model(self) -> None:
        check_spaces(self.observation_space, self.action_space)
        with warnings.catch_warnings():
            if self.replay_buffer_class is None:
                self.replay_buffer_class = FrameReplayBuffer
                self.replay_buffer_kwargs |= {"n_steps": self.n_steps, "gamma": self.gamma}
                # Stable-Baselines3 warns that custom buffers ignore n_steps.
                warnings.filterwarnings("ignore", message=".*n_steps=.*is ignored")
            super()._setup_model()

    @property
    def network(self) -> AnalogNetwork | SpikingNetwork:
        """The trained network."""
        return self.q_net.network

    def activity(self) -> list[Tensor]:
        """Returns the activity of every hidden layer at the last step, each [T, n_envs, ...]."""
        obs = torch.as_tensor(np.asarray(self._last_obs), device=self.device)
        # Poisson encoding draws random numbers, which must not affect training.
        with torch.no_grad(), torch.random.fork_rng():
            return self.network.activity(self.q_net.images(obs))[1]

    def load_network(self, network: AnalogNetwork | SpikingNetwork) -> None:
        """Copies the parameters of a network into the Q-network and the target network.

        Raises:
            UserError: The shapes differ from those of this agent.
        """
        try:
            self.network.load_state_dict(network.state_dict())
        except RuntimeError as error:
            raise UserError(
                "the network does not fit the environment and the settings: got "
                f"{network.spec}, expected {self.network.spec}"
            ) from error
        self.q_net_target.load_state_dict(self.q_net.state_dict())

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Performs gradient steps on mini-batches from the replay buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        assert self.replay_buffer is not None
        losses = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            with self._autocast():
                loss = self._loss(batch)
            self.policy.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            if isinstance(self.network, SpikingNetwork):
                self.network.clamp_()
            losses.append(loss.item())
        self._n_updates += gradient_steps
        self.last_loss = float(np.mean(losses))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", self.last_loss)

    def _loss(self, batch: Any) -> Tensor:
        q_values = self._q_values(batch)
        terms = []
        if self.objective != objectives.DISTILL:
            terms.append(self._td_loss(q_values, batch))
        if self.objective != objectives.TD:
            labels, q_values = self._labels(batch), q_values.flatten(0, -2)
            terms.append(objectives.distill_loss(q_values, labels, self.sharpness))
            self._record_agreement(q_values, labels)
        return torch.stack(terms).sum()

    def _record_agreement(self, q_values: Tensor, labels: Tensor) -> None:
        """Logs the share of observations on which the agent chooses the teacher's action."""
        agreement = (q_values.argmax(1) == labels.argmax(1)).double().mean()
        self.logger.record_mean("train/agreement", float(agreement))

    def _labeled(self, batch: Any) -> Tensor:
        """Returns the observations of the batch that enter the loss, [N, ...]."""
        observations: Tensor = batch.observations
        return observations

    def _q_values(self, batch: Any) -> Tensor:
        """Returns the Q-values of the batch's observations, [..., actions]."""
        q_values: Tensor = self.q_net(batch.observations)
        return q_values

    def _td_loss(self, q_values: Tensor, batch: Any) -> Tensor:
        return objectives.td_loss(
            q_values, batch, self.q_net, self.q_net_target, self.gamma, self.double
        )

    @torch.no_grad()
    def _labels(self, batch: Any) -> Tensor:
        """Returns the teacher's Q-values [N, actions] of the observations in the loss."""
        if self.teacher is None:
            raise ValueError(f"objective={self.objective} requires a teacher")
        labels: Tensor = self.teacher(self.teacher.images(self._labeled(batch)))
        return labels

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    # --- files ---------------------------------------------------------------------------------

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Saves the agent and its settings to a single safetensors file.

        Args:
            path: Path of the file. The suffix ".safetensors" is appended if the path has no suffix,
                and replaces ".zip", the suffix used by Stable-Baselines3's callbacks.
            exclude: Not supported.
            include: Not supported.

        Raises:
            ValueError: An argument is not supported.
        """
        if exclude or include or isinstance(path, io.BufferedIOBase):
            raise ValueError(
                "SpikingDQN.save does not support exclude, include, or file objects: pass a path"
            )
        settings = {name: getattr(self, name) for name in self.saved}
        settings["learning_rate"] = self.lr_schedule(1.0)
        assert isinstance(self.train_freq, TrainFreq)  # after `_setup_model`
        settings["train_freq"] = [self.train_freq.frequency, self.train_freq.unit.value]
        meta = SavedAgent(
            settings=settings,
            policy_kwargs=self.policy.network_kwargs,
            optimizer=self.policy.optimizer_class.__name__,
            optimizer_kwargs=self.policy.optimizer_kwargs,
            num_timesteps=self.num_timesteps,
            n_updates=self._n_updates,
            schedule=callable(self.learning_rate),
        ).to_json()
        # raises TypeError before a file is written if a setting is not serializable
        json.dumps(meta)
        save_tensors(_with_suffix(path, ".safetensors", ".zip"), self.tensors(), meta)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfSpikingDQN],
        path: str | pathlib.Path,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        **kwargs: Any,
    ) -> SelfSpikingDQN:
        """Loads an agent from a file of `save` or from the network.safetensors of a stage.

        Learning-rate schedules are not saved. Unless `learning_rate` is given, training continues
        at the schedule's initial value, and a warning is issued. A network.safetensors stores no
        training settings at all.

        Args:
            path: Path of the file.
            env: Environment of the agent.
            device: Device of the agent.
            **kwargs: Constructor arguments that override those in the file.

        Raises:
            UserError: The file is damaged or does not fit the environment.
            ValueError: `env` is None.
        """
        if env is None:
            raise ValueError(
                "SpikingDQN.load requires env because the file does not store the observation and "
                "action spaces"
            )
        path = _with_suffix(path, ".safetensors", ".zip")
        tensors, meta = load_tensors(path)
        if "network" in meta:
            network, _ = load_network(path)
            model = cls._built(path, env, network_kwargs(network), device=device, **kwargs)
            model.load_network(network)
            return model
        saved = SavedAgent.from_json(meta, path)
        env = cls._wrap_env(maybe_make_env(env, verbose=0))
        try:
            settings = {**saved.arguments(cls.saved, kwargs), **kwargs}
            policy_kwargs = saved.policy_arguments(env, tensors)
        except ValueError as error:
            raise UserError(f"{path} cannot be loaded: {error}") from None
        if saved.schedule and "learning_rate" not in kwargs:
            warnings.warn(
                f"{path} does not store the learning-rate schedule: training continues at "
                f"{settings['learning_rate']} unless learning_rate= is passed to load",
                stacklevel=2,
            )
        model = cls._built(path, env, policy_kwargs, device=device, **settings)
        model.load_tensors(tensors)
        model.num_timesteps, model._n_updates = saved.num_timesteps, saved.n_updates
        return model

    @classmethod
    def _built(
        cls: type[SelfSpikingDQN],
        path: pathlib.Path,
        env: GymEnv,
        policy_kwargs: dict[str, Any],
        **settings: Any,
    ) -> SelfSpikingDQN:
        try:
            return cls(SpikingDQNPolicy, env, policy_kwargs=policy_kwargs, **settings)
        except ValueError as error:
            raise UserError(f"{path} does not fit the environment: {error}") from error

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Saves the replay buffer as compressed arrays; the suffix .npz replaces .pkl."""
        save_buffer(self._buffer_path(path), self._frames())

    def load_replay_buffer(
        self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True
    ) -> None:
        """Loads the replay buffer from a file of `save_replay_buffer`."""
        load_buffer(self._buffer_path(path), self._frames())

    def _frames(self) -> FrameReplayBuffer:
        assert isinstance(self.replay_buffer, FrameReplayBuffer)
        return self.replay_buffer

    @staticmethod
    def _buffer_path(path: str | pathlib.Path | io.BufferedIOBase) -> pathlib.Path:
        if isinstance(path, io.BufferedIOBase):
            raise ValueError("path must be a str or Path, not a file object")
        return _with_suffix(path, ".npz", ".pkl")


def _with_suffix(path: str | pathlib.Path, suffix: str, theirs: str) -> pathlib.Path:
    """Appends a suffix to a path without suffix; replaces the suffix `theirs`."""
    path = pathlib.Path(path)
    return path.with_suffix(suffix) if path.suffix in ("", theirs) else path
