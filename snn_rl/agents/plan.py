"""The stages of an agent's run and the settings of each stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from snn_rl.chain.records import SelectionGames, Trials, flat
from snn_rl.chain.run_directory import file_hash
from snn_rl.chain.stages import ChainOptions, Stage, schedule
from snn_rl.configs.schema import MAX_SELECTION_GAMES, Config, DQNConfig
from snn_rl.utils.device import uses_bf16

# Games that choose among the checkpoints of a stage: their seeds, which evaluation may not use,
# and the agent steps after which one is cut off, so that an endless rally costs little.
SELECTION_SEED, SELECTION_SEEDS = 2_000_000, MAX_SELECTION_GAMES


SELECTION_CAP = 5_000


def directory_of(config: Config) -> Path:
    """Where this run lives: run_dir, or <runs>/<env>/seed<k>."""
    return Path(config.run_dir or f"{config.runs}/{config.env}/seed{config.seed}")


def chain(config: Config) -> list[Stage]:
    """The stages that the settings ask for."""
    return schedule(
        ChainOptions(
            config.T,
            config.T_start,
            config.T_step,
            config.direct,
            config.stages,
            config.carry_state,
            exact=config.exact,
            finetune=config.finetune.steps > 0 and config.ann is None,
        )
    )


def trials(config: Config) -> Trials:
    """Returns the evaluation episodes of the settings."""
    return Trials(config.episodes, config.eval.seed, config.eval.epsilon, config.eval.sticky)


def dqn_settings(config: Config, stage: Stage) -> DQNConfig:
    """The settings of Q-learning in a stage; in the ANN's second one it hardly explores."""
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
        target_return=None,  # that is a goal for games without sticky actions
    )


def stage_settings(config: Config, stage: Stage) -> dict[str, Any]:
    """Everything that the stage's result depends on, flat, as plain JSON types."""
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
        **flat("dqn", dqn_settings(config, stage)),
    }
    files = {"teacher": config.teacher}
    if stage.analog and not stage.finetuned:
        files |= {"ann": config.ann, "init": config.init}
    for key, file in files.items():
        settings[key] = file and file_hash(file)
    if any(files.values()):
        # None at their defaults, as if there were no such settings: see iir.check_settings
        settings["strides"] = config.strides
        settings["pixel_max"] = None if config.pixel_max == 1.0 else config.pixel_max
    if stage.carry_state:
        settings |= flat("carry", config.carry)
    if stage.exact:
        settings["exact"] = True
    if stage.source is not None:
        settings["source"] = stage.source
    if not stage.analog:
        iir = flat("iir", config.iir)
        # they are in iir.steps, rollout.sticky and checkpoint_steps, as far as they say something
        del iir["iir.t1_steps"], iir["iir.sticky"], iir["iir.selection_steps"]
        # None where nothing is chosen, as if there were no such setting: see iir.check_settings
        played = {each.sticky: each.games for each in selection_games(config, stage)}
        iir["iir.selection_games"] = played.pop(config.rollout.sticky, None)
        iir["iir.selection_sticky_games"] = sum(played.values()) or None
        iir["iir.steps"] = stage_steps(config, stage)
        settings |= {"T": stage.timesteps, **iir}
    return settings


def stage_number(stage: Stage) -> int:
    """What tells a stage's random numbers from those of the others in its chain.

    Stages of the same T in other chains share it: they are compared with one another.
    """
    own = 1_000_000 * stage.carry_state + 2_000_000 * stage.finetuned
    return (stage.timesteps or 0) + own


def stage_steps(config: Config, stage: Stage) -> int:
    """Agent steps of a stage."""
    if not stage.trained:
        return 0
    if stage.analog:
        # an imported network is not trained, it only plays to fill the replay buffer
        return config.dqn.learning_starts if config.ann else dqn_settings(config, stage).steps
    if stage.carry_state:
        return config.carry.steps
    if stage.timesteps == 1 and config.iir.t1_steps:
        return config.iir.t1_steps
    return config.iir.steps


def selection_games(config: Config, stage: Stage) -> list[SelectionGames]:
    """What every checkpoint of a stage plays, for the best to be kept; empty: the last is."""
    if not stage.trained or (stage.analog and config.ann):
        return []
    if stage.analog:
        own = learnt = dqn_settings(config, stage).selection_games
    elif stage_steps(config, stage) <= config.iir.selection_steps:
        return []  # one checkpoint leaves nothing to choose
    else:
        own, learnt = config.iir.selection_games, config.iir.selection_sticky_games
    played = [SelectionGames(own, config.rollout.sticky)]
    if (sticky := stage_sticky(config, stage)) != config.rollout.sticky:
        played.append(SelectionGames(learnt, sticky))
    return [each for each in played if each.games]


def checkpoint_steps(config: Config, stage: Stage) -> int:
    """Agent steps from one checkpoint of a stage to the next."""
    if not stage.analog and selection_games(config, stage):
        return config.iir.selection_steps
    return config.checkpoint_steps


def stage_sticky(config: Config, stage: Stage) -> float:
    """Sticky-action probability of the games that a stage plays to learn from."""
    if stage.finetuned:
        return config.finetune.sticky
    # an imported network plays for the spiking stages behind it
    if config.iir.sticky is None or (stage.analog and not config.ann):
        return config.rollout.sticky
    return config.iir.sticky
