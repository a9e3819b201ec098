"""Estimates of the training time of a run."""

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import TrainFreq

from snn_rl.agents import plan
from snn_rl.agents.chain import AgentChain
from snn_rl.agents.resumable import ResumableDQN
from snn_rl.agents.state_dqn import StateDQN
from snn_rl.agents.state_policy import StateQNetwork, StateScale
from snn_rl.agents.teaching import Teaching
from snn_rl.chain.records import is_done, read_counters, unless_damaged
from snn_rl.chain.stages import ANN, Stage
from snn_rl.configs.schema import Config
from snn_rl.core.networks import AnalogNetwork, Network
from snn_rl.utils.seeding import seed_everything

_SECONDS = 1.0  # measured training time per stage
_SHORT = 20_000  # agent steps; shorter runs are not measured
_ENDLESS = 10**9  # agent steps; the clock ends the training
_EXPLORE_STEPS = 1_000  # random agent steps that find the state variables of an untrained teacher


def print_estimate(
    config: Config, directory: Path, stages: Sequence[Stage], networks: dict[str, AnalogNetwork]
) -> None:
    """Prints the expected training time of each unfinished stage on this machine.

    Trains an untrained agent of every stage for about a second. Does nothing if the run is short.

    Args:
        config: Settings of the run.
        directory: Directory of the run.
        stages: Stages of the run.
        networks: Networks returned by `import_networks`.
    """
    steps = {stage: left for stage in stages if (left := _steps_left(config, directory, stage))}
    if sum(steps.values()) < _SHORT:
        return
    print("expected training time on this machine (without checkpoint selection and")
    print("evaluation; a stage with a target return may end early):", flush=True)
    trial, total = _Trial(config, Path(), networks), 0.0
    for stage, left in steps.items():
        seconds = left / trial.speed(stage)
        gc.collect()  # an agent and its callbacks refer to each other
        total += seconds
        print(f"  {stage.name:<16} {left:>10,} steps {seconds / 60:>6.1f} min", flush=True)
    print(f"  {'total':<16} {sum(steps.values()):>10,} steps {total / 60:>6.1f} min")
    print(f"results: {directory}")
    print("Ctrl-C interrupts the run, and the same command resumes it", flush=True)


def _steps_left(config: Config, directory: Path, stage: Stage) -> int:
    """Returns the remaining agent steps of a stage."""
    if is_done(directory / stage.name):
        return 0
    counters = unless_damaged(lambda: read_counters(directory / stage.name))
    return max(0, plan.stage_steps(config, stage) - (counters.steps if counters else 0))


class _Clock(BaseCallback):
    """Measures the duration of vectorized-environment steps, with their training phases.

    Args:
        skipped: Number of training phases before the measurement.
        phase: Number of steps per training phase.
    """

    def __init__(self, skipped: int, phase: int):
        super().__init__()
        self.skipped = skipped * phase
        self.phase = phase
        self.started = self.elapsed = 0.0

    @property
    def calls(self) -> int:
        return self.n_calls - self.skipped

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if self.calls <= 0:
            self.started = now
            return True
        self.elapsed = now - self.started
        return self.elapsed < _SECONDS or self.calls % self.phase != 0


class _Trial(AgentChain):
    """Chain of untrained agents, which need no results of earlier stages."""

    def speed(self, stage: Stage) -> float:
        """Returns the measured training speed of a stage in agent steps per second."""
        seed_everything(0)
        agent: ResumableDQN
        if stage.privileged:
            agent, env = self._untrained_teacher, self._teaching.training_env(self._scale, 0)
        else:
            agent, env = self._agent(stage), self._training_env(stage, 0)
        agent.set_logger(Logger(None, []))
        agent.set_env(env)
        # Sequences require a few rows in the replay buffer.
        rows = self.config.carry.burn_in + self.config.carry.window + 1
        first = rows if stage.carry_state else 1
        agent.learning_starts = first * env.num_envs
        agent.exploration_schedule = lambda _: 0.0  # random actions would cost no forward pass
        assert isinstance(agent.train_freq, TrainFreq)
        phase = agent.train_freq.frequency
        clock = _Clock(first // phase + 2, phase)
        try:
            agent.learn(_ENDLESS, callback=clock)
        finally:
            env.close()
        return clock.calls * env.num_envs / clock.elapsed

    @cached_property
    def _teaching(self) -> Teaching:
        return Teaching(self.config, Path())

    @cached_property
    def _scale(self) -> StateScale:
        state = replace(self.config.state, n_envs=1, explore_steps=_EXPLORE_STEPS)
        return Teaching(replace(self.config, state=state), Path()).scale()

    @cached_property
    def _untrained_teacher(self) -> StateDQN:
        return self._teaching.agent(self._scale)

    @cached_property
    def _privileged_teacher(self) -> StateQNetwork:
        return self._untrained_teacher.evaluated

    @cached_property
    def _distilled(self) -> Network:
        return self.teacher or self._agent(self.stages[ANN]).network
