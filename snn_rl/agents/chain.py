"""Training and evaluation of the stages of an agent's chain."""

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import CarriedDQN, SpikingDQN, SpikingDQNPolicy, SpikingQNetwork, evaluate, plan
from snn_rl.agents.dqn import OPTIMIZERS
from snn_rl.agents.evaluation import evaluate_stage
from snn_rl.agents.loading import evaluation_env
from snn_rl.agents.objectives import DISTILL, TD
from snn_rl.agents.replay.journal import Journal
from snn_rl.agents.retraining import cosine
from snn_rl.agents.training import Selection, resume, train_stage
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    AgentNotes,
    Counters,
    SelectionGames,
    StageEvaluation,
    read_counters,
    read_metrics,
)
from snn_rl.chain.stages import ANN, Stage
from snn_rl.configs.schema import Config, DQNConfig
from snn_rl.core.conversion import (
    ConversionError,
    ThresholdSearch,
    convert,
    format_table,
    layer_table,
    quantize,
)
from snn_rl.core.networks import AnalogNetwork, Network, SpikingNetwork, SpikingOptions, State
from snn_rl.envs import make_env
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.utils.device import uses_bf16
from snn_rl.utils.errors import UserError
from snn_rl.utils.seeding import derive_seed, seed_everything


class ChainTrainer:
    """Fits the stages of one run.

    Args:
        config: The resolved settings.
        directory: Of the run.
        networks: Those that are brought in, see `import_networks`.
    """

    def __init__(self, config: Config, directory: Path, networks: dict[str, AnalogNetwork]):
        self.config = config
        self.directory = directory
        self.networks = networks
        self.stages = {stage.name: stage for stage in plan.chain(config)}
        self.teacher = _teacher(networks["teacher"]) if "teacher" in networks else None

    def fit(self, stage: Stage) -> None:
        """Trains one stage, or resumes it, and writes its network."""
        # a model and its callbacks refer to one another: the buffer of the stage before, gigabytes
        # large, would stay until the collector happens to come by
        gc.collect()
        config, directory = self.config, self.directory / stage.name
        lineage = [self.directory / name for name in self._lineage(stage)]
        journal = Journal([each / "replay" for each in lineage])
        source = read_counters(lineage[-2]) if len(lineage) > 1 else None
        rows_before = source.rows if source else 0
        seed_everything(derive_seed(config.seed, plan.stage_number(stage)))
        model = self._model(stage)
        counters = resume(model, directory, journal, rows_before)
        if counters is None:
            counters = Counters(rows=rows_before)
            network = self._initial_network(stage, model)
            if network is not None:
                model.load_network(network)
        train_stage(
            model,
            counters,
            partial(self._training_env, stage),
            directory,
            journal,
            plan.stage_steps(config, stage),
            plan.checkpoint_steps(config, stage),
            (config.seed, plan.stage_number(stage)),
            stage.name,
            self._selection(stage),
        )
        layers = None
        if isinstance(model.network, SpikingNetwork):
            layers = layer_table(model.network, *self._situations(model))
            print(f"\n{stage.name}\n{format_table(layers)}")
        notes = AgentNotes(
            env=config.env,
            seed=config.seed,
            stage=stage.name,
            layers=layers,
            steps=counters.steps,
            updates=counters.updates,
            wall_s=counters.wall_s,
            scores=counters.scores,
            selection=plan.selection_games(config, stage) if counters.scores else None,
        )
        save_network(directory / run_directory.NETWORK, model.network, notes.to_json())

    def evaluate(self, stage: Stage) -> None:
        """Plays the greedy and the sticky trials of a finished stage, unless that was done."""
        directory, trials = self.directory / stage.name, plan.trials(self.config)
        metrics = read_metrics(directory)
        if not isinstance(metrics, StageEvaluation) or metrics.evaluation != trials:
            evaluate_stage(directory, trials, self.config.device)

    def _lineage(self, stage: Stage) -> list[str]:
        """The stages whose replay rows this one goes on with, and itself.

        Fine-tuning begins with none, its games being others; measured: docs/results/pong.md.
        """
        names = [stage.name]
        while not (first := self.stages[names[0]]).finetuned and first.source is not None:
            names.insert(0, first.source)
        return names

    def _selection(self, stage: Stage) -> Selection | None:
        config, games = self.config, plan.selection_games(self.config, stage)
        dqn = plan.dqn_settings(config, stage)
        if not games:
            return None
        rollout = replace(config.rollout, cap=min(config.rollout.cap, plan.SELECTION_CAP))

        def mean(q_net: SpikingQNetwork, kind: SelectionGames) -> float:
            make_games = partial(evaluation_env, config.env, rollout, sticky=kind.sticky)
            first = plan.SELECTION_SEED
            return evaluate(q_net, make_games, kind.games, first, side_by_side=20).mean

        def score(q_net: SpikingQNetwork) -> float:
            return fmean(mean(q_net, kind) for kind in games)

        if not stage.analog or stage.finetuned:
            return Selection(score, plan.stage_steps(config, stage) // 2)
        # while it still explores it is not what it will be; the last one is looked at in any case
        start = min(dqn.epsilon_steps, dqn.steps)
        return Selection(score, start, dqn.target_return)

    def _training_env(self, stage: Stage, seed: int) -> VecEnv:
        rollout = self.config.rollout
        return make_env(
            self.config.env,
            rollout.n_envs,
            seed,
            training=True,
            frame_stack=self.teacher.spec.input_shape[0] if self.teacher else rollout.frame_stack,
            frames=rollout.frames,
            sticky=plan.stage_sticky(self.config, stage),
            cap=rollout.cap,
        )

    def _model(self, stage: Stage) -> SpikingDQN:
        config, dqn, iir = self.config, plan.dqn_settings(self.config, stage), self.config.iir
        is_ann = stage.analog
        algorithm = SpikingDQN
        settings: dict[str, Any] = {
            "gamma": dqn.gamma,
            "n_steps": dqn.n_steps,
            "double": dqn.double,
            "target_update_interval": dqn.target_update_interval,
            "buffer_size": dqn.buffer_size,
            "bf16": uses_bf16(config.precision, config.device),
            "device": config.device,
        }
        if is_ann and config.ann is None:
            settings |= {
                "learning_rate": learning_rate(dqn),
                "batch_size": dqn.batch_size,
                "learning_starts": dqn.learning_starts,
                "train_freq": dqn.train_freq,
                "gradient_steps": dqn.gradient_steps,
                "exploration_initial_eps": dqn.epsilon_start,
                "exploration_final_eps": dqn.epsilon_end,
                "exploration_fraction": min(1.0, dqn.epsilon_steps / dqn.steps),
            }
            if self.teacher:
                settings |= {
                    "objective": DISTILL,
                    "sharpness": iir.sharpness,
                    "teacher": self.teacher,
                }
        else:
            settings |= {
                "learning_rate": cosine(iir.lr) if iir.cosine else iir.lr,
                "batch_size": iir.batch_size,
                "learning_starts": 0,
                "train_freq": iir.train_freq,
                "gradient_steps": 0 if is_ann else iir.gradient_steps,
                "exploration_initial_eps": iir.epsilon,
                "exploration_final_eps": iir.epsilon,
                "objective": iir.objective,
                "sharpness": iir.sharpness,
            }
            if not is_ann and iir.objective != TD and stage.trained:
                own, _ = load_network(self.directory / ANN / run_directory.NETWORK)
                settings["teacher"] = self.teacher or _teacher(own)
            if stage.carry_state:
                algorithm = CarriedDQN
                settings |= {
                    "burn_in": config.carry.burn_in,
                    "window": config.carry.window,
                    "n_steps": 1,
                }
        optimizer = dqn.optimizer if is_ann else iir.optimizer
        policy_kwargs = {
            "network": config.network,
            "timesteps": stage.timesteps,
            "bias": config.bias,
            "surrogate": iir.surrogate,
            "encoding": iir.encoding,
            "carry_state": stage.carry_state,
            "exact": stage.exact,
            "frames": config.rollout.frame_stack if self.teacher else None,
            "optimizer_class": OPTIMIZERS[optimizer],
            # one pass over the weights instead of a dozen
            "optimizer_kwargs": {"fused": True} if optimizer == "Adam" else None,
        }
        env = self._training_env(stage, 0)  # for its spaces: every segment makes its own
        model = algorithm(SpikingDQNPolicy, env, policy_kwargs=policy_kwargs, **settings)
        env.close()
        return model

    def _initial_network(
        self, stage: Stage, model: SpikingDQN
    ) -> AnalogNetwork | SpikingNetwork | None:
        config = self.config
        if stage.source is None:
            return self.networks.get("ann", self.networks.get("init"))
        source, _ = load_network(self.directory / stage.source / run_directory.NETWORK)
        if stage.exact:
            assert isinstance(source, SpikingNetwork)
            try:
                return quantize(source)
            except ValueError as error:
                raise UserError(f"exact=true: {error}") from None
        if stage.carry_state:
            assert isinstance(source, SpikingNetwork)
            for neuron in source.neurons:
                neuron.leak.data.fill_(config.carry.leak)
        if stage.source != ANN:
            return source
        try:
            return convert(
                source,
                self._observations(model),
                SpikingOptions(stage.timesteps or 1, config.iir.surrogate, config.iir.encoding),
                ThresholdSearch(percentile=config.iir.percentile, over=config.iir.percentile_over),
            )
        except ConversionError as error:
            raise UserError(f"conversion failed: {error}") from None

    def _situations(self, model: SpikingDQN) -> tuple[torch.Tensor, State]:
        """Observations from the replay buffer, and what the network remembers before them."""
        if not isinstance(model, CarriedDQN):
            return self._observations(model), []
        seed_everything(self.config.seed)
        with torch.no_grad():
            return model.situations(self.config.iir.conversion_samples)

    def _observations(self, model: SpikingDQN) -> torch.Tensor:
        """Observations from the replay buffer, the same at every call."""
        buffer = model.replay_buffer
        assert isinstance(buffer, ReplayBuffer)
        rng = np.random.default_rng(self.config.seed)
        count = self.config.iir.conversion_samples
        rows, envs = (
            rng.integers(buffer.size(), size=count),
            rng.integers(buffer.n_envs, size=count),
        )
        return model.q_net.images(torch.as_tensor(buffer.observations[rows, envs]).to(model.device))


def _teacher(network: Network) -> Network:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def learning_rate(dqn: DQNConfig) -> Schedule:
    """The ANN's learning rate over the remaining progress of its stage, from 1 to 0."""
    fraction = min(1.0, (dqn.lr_steps or dqn.steps) / dqn.steps)
    return LinearSchedule(dqn.lr, dqn.lr * dqn.lr_end, fraction)
