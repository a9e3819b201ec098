"""Training of one stage with checkpoints; resumed runs are bitwise identical.

A stage is divided into segments. At the end of a segment, its episodes are truncated (never
terminated), and the new replay rows and the state are written. The next segment starts with new
environments and random generators, all seeded from (seed, timesteps, segment). A resumed run
repeats the unfinished segment from the last state, so the states of emulators and generators are
not saved.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from snn_rl.agents.callbacks import Episodes, Progress
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.replay.journal import Journal
from snn_rl.agents.resumable import ResumableDQN
from snn_rl.chain.records import Counters
from snn_rl.chain.run_directory import STATE
from snn_rl.files.archive import MAX_STATE
from snn_rl.files.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from snn_rl.utils.errors import UserError
from snn_rl.utils.seeding import derive_seed, seed_everything

BEST = "best.safetensors"


@dataclass(frozen=True)
class Selection:
    """Selection of a stage's best checkpoint.

    The performance of Q-learning varies, so the last checkpoint is rarely the best one.
    """

    # function that returns the mean return over evaluation episodes with seeds that neither
    # training nor the final evaluation uses
    score: Callable[[Any], float]
    start: int = 0  # agent steps of the first scored checkpoint
    target: float | None = None  # score at which the stage ends early, or None

    def ends(self, scores: list[list[float]]) -> bool:
        """Returns True if a score has reached the target."""
        return self.target is not None and any(score >= self.target for _, score in scores)


@dataclass(frozen=True)
class Duration:
    """Length and seed of a stage's training."""

    steps: int  # agent steps of the stage
    segment_steps: int  # agent steps between checkpoints
    seed: tuple[int, int]  # seed of the run and number of the stage


def resume(
    model: ResumableDQN, directory: Path, journal: Journal, rows_before: int
) -> Counters | None:
    """Restores a model and its replay buffer from the stage's last checkpoint.

    Args:
        model: New model with an empty replay buffer.
        directory: Directory of the stage.
        journal: Journal of the replay rows of this stage and earlier stages.
        rows_before: Number of replay rows of earlier stages.

    Returns:
        Counters of the stage, or None without a checkpoint, which leaves the networks unchanged.
    """
    buffer = model.replay_buffer
    assert isinstance(buffer, FrameReplayBuffer)

    def restore(path: Path) -> Counters:
        tensors, meta = load_tensors(path, MAX_STATE)
        counters = Counters.from_json(meta.get("counters"), path)
        journal.restore(buffer, counters.rows)
        model.load_tensors(tensors)
        model.num_timesteps, model._n_updates = counters.steps, counters.updates
        model._n_calls = counters.calls
        return counters

    counters = load_checkpoint(directory / STATE, restore)
    if counters is None:
        journal.restore(buffer, rows_before)
    elif counters.scores:
        _best(directory, counters)  # drops scores whose checkpoint is lost
    return counters


def train_stage(
    model: ResumableDQN,
    counters: Counters,
    make_training_env: Callable[[int], VecEnv],
    directory: Path,
    journal: Journal,
    duration: Duration,
    selection: Selection | None = None,
) -> None:
    """Trains a stage to its end, from its start or its last checkpoint.

    Afterwards, the model holds the selected checkpoint, or the last one without a selection.

    Args:
        model: Model, initialized for this stage or restored by `resume`. Its logger is closed.
        counters: Counters returned by `resume`, or new counters; updated in place.
        make_training_env: Function that builds the vectorized environment from a seed.
        directory: Directory of the stage, for its state.
        journal: Journal of the replay rows.
        duration: Length and seed of the training.
        selection: Selection of the best checkpoint, or None.
    """
    steps, buffer = duration.steps, model.replay_buffer
    assert isinstance(buffer, FrameReplayBuffer)

    def log(step: int, numbers: dict[str, float]) -> None:
        for key, value in numbers.items():
            model.logger.record(key, value)
        model.logger.dump(step)

    progress = Progress(directory.name, steps, counters.episodes, log)
    while counters.steps < steps and not (selection and selection.ends(counters.scores)):
        started = time.monotonic()
        segment_seed = derive_seed(*duration.seed, counters.segment)
        seed_everything(segment_seed)
        env = make_training_env(segment_seed)
        model.set_env(env)  # resets the environments at the start of the segment
        model.action_space.seed(segment_seed)
        # Restores values that a resumed process lacks
        model._update_current_progress_remaining(counters.steps, steps)
        model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)
        end = min(counters.steps + duration.segment_steps, steps)
        model.learn(
            steps - counters.steps,
            callback=CallbackList([Episodes(counters.episodes, end), progress]),
            log_interval=1_000_000_000,
            reset_num_timesteps=False,
        )
        env.close()
        calls, rows = model._n_calls - counters.calls, counters.rows
        _truncate(buffer, calls)
        journal.append(buffer, rows, rows + calls)
        counters.segment += 1
        counters.steps, counters.updates = model.num_timesteps, model._n_updates
        counters.rows, counters.calls = rows + calls, model._n_calls
        if selection and counters.steps >= selection.start:
            _score(model, counters, selection, directory)
        counters.wall_s += time.monotonic() - started
        save_checkpoint(directory / STATE, model.tensors(), {"counters": counters.to_json()})
        journal.prune(buffer, rows)  # the previous checkpoint needs its rows
    progress.close()
    model.logger.close()
    if counters.scores:
        model.network.load_state_dict(_best(directory, counters))


def _score(model: ResumableDQN, counters: Counters, selection: Selection, directory: Path) -> None:
    """Scores the current network, and saves the network if its score is the best."""
    score = selection.score(model.evaluated)
    if all(score > before for _, before in counters.scores):
        # Written before the state with the score, so an interrupted run writes the file again.
        save_checkpoint(directory / BEST, model.network.state_dict(), {"score": score})
    counters.scores.append([counters.steps, score])


def _best(directory: Path, counters: Counters) -> dict[str, Tensor]:
    """Returns the weights of the best checkpoint.

    If the file is damaged, returns the previous best checkpoint and removes higher scores.
    """

    def load(path: Path) -> dict[str, Tensor]:
        tensors, meta = load_tensors(path, MAX_STATE)
        score = meta.get("score")  # absent in older files
        if isinstance(score, float):
            counters.scores[:] = [each for each in counters.scores if each[1] <= score]
        return tensors

    found = load_checkpoint(directory / BEST, load)
    if found is None:
        raise UserError(
            f"{directory / BEST} is missing: restore the file from a backup, or delete {directory} "
            "to train the stage again"
        )
    return found


def _truncate(buffer: FrameReplayBuffer, rows: int) -> None:
    """Marks the newest row as truncated by a time limit, so that its Q-values bootstrap."""
    if rows:
        last = buffer.pos - 1
        buffer.timeouts[last] = np.where(buffer.dones[last] > 0, buffer.timeouts[last], 1.0)
        buffer.dones[last] = 1.0
