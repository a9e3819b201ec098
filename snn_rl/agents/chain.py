"""Training and evaluation of the stages of an agent's chain."""

import gc
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from snn_rl.agents import CarriedDQN, SpikingDQN, SpikingDQNPolicy, SpikingQNetwork, evaluate, plan
from snn_rl.agents.evaluation import evaluate_stage
from snn_rl.agents.loading import evaluation_env
from snn_rl.agents.objectives import DISTILL, TD
from snn_rl.agents.replay.journal import Journal
from snn_rl.agents.retraining import cosine, trapezoid
from snn_rl.agents.saved import OPTIMIZERS
from snn_rl.agents.state_policy import StateQNetwork
from snn_rl.agents.taught import TaughtDQN, center
from snn_rl.agents.teaching import Teaching
from snn_rl.agents.tracking import stage_logger
from snn_rl.agents.training import Duration, Selection, resume, train_stage
from snn_rl.chain.records import (
    Counters,
    SelectionGames,
    StageEvaluation,
    read_metrics,
    replay_rows,
    unless_damaged,
)
from snn_rl.chain.runner import converted, load_stage, save_stage
from snn_rl.chain.stages import ANN, TEACHER, Stage
from snn_rl.configs.schema import Config, DQNConfig
from snn_rl.core.conversion import ThresholdSearch, quantize
from snn_rl.core.networks import (
    AnalogNetwork,
    Network,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
    State,
)
from snn_rl.envs import make_env
from snn_rl.envs.state import make_taught_env
from snn_rl.utils.device import uses_bf16
from snn_rl.utils.errors import UserError
from snn_rl.utils.seeding import derive_seed, seed_everything

# Student of a privileged teacher. All of its ReLUs can die if it first learns from too few
# observations, or at the full learning rate.
_STARTS = 0.02  # share of the stage after which it starts to learn
_RISE = 0.05  # share of the stage after which the learning rate has risen
_FALL = 0.25  # share of the stage, at its end, in which the learning rate falls
_HEAD_SCALE = 0.1  # initial scale of the last layer


class AgentChain:
    """Trains and evaluates the stages of a run.

    `fit` trains a stage in four steps: `_agent` builds the agent, `_initial_network` converts,
    quantizes, or copies the previous stage's network, `train_stage` trains the agent, and
    `save_stage` saves its network. `networks` are the networks returned by `import_networks`.
    """

    def __init__(self, config: Config, directory: Path, networks: dict[str, AnalogNetwork]):
        self.config = config
        self.directory = directory
        self.networks = networks
        self.stages = {stage.name: stage for stage in plan.chain(config)}
        self.teacher = _channels_last(networks["teacher"]) if "teacher" in networks else None

    def fit(self, stage: Stage) -> None:
        """Trains or resumes a stage, and saves its network."""
        # An agent and its callbacks refer to each other. Without this call, the previous stage's
        # replay buffer (several GB) would stay in memory.
        gc.collect()
        config, directory = self.config, self.directory / stage.name
        if stage.privileged:
            Teaching(config, directory).fit()
            return
        seed = (config.seed, plan.stage_number(stage))
        seed_everything(derive_seed(*seed))
        agent = self._agent(stage)
        journal, rows_before = self._journal(stage)
        counters = resume(agent, directory, journal, rows_before)
        if counters is None:
            counters = Counters(rows=rows_before)
            network = self._initial_network(stage, agent)
            if network is not None:
                agent.load_network(network)
        agent.set_logger(stage_logger(directory, counters.steps, config.track))
        train_stage(
            agent,
            counters,
            partial(self._training_env, stage),
            directory,
            journal,
            Duration(plan.stage_steps(config, stage), plan.checkpoint_steps(config, stage), seed),
            self._selection(stage),
        )
        notes = plan.notes(config, stage.name, counters, plan.selection_games(config, stage))
        save_stage(directory, agent.network, notes, partial(self._situations, agent))

    def evaluate(self, stage: Stage) -> None:
        """Evaluates a finished stage, unless it has already been evaluated on the same episodes."""
        directory, trials = self.directory / stage.name, plan.trials(self.config)
        if stage.privileged:
            Teaching(self.config, directory).evaluate()
            return
        metrics = unless_damaged(lambda: read_metrics(directory))
        if not isinstance(metrics, StageEvaluation) or metrics.evaluation != trials:
            evaluate_stage(directory, trials, self.config.device, self.config.track)

    def _journal(self, stage: Stage) -> tuple[Journal, int]:
        """Returns the replay journal of a stage and the number of rows from earlier stages.

        A stage continues with the replay rows of earlier stages. Fine-tuning starts with an empty
        replay buffer because it uses a different sticky-action probability, see
        docs/results/ablations.md.
        """
        lineage = [stage]
        while not lineage[0].finetuned and lineage[0].source is not None:
            lineage.insert(0, self.stages[lineage[0].source])
        directories = [self.directory / each.name for each in lineage]
        journal = Journal([directory / "replay" for directory in directories])
        return journal, replay_rows(directories[-2]) if len(lineage) > 1 else 0

    def _agent(self, stage: Stage) -> SpikingDQN:
        """Builds the agent of a stage with untrained weights."""
        if not stage.trained:  # converted or exact
            return self._build(stage)
        if plan.taught(self.config.teacher, stage):
            return self._taught(stage)
        if stage.analog:
            return self._imported(stage) if self.config.ann else self._analog(stage)
        return self._carried(stage) if stage.carry_state else self._spiking(stage)

    def _analog(self, stage: Stage) -> SpikingDQN:
        """Builds the agent of an ANN, which learns by Q-learning or from an imported teacher."""
        dqn = plan.dqn_settings(self.config, stage)
        taught: dict[str, Any] = {}
        if self.teacher:
            sharpness = self.config.iir.sharpness
            taught = {"objective": DISTILL, "sharpness": sharpness, "teacher": self.teacher}
        return self._build(
            stage,
            learning_rate=learning_rate(dqn),
            batch_size=dqn.batch_size,
            learning_starts=dqn.learning_starts,
            train_freq=dqn.train_freq,
            gradient_steps=dqn.gradient_steps,
            exploration_initial_eps=dqn.epsilon_start,
            exploration_final_eps=dqn.epsilon_end,
            exploration_fraction=min(1.0, dqn.epsilon_steps / dqn.steps),
            **taught,
        )

    def _taught(self, stage: Stage) -> SpikingDQN:
        """Builds an agent that learns from the privileged teacher."""
        student, iir = self.config.student, self.config.iir
        if stage.analog:
            learning = {
                "learning_starts": int(_STARTS * student.steps),
                "learning_rate": trapezoid(student.lr, _RISE, _FALL),
                "batch_size": student.batch_size,
                "gradient_steps": student.gradient_steps,
                "guided_steps": student.guided_steps,
            }
        else:
            learning = self._retraining()
        return self._build(
            stage,
            algorithm=TaughtDQN,
            n_steps=1,  # rewards are not used
            privileged=self._privileged_teacher,
            sharpness=iir.sharpness,
            **(self._acting() | learning),
        )

    @cached_property
    def _distilled(self) -> Network:
        """Analog network that teaches the spiking stages."""
        return self.teacher or _channels_last(load_stage(self.directory, ANN))

    @cached_property
    def _privileged_teacher(self) -> StateQNetwork:
        """Returns the trained teacher that observes the state."""
        return Teaching(self.config, self.directory / TEACHER).q_network()

    def _imported(self, stage: Stage) -> SpikingDQN:
        """Builds the agent of an imported ANN.

        It is not trained; its steps only fill the replay buffer.
        """
        return self._build(stage, **self._acting(), gradient_steps=0)

    def _spiking(self, stage: Stage, **more: Any) -> SpikingDQN:
        """Builds an agent that learns by distillation from the ANN, by Q-learning, or by both."""
        iir = self.config.iir
        teacher = None if iir.objective == TD else self._distilled
        return self._build(
            stage,
            **self._acting(),
            **self._retraining(),
            objective=iir.objective,
            sharpness=iir.sharpness,
            teacher=teacher,
            **more,
        )

    def _carried(self, stage: Stage) -> SpikingDQN:
        """Builds a spiking agent that learns from sequences of frames."""
        carry = self.config.carry
        lengths = {"burn_in": carry.burn_in, "window": carry.window}
        return self._spiking(stage, algorithm=CarriedDQN, n_steps=1, **lengths)

    def _acting(self) -> dict[str, Any]:
        """Returns the acting settings of stages that start from a trained network."""
        iir = self.config.iir
        return {
            "learning_starts": 0,
            "train_freq": iir.train_freq,
            "exploration_initial_eps": iir.epsilon,
            "exploration_final_eps": iir.epsilon,
        }

    def _retraining(self) -> dict[str, Any]:
        """Returns the learning settings of spiking stages."""
        iir = self.config.iir
        return {
            "learning_rate": cosine(iir.lr) if iir.cosine else iir.lr,
            "batch_size": iir.batch_size,
            "gradient_steps": iir.gradient_steps,
        }

    def _build(
        self, stage: Stage, algorithm: type[SpikingDQN] = SpikingDQN, **learning: Any
    ) -> SpikingDQN:
        """Builds an agent from the settings shared by all stages and the given settings."""
        config, dqn = self.config, plan.dqn_settings(self.config, stage)
        optimizer = dqn.optimizer if stage.analog else config.iir.optimizer
        policy = {
            "network": config.network,
            "bias": config.bias,
            "frames": config.rollout.frame_stack if self.teacher else None,
            "timesteps": stage.timesteps,
            "surrogate": config.iir.surrogate,
            "encoding": config.iir.encoding,
            "carry_state": stage.carry_state,
            "exact": stage.exact,
            "optimizer_class": OPTIMIZERS[optimizer],
            # a single pass over the weights
            "optimizer_kwargs": {"fused": True} if optimizer == "Adam" else None,
        }
        shared = {
            "gamma": dqn.gamma,
            "n_steps": dqn.n_steps,
            "double": dqn.double,
            "target_update_interval": dqn.target_update_interval,
            "buffer_size": dqn.buffer_size,
            "bf16": uses_bf16(config.precision, config.device),
            "device": config.device,
        }
        # This environment only provides the spaces; each training segment creates its own
        # environments.
        env = self._training_env(stage, 0)
        agent = algorithm(SpikingDQNPolicy, env, policy_kwargs=policy, **{**shared, **learning})
        env.close()
        return agent

    def _training_env(self, stage: Stage, seed: int) -> VecEnv:
        rollout = self.config.rollout
        make, steady = make_env, 0.0
        if plan.taught(self.config.teacher, stage):
            steady = self.config.state.steady
            network = self._privileged_teacher.network
            make = partial(make_taught_env, columns=network.scale.columns, states=network.frames)
        return make(
            self.config.env,
            n_envs=rollout.n_envs,
            seed=seed,
            training=True,
            frame_stack=self.teacher.spec.input_shape[0] if self.teacher else rollout.frame_stack,
            frames=rollout.frames,
            sticky=plan.stage_sticky(self.config, stage),
            steady=steady,
            cap=rollout.cap,
            full_action_space=rollout.full_action_space,
        )

    def _selection(self, stage: Stage) -> Selection | None:
        """Returns the checkpoint selection of a stage, or None to keep the last checkpoint."""
        config, games = self.config, plan.selection_games(self.config, stage)
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
        # No checkpoint but the last is scored before epsilon has reached its final value.
        dqn = config.dqn
        return Selection(score, min(dqn.epsilon_steps, dqn.steps), dqn.target_return)

    def _initial_network(
        self, stage: Stage, agent: SpikingDQN
    ) -> AnalogNetwork | SpikingNetwork | None:
        """Returns the network that a stage starts from, or None for the untrained network."""
        if stage.source is None:
            if plan.taught(self.config.teacher, stage):
                return he_initialized(agent.network.spec)
            return self.networks.get("ann", self.networks.get("init"))
        source = load_stage(self.directory, stage.source)
        if stage.analog:
            return source
        if isinstance(source, AnalogNetwork):
            assert stage.timesteps is not None
            iir = self.config.iir
            return converted(
                source,
                self._observations(agent),
                SpikingOptions(stage.timesteps, iir.surrogate, iir.encoding),
                ThresholdSearch(percentile=iir.percentile, over=iir.percentile_over),
            )
        if stage.exact:
            try:
                return quantize(source, self.config.bits, self.config.bits)
            except ValueError as error:
                raise UserError(f"exact=true: {error}") from None
        if stage.carry_state:
            for neuron in source.neurons:
                neuron.leak.data.fill_(self.config.carry.leak)
        return source

    def _situations(self, agent: SpikingDQN) -> tuple[Tensor, State]:
        """Returns images from the replay buffer and the membrane potentials before them."""
        if not isinstance(agent, CarriedDQN):
            return self._observations(agent), []
        seed_everything(self.config.seed)
        with torch.no_grad():
            return agent.situations(self.config.iir.conversion_samples)

    def _observations(self, agent: SpikingDQN) -> Tensor:
        """Returns images from the replay buffer, identical on every call."""
        buffer = agent.replay_buffer
        assert isinstance(buffer, ReplayBuffer)
        rng = np.random.default_rng(self.config.seed)
        count = self.config.iir.conversion_samples
        rows = rng.integers(buffer.size(), size=count)
        envs = rng.integers(buffer.n_envs, size=count)
        return agent.q_net.images(torch.as_tensor(buffer.observations[rows, envs]).to(agent.device))


def he_initialized(spec: NetworkSpec) -> AnalogNetwork:
    """Returns an untrained network whose activations have similar sizes in all layers."""
    network = AnalogNetwork(spec)
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
    network.head.weight.data.mul_(_HEAD_SCALE)
    center(network)
    return network


def _channels_last(network: Network) -> Network:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def learning_rate(dqn: DQNConfig) -> Schedule:
    """Returns the ANN's learning rate as a function of the remaining progress, from 1 to 0."""
    fraction = min(1.0, (dqn.lr_steps or dqn.steps) / dqn.steps)
    return LinearSchedule(dqn.lr, dqn.lr * dqn.lr_end, fraction)
