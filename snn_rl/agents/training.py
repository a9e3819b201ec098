"""Training of one stage that survives kill -9 and ends bit-identical to an uninterrupted run.

A stage is cut into segments. At the end of each, its episodes are truncated (never terminated), the
new replay rows and then the state are written, and the next segment starts from fresh environments
and fresh random generators, all seeded from (seed, timesteps, segment). An interrupted run throws
away its unfinished segment and does the same from the same state, so no emulator and no generator
has to be saved.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents.callbacks import Episodes, Progress
from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.policies import SpikingQNetwork
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.replay.journal import Journal
from snn_rl.chain.records import Counters
from snn_rl.chain.run_directory import STATE
from snn_rl.files.atomic import remove_temporaries
from snn_rl.files.checkpoint import load_tensors, save_tensors
from snn_rl.utils.seeding import derive_seed, seed_everything

BEST = "best.safetensors"


@dataclass(frozen=True)
class Selection:
    """How a stage chooses among its checkpoints: Q-learning forgets, the last is rarely the best.

    Attributes:
        score: Mean return of an agent over games of seeds that neither training nor evaluation has.
        start: Checkpoints from this step on are looked at.
        target: A checkpoint that scores this much ends the stage; None: all steps are taken.
    """

    score: Callable[[SpikingQNetwork], float]
    start: int = 0
    target: float | None = None

    def ends(self, scores: list[list[float]]) -> bool:
        """Whether the target is reached."""
        return self.target is not None and any(score >= self.target for _, score in scores)


def resume(
    model: SpikingDQN, directory: Path, journal: Journal, rows_before: int
) -> Counters | None:
    """Puts a fresh model where its stage stands, and fills its replay buffer.

    Args:
        model: Its buffer is empty.
        directory: Of the stage.
        journal: Of the replay rows of this stage and those before it.
        rows_before: Replay rows that the stages before this one have written.

    Returns:
        The stage's counters; None if it has not begun, and the model's networks are untouched.

    Raises:
        UserError: A checkpoint is damaged.
    """
    for folder in (directory, journal.directories[-1]):
        remove_temporaries(folder)
    path = directory / STATE
    counters = None
    if path.exists():
        tensors, meta = load_tensors(path)
        counters = Counters.from_json(meta.get("counters"), path)
        model.load_tensors(tensors)
        model.num_timesteps, model._n_updates = counters.steps, counters.updates
        model._n_calls = counters.calls
    assert isinstance(model.replay_buffer, FrameReplayBuffer)
    journal.restore(model.replay_buffer, counters.rows if counters else rows_before)
    return counters


def train_stage(
    model: SpikingDQN,
    counters: Counters,
    make_training_env: Callable[[int], VecEnv],
    directory: Path,
    journal: Journal,
    steps: int,
    segment_steps: int,
    seed: tuple[int, int],
    name: str,
    selection: Selection | None = None,
) -> None:
    """Trains a stage to its end, or from where it was interrupted.

    The model ends with the last network, or with the one that scored best if there is a selection.

    Args:
        model: Initialized for this stage, or by `resume`.
        counters: From `resume`, or new ones; brought up to date.
        make_training_env: Makes the vectorized environment from a seed.
        directory: Of the stage; holds its state and its TensorBoard log.
        journal: Of the replay rows.
        steps: Agent steps of the whole stage.
        segment_steps: Agent steps from checkpoint to checkpoint.
        seed: (run's seed, stage's own number).
        name: For the progress bar.
        selection: How the stage's network is chosen.

    Raises:
        UserError: A checkpoint cannot be written.
    """
    buffer = model.replay_buffer
    assert isinstance(buffer, FrameReplayBuffer)
    model.set_logger(configure(str(directory / "tensorboard"), ["tensorboard"]))

    def log(step: int, numbers: dict[str, float]) -> None:
        for key, value in numbers.items():
            model.logger.record(f"stage/{key}", value)
        model.logger.dump(step)

    progress = Progress(name, steps, counters.episodes, log)
    while counters.steps < steps and not (selection and selection.ends(counters.scores)):
        started = time.monotonic()
        segment_seed = derive_seed(*seed, counters.segment)
        seed_everything(segment_seed)
        env = make_training_env(segment_seed)
        model.set_env(env)  # forgets the last observation: the next one is a reset
        model.action_space.seed(segment_seed)
        # a resumed process knows neither; an uninterrupted one has them from its last step
        model._update_current_progress_remaining(counters.steps, steps)
        model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)
        end = min(counters.steps + segment_steps, steps)
        model.learn(
            steps - counters.steps,
            callback=CallbackList([Episodes(counters.episodes, end), progress]),
            log_interval=1_000_000_000,
            reset_num_timesteps=False,
        )
        env.close()
        calls = model._n_calls - counters.calls
        _truncate(buffer, calls)
        journal.append(buffer, counters.rows, counters.rows + calls)
        counters.segment += 1
        counters.steps, counters.updates = model.num_timesteps, model._n_updates
        counters.rows, counters.calls = counters.rows + calls, model._n_calls
        if selection and counters.steps >= selection.start:
            _score(model, counters, selection, directory)
        counters.wall_s += time.monotonic() - started
        save_tensors(directory / STATE, model.tensors(), {"counters": vars(counters)})
        journal.prune(buffer, counters.rows)
    progress.close()
    if counters.scores:
        tensors, _ = load_tensors(directory / BEST)
        model.q_net.network.load_state_dict(tensors)


def _score(model: SpikingDQN, counters: Counters, selection: Selection, directory: Path) -> None:
    """Scores the network as it is, and keeps it if it is the best so far."""
    score = selection.score(model.q_net)
    if all(score > before for _, before in counters.scores):
        # before the state that counts it: an interrupted run writes the same again
        save_tensors(directory / BEST, model.network.state_dict(), {})
    counters.scores.append([counters.steps, score])


def _truncate(buffer: FrameReplayBuffer, rows: int) -> None:
    """Marks the newest row as its episodes' end by a time limit, so that values bootstrap."""
    if rows:
        last = buffer.pos - 1
        buffer.timeouts[last] = np.where(buffer.dones[last] > 0, buffer.timeouts[last], 1.0)
        buffer.dones[last] = 1.0
