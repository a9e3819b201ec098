"""Stage of a privileged teacher, `teacher=state`: training, files and evaluation."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import plan
from snn_rl.agents.episodes import evaluate, progress_bar, summary
from snn_rl.agents.replay.journal import Journal
from snn_rl.agents.state_dqn import Horizon, StateDQN
from snn_rl.agents.state_policy import (
    StateDQNPolicy,
    StateNetwork,
    StateQNetwork,
    StateScale,
    explore,
)
from snn_rl.agents.state_pqn import StatePQN
from snn_rl.agents.tracking import log_evaluation, stage_logger
from snn_rl.agents.training import Duration, resume, train_stage
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    GREEDY,
    STICKY,
    AgentNotes,
    Counters,
    Evaluation,
    StageEvaluation,
    read_metrics,
    read_notes,
    unless_damaged,
)
from snn_rl.chain.stages import TEACHER
from snn_rl.configs.schema import Config, StateConfig
from snn_rl.envs.state import make_state_env, visible_columns
from snn_rl.files.checkpoint import check_parameters, load_tensors, save_tensors
from snn_rl.utils.errors import UserError
from snn_rl.utils.seeding import derive_seed, seed_everything

_DESCRIPTION = "state_network"  # key of the network's description in its file


class Teaching:
    """Trains and evaluates the privileged teacher of a run.

    Args:
        config: Settings of the run.
        directory: Directory of the teacher's stage.
    """

    def __init__(self, config: Config, directory: Path):
        self.config = config
        self.directory = directory
        self.settings: StateConfig = config.state
        self.seed = (config.seed, plan.TEACHER_NUMBER)

    def fit(self) -> None:
        """Trains or resumes the teacher, and saves its network."""
        settings = self.settings
        seed_everything(derive_seed(*self.seed))
        scale = self.scale()
        seed_everything(derive_seed(*self.seed))
        agent = self.agent(scale)
        journal = Journal([self.directory / "replay"])
        counters = resume(agent, self.directory, journal, 0) or Counters()
        assert isinstance(agent.network, StateNetwork)
        if not np.array_equal(agent.network.scale.mean, scale.mean):  # e.g. of another ale-py
            raise UserError(
                f"{self.directory} was trained with other state variables than this version "
                "selects: delete it, or install the versions in run.json"
            )
        agent.set_logger(stage_logger(self.directory, counters.steps, self.config.track))
        train_stage(
            agent,
            counters,
            partial(self.training_env, scale),
            self.directory,
            journal,
            Duration(settings.steps, settings.checkpoint_steps, self.seed),
        )
        notes = plan.notes(self.config, TEACHER, counters, [])
        save_teacher(self.directory / run_directory.NETWORK, agent.network, notes)

    def evaluate(self) -> None:
        """Evaluates the finished teacher, unless it was evaluated on the same episodes."""
        trials = plan.trials(self.config)
        metrics = unless_damaged(lambda: read_metrics(self.directory))
        if isinstance(metrics, StageEvaluation) and metrics.evaluation == trials:
            return
        notes, q_net = read_notes(self.directory / run_directory.NETWORK), self.q_network()

        def play(column: str, sticky: float) -> Evaluation:
            make_env = partial(self._evaluation_env, q_net.network.scale, sticky=sticky)
            title = f"{TEACHER} {column}"
            with progress_bar(title, trials.episodes, make_env) as watched:
                results = evaluate(q_net, watched, trials.episodes, trials.seed, trials.epsilon)
            print(f"{title}: {summary(results)}", flush=True)
            return results

        metrics = StageEvaluation(
            evaluation=trials,
            greedy=play(GREEDY, 0.0),
            sticky=play(STICKY, trials.sticky),
            steps=notes.steps,
            updates=notes.updates,
            wall_s=notes.wall_s,
        )
        metrics.write(self.directory / run_directory.METRICS)
        log_evaluation(self.directory, metrics, self.config.track)

    def scale(self) -> StateScale:
        """Returns the state variables that vary in random play and can be seen."""
        seed = derive_seed(*self.seed, plan.EXPLORATION_NUMBER)
        # `visible_columns` requires environments without sticky actions.
        env = self._env(self.settings.n_envs, seed, frames=1, sticky=0.0)
        try:
            states, starts = explore(env, self.settings.explore_steps, seed)
            numbers = states.reshape(-1, states.shape[2])
            return StateScale.of(states, starts, visible_columns(self.config.env, env, numbers))
        except ValueError as error:
            raise UserError(f"teacher=state: {error}") from None
        finally:
            env.close()

    def agent(self, scale: StateScale) -> StateDQN:
        """Returns an untrained agent."""
        settings = self.settings
        # This environment only provides the spaces.
        env = self.training_env(scale, 0)
        build: Any = StateDQN
        if settings.trace_decay is not None:
            build = partial(StatePQN, trace_decay=settings.trace_decay)
        agent: StateDQN = build(
            StateDQNPolicy,
            env,
            LinearSchedule(settings.lr, settings.lr * settings.lr_end, 1.0),
            Horizon(
                settings.horizon_updates,
                (settings.n_steps_start, settings.n_steps),
                (settings.gamma_start, settings.gamma),
            ),
            (settings.tau_start, settings.tau),
            policy_kwargs={
                "scale": scale,
                "hidden": plan.hidden_layers(settings.hidden),
                "quantiles": settings.quantiles,
                "ranges": plan.ranges(settings.ranges),
            },
            batch_size=settings.batch_size,
            buffer_size=settings.buffer_size,
            learning_starts=settings.learning_starts,
            train_freq=settings.train_freq,
            gradient_steps=settings.gradient_steps,
            max_grad_norm=settings.max_grad_norm,
            exploration_initial_eps=1.0,
            exploration_final_eps=settings.epsilon_end,
            exploration_fraction=min(1.0, settings.epsilon_steps / settings.steps),
            device=self.config.device,
        )
        env.close()
        return agent

    def training_env(self, scale: StateScale, seed: int) -> VecEnv:
        """Returns new training environments."""
        settings = self.settings
        return self._env(
            settings.n_envs, seed, scale.columns, sticky=settings.sticky, steady=settings.steady
        )

    def _evaluation_env(self, scale: StateScale, n_envs: int, seed: int, sticky: float) -> VecEnv:
        return self._env(n_envs, seed, scale.columns, training=False, sticky=sticky)

    def _env(self, n_envs: int, seed: int, columns: Any = None, **options: Any) -> VecEnv:
        rollout = self.config.rollout
        return make_state_env(
            self.config.env,
            n_envs,
            seed,
            columns,
            **{
                "frames": self.settings.frames,
                "cap": rollout.cap,
                "full_action_space": rollout.full_action_space,
                **options,
            },
        )

    def q_network(self) -> StateQNetwork:
        """Loads the network of the finished stage."""
        network = load_teacher(self.directory / run_directory.NETWORK)
        env = self._evaluation_env(network.scale, 1, 0, sticky=0.0)
        q_net = StateQNetwork(env.observation_space, env.action_space, network)  # type: ignore[arg-type]
        env.close()
        return q_net


def save_teacher(path: Path, network: StateNetwork, notes: AgentNotes) -> None:
    """Writes a teacher's network with its description for `load_teacher`."""
    description = {
        "columns": network.columns.tolist(),
        "compared": network.compared.tolist(),
        "frames": network.frames,
        "actions": network.actions,
        "hidden": network.hidden,
        "quantiles": network.quantiles,
        "ranges": network.ranges,
    }
    save_tensors(path, network.state_dict(), {**notes.to_json(), _DESCRIPTION: description})


def load_teacher(path: Path) -> StateNetwork:
    """Rebuilds a network that `save_teacher` wrote.

    Raises:
        UserError: The file is damaged, or does not hold the network that it describes.
    """
    tensors, meta = load_tensors(path)
    weights = check_parameters(tensors, str(path))
    try:
        description = dict(meta[_DESCRIPTION])
        columns = np.array(description.pop("columns"), np.int64)
        compared = np.array(description.pop("compared", []), np.int64)
        mean, std, change = (weights[name].numpy() for name in ("mean", "std", "change"))
        scale = StateScale(columns, mean, std, change, compared)
        # The meta device allocates no memory, whatever sizes a damaged description holds.
        with torch.device("meta"):
            network = StateNetwork(scale, **description)
        network.load_state_dict(weights, assign=True)
        network.columns, network.compared = torch.tensor(columns), torch.tensor(compared)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} does not hold the network it describes ({error})") from None
    return network
