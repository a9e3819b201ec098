"""The run directory: where it is, what a stage's result depends on, and who uses it now."""

import fcntl
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from snn_rl import __version__
from snn_rl.checkpoint import read_json, write_json
from snn_rl.config import Config, DQNConfig, preset_files
from snn_rl.envs import UnknownEnv, family
from snn_rl.errors import UserError
from snn_rl.iir import Stage, schedule

NETWORK = "network.safetensors"
METRICS = "metrics.json"
REPORT = "report.md"
FIGURES = "figures"  # a folder beside the report
RUN = "run.json"  # the commands that worked on a run, in its directory
# Games that choose among the checkpoints of a stage: their seeds, which evaluation may not use,
# and the agent steps after which one is cut off, so that an endless rally costs little.
SELECTION_SEED, SELECTION_SEEDS = 2_000_000, 10_000
SELECTION_CAP = 5_000
_PACKAGES = ("torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "hydra-core")


def presets(config: Config) -> list[str]:
    """The preset files for what the command line asks for.

    Raises:
        UserError: No environment, or an unknown one, or an unknown preset.
    """
    if not config.env:
        raise UserError("env is missing: say for example env=CartPole-v1")
    try:
        return preset_files([family(config.env), config.env], config.preset)
    except UnknownEnv as error:
        raise UserError(str(error)) from None


def run_directory(config: Config) -> Path:
    """Where this run lives: run_dir, or <runs>/<env>/seed<k>."""
    return Path(config.run_dir or f"{config.runs}/{config.env}/seed{config.seed}")


def chain(config: Config) -> list[Stage]:
    """The stages that the settings ask for."""
    return schedule(
        config.T,
        config.T_start,
        config.T_step,
        config.direct,
        config.stages,
        config.carry_state,
        exact=config.exact,
        finetune=config.finetune.steps > 0 and config.ann is None,
    )


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


def uses_bf16(precision: str, device: str) -> bool:
    """Whether training runs in bfloat16 autocast: as asked, or where the processor has it."""
    if precision == "auto":
        if device != "cpu" and torch.cuda.is_available():
            return True
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return precision == "bfloat16"


def check_device(device: str) -> None:
    """Refuses a GPU that is not there: training on the processor instead would take days.

    Args:
        device: auto, cpu or cuda.

    Raises:
        UserError: There is none, or this torch cannot use it.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: this torch finds no GPU (`python -m snn_rl.doctor` says more); "
            "device=auto takes the processor then"
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


def file_hash(file: str) -> str:
    """SHA-256 of a file that a stage begins with."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


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


class SelectionGames(NamedTuple):
    """Games of one kind that choose among a stage's checkpoints.

    Attributes:
        games: How many.
        sticky: Their sticky-action probability.
    """

    games: int
    sticky: float


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


def link(directory: Path, target: Path) -> str:
    """The way from a page in the folder `target` to a run: to its report, if it has one."""
    report = directory / REPORT
    return Path(os.path.relpath(report if report.exists() else directory, target)).as_posix()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps a second process out of the run; the system lifts it when this one dies.

    Raises:
        UserError: Another process is at work there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot use run_dir={directory}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is at work in {directory}") from None
        yield


def record_invocation(directory: Path, config: Any, launcher: str = "python -m") -> None:
    """Adds this command, as `invocation` describes it, to the run's list of them."""
    path = directory / RUN
    before = read_json(path) if path.exists() else []
    write_json(path, [*before, invocation(config, launcher)])


def invocation(config: Any, launcher: str = "python -m") -> dict[str, Any]:
    """This command, its resolved settings, and the versions and the machine it runs with."""
    path = Path(sys.argv[0])
    module = path.parent.name if path.stem == "__main__" else path.stem
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{launcher} snn_rl.{module} {shlex.join(sys.argv[1:])}".rstrip(),
        "versions": {
            "snn_rl": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "revision": _revision(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "settings": asdict(config),
    }


def flat(section: str, config: Any) -> dict[str, Any]:
    """A section of the settings under its full names."""
    return {f"{section}.{key}": value for key, value in asdict(config).items()}


def _revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
