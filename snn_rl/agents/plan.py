"""Stages of an agent's chain and the settings of each stage."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from snn_rl.chain.records import AgentNotes, Counters, SelectionGames, Trials, flat
from snn_rl.chain.run_directory import file_hash
from snn_rl.chain.stages import ChainOptions, Stage, schedule
from snn_rl.configs.schema import MAX_SELECTION_GAMES, Config, DQNConfig
from snn_rl.utils.device import uses_bf16
from snn_rl.utils.errors import UserError

# Checkpoint selection episodes: first seed and number of seeds, which evaluation must not use, and
# step limit, which bounds the duration of endless rallies.
SELECTION_SEED, SELECTION_SEEDS, SELECTION_CAP = 2_000_000, MAX_SELECTION_GAMES, 5_000

# Value of the setting `teacher` that adds the stage of a privileged teacher
STATE = "state"
# Numbers that distinguish the random seeds of the teacher's stage and of its exploration
TEACHER_NUMBER, EXPLORATION_NUMBER = 4_000_000, 1_000_000
# Settings of `iir` that the student of a privileged teacher uses
_STUDENT_IIR = ("epsilon", "train_freq", "sharpness")


def directory_of(config: Config) -> Path:
    """Returns the directory of the run: run_dir, or <runs>/<env>/seed<k>."""
    return Path(config.run_dir or f"{config.runs}/{config.env}/seed{config.seed}")


def chain(config: Config) -> list[Stage]:
    """Returns the stages of the chain that the settings describe."""
    return schedule(
        ChainOptions.of(
            config,
            carry_state=config.carry_state,
            exact=config.exact,
            finetune=config.finetune.steps > 0 and config.ann is None and config.teacher != STATE,
            teacher=config.teacher == STATE,
        )
    )


def taught(teacher: str | None, stage: Stage) -> bool:
    """Returns True if a privileged teacher teaches the network of a stage.

    `teacher` is the setting of that name.
    """
    teaches = teacher == STATE and stage.trained and not stage.privileged
    return teaches and not stage.carry_state  # sequences of frames are distilled from the ANN


def trials(config: Config) -> Trials:
    """Returns the evaluation episodes of the settings."""
    return Trials(config.episodes, config.eval.seed, config.eval.epsilon, config.eval.sticky)


def dqn_settings(config: Config, stage: Stage) -> DQNConfig:
    """Returns the Q-learning settings of a stage; fine-tuning explores little."""
    if not stage.finetuned:
        return config.dqn
    return replace(
        config.dqn,
        steps=config.finetune.steps,
        lr=config.finetune.lr,
        lr_steps=None,
        epsilon_start=config.dqn.epsilon_end,
        epsilon_steps=1,
        selection_games=config.finetune.selection_games,
        target_return=None,  # applies to episodes without sticky actions
    )


def notes(
    config: Config, stage: str, counters: Counters, games: list[SelectionGames]
) -> AgentNotes:
    """Returns the metadata of a trained stage; `games` are its selection episodes."""
    return AgentNotes(
        env=config.env,
        seed=config.seed,
        stage=stage,
        steps=counters.steps,
        updates=counters.updates,
        wall_s=counters.wall_s,
        scores=counters.scores,
        selection=games if counters.scores else None,
    )


def stage_settings(config: Config, stage: Stage) -> dict[str, Any]:
    """Returns the settings that a stage's result depends on, keyed by full name.

    The values are JSON-compatible. A setting without effect is None, which `check_settings` treats
    like a missing setting.
    """
    if stage.privileged:
        return _teacher_settings(config)
    settings: dict[str, Any] = {
        "env": config.env,
        "seed": config.seed,
        "network": config.network,
        "bias": config.bias,
        "bf16": uses_bf16(config.precision, config.device),
        "threads": torch.get_num_threads(),
        "checkpoint_steps": checkpoint_steps(config, stage),
        **flat("rollout", config.rollout),
        "rollout.sticky": stage_sticky(config, stage),
        **_dqn_settings(config, stage),
    }
    if not config.rollout.full_action_space:  # unknown to older runs
        del settings["rollout.full_action_space"]
    files = {"teacher": None if config.teacher == STATE else config.teacher}
    if stage.analog and not stage.finetuned:
        files |= {"ann": config.ann, "init": config.init}
    settings |= {key: file and file_hash(file) for key, file in files.items()}
    if config.teacher == STATE:
        settings |= {"teacher": STATE, **_state_settings(config)}
    if any(files.values()):
        settings["strides"] = config.strides
        settings["pixel_max"] = None if config.pixel_max == 1.0 else config.pixel_max
    if stage.carry_state:
        settings |= flat("carry", config.carry)
    if stage.exact:
        settings["exact"] = True
        if config.bits != Config.bits:  # unknown to older runs
            settings["bits"] = config.bits
    if stage.source is not None:
        settings["source"] = stage.source
    if stage.analog and taught(config.teacher, stage):
        settings |= flat("student", config.student)
        settings |= {f"iir.{name}": getattr(config.iir, name) for name in _STUDENT_IIR}
    if not stage.analog:
        iir = flat("iir", config.iir)
        # covered by iir.steps, rollout.sticky, and checkpoint_steps
        del iir["iir.t1_steps"], iir["iir.sticky"], iir["iir.selection_steps"]
        played = {each.sticky: each.games for each in selection_games(config, stage)}
        iir["iir.selection_games"] = played.pop(config.rollout.sticky, None)
        iir["iir.selection_sticky_games"] = sum(played.values()) or None
        iir["iir.steps"] = stage_steps(config, stage)
        settings |= {"T": stage.timesteps, **iir}
    return settings


def _dqn_settings(config: Config, stage: Stage) -> dict[str, Any]:
    settings = flat("dqn", dqn_settings(config, stage))
    if config.teacher != STATE:
        return settings
    used = ("dqn.buffer_size", "dqn.optimizer") if stage.analog else ("dqn.buffer_size",)
    return {key: settings[key] for key in used}


def _state_settings(config: Config) -> dict[str, Any]:
    settings = flat(STATE, config.state)
    if not config.state.steady:  # unknown to older runs
        del settings["state.steady"]
    return settings


def _teacher_settings(config: Config) -> dict[str, Any]:
    return {
        "env": config.env,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "rollout.cap": config.rollout.cap,
        "rollout.full_action_space": config.rollout.full_action_space,
        **_state_settings(config),
    }


def hidden_layers(sizes: str) -> list[int]:
    """Returns the sizes of the hidden layers in a setting such as 256-256.

    Raises:
        UserError: A size is not an integer from 1 to 65,536.
    """
    found = _integers(sizes)
    if not found:
        raise UserError(f"state.hidden={sizes}: expected sizes of layers such as 256-256")
    return found


def ranges(values: str | None) -> list[int]:
    """Returns the ranges in a setting such as 20-100, none for None.

    Raises:
        UserError: A range is not an integer from 1 to 65,536.
    """
    if values is None:
        return []
    found = _integers(values)
    if not found:
        raise UserError(f"state.ranges={values}: expected ranges such as 20-100, or null")
    return found


def _integers(text: str) -> list[int]:
    """Returns the integers from 1 to 65,536 in a text such as 20-100; none if one is invalid."""
    well_formed = re.fullmatch("[0-9]{1,5}(-[0-9]{1,5})*", text)
    found = [int(number) for number in text.split("-")] if well_formed else []
    return found if all(1 <= number <= 2**16 for number in found) else []


def stage_number(stage: Stage) -> int:
    """Returns the number that distinguishes the random seeds of stages.

    Stages of different chains with equal T share a number to make them comparable.
    """
    return (stage.timesteps or 0) + 1_000_000 * stage.carry_state + 2_000_000 * stage.finetuned


def stage_steps(config: Config, stage: Stage) -> int:
    """Returns the agent steps of a stage."""
    if not stage.trained:
        return 0
    if stage.privileged:
        return config.state.steps
    if stage.analog:
        if config.teacher == STATE:
            return config.student.steps
        # An imported network only fills the replay buffer.
        return config.dqn.learning_starts if config.ann else dqn_settings(config, stage).steps
    if stage.carry_state:
        return config.carry.steps
    if stage.timesteps == 1 and config.iir.t1_steps:
        return config.iir.t1_steps
    return config.iir.steps


def selection_games(config: Config, stage: Stage) -> list[SelectionGames]:
    """Returns the checkpoint selection episodes; [] keeps the last checkpoint."""
    if not stage.trained or (stage.analog and (config.ann or config.teacher == STATE)):
        return []
    if stage.analog:
        own = learned = dqn_settings(config, stage).selection_games
    elif stage_steps(config, stage) <= config.iir.selection_steps:
        return []  # only one checkpoint
    else:
        own, learned = config.iir.selection_games, config.iir.selection_sticky_games
    played = [SelectionGames(own, config.rollout.sticky)]
    if (sticky := stage_sticky(config, stage)) != config.rollout.sticky:
        played.append(SelectionGames(learned, sticky))
    return [each for each in played if each.games]


def checkpoint_steps(config: Config, stage: Stage) -> int:
    """Returns the agent steps between two checkpoints of a stage."""
    if not stage.analog and selection_games(config, stage):
        return config.iir.selection_steps
    return config.checkpoint_steps


def stage_sticky(config: Config, stage: Stage) -> float:
    """Returns the sticky-action probability of a stage's training."""
    if stage.finetuned:
        return config.finetune.sticky
    # An imported network fills the replay buffer of the spiking stages.
    if config.iir.sticky is not None and (config.ann or not stage.analog):
        return config.iir.sticky
    return config.state.sticky if config.teacher == STATE else config.rollout.sticky
