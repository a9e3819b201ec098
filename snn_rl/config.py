"""Settings: their schema, the presets, and the way from a command line to a `Config`.

Precedence: schema < preset (family, then exact id) < command line. The preset follows from `env`.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from importlib import resources
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from snn_rl.errors import UserError, did_you_mean

Settings = TypeVar("Settings")


@dataclass
class RolloutConfig:
    """The environment that agents train in, and its observations in evaluation too."""

    n_envs: int = 8
    frame_stack: int = 4
    frames: str = "stack"  # stack | difference
    sticky: float = 0.0
    cap: int = 27_000


@dataclass
class DQNConfig:
    """The ANN stage; `gamma`, `n_steps`, `double` and the target also serve iir.objective=td."""

    steps: int = 1_000_000
    lr: float = 1e-4
    optimizer: str = "Adam"
    batch_size: int = 32
    buffer_size: int = 100_000
    learning_starts: int = 10_000
    gamma: float = 0.99
    n_steps: int = 1
    double: bool = False
    train_freq: int = 1  # vector-environment steps between updates
    gradient_steps: int = 1
    target_update_interval: int = 1_000
    epsilon_start: float = 1.0
    epsilon_end: float = 0.01
    epsilon_steps: int = 100_000
    lr_end: float = 1.0  # the learning rate falls linearly to this fraction of lr
    lr_steps: int | None = None  # and stays there after so many steps; None: falls to the end
    # Checkpoints play as many games once epsilon has fallen, and the best is kept; 0: the last is.
    selection_games: int = 0
    target_return: float | None = None  # a mean return in those games that ends the stage


@dataclass
class FinetuneConfig:
    """The ANN trained further, under sticky actions, before it is converted; else as in `dqn`."""

    steps: int = 0  # 0: no such stage; none either for an imported ANN (ann=)
    sticky: float = 0.25
    lr: float = 1e-4
    # Choose among the checkpoints of the second half: so many games with sticky actions, and as
    # many without; a checkpoint's score is the mean of both means.
    selection_games: int = 20


@dataclass
class IIRConfig:
    """The spiking stages."""

    objective: str = "distill"  # td | distill | distill+td
    steps: int = 20_000
    t1_steps: int = 0  # steps of the T=1 stage; 0: as many as the others
    lr: float = 5e-4
    cosine: bool = True
    optimizer: str = "Adam"
    batch_size: int = 128
    train_freq: int = 1
    gradient_steps: int = 1
    epsilon: float = 0.02
    sticky: float | None = None  # in place of rollout.sticky; None: as that
    # Stages longer than selection_steps choose too, every so many steps of their second half.
    selection_games: int = 0
    # Besides those, so many games under iir.sticky, where it is not rollout.sticky; a checkpoint's
    # score is the mean of both means.
    selection_sticky_games: int = 0
    selection_steps: int = 10_000
    sharpness: float = 3.0
    percentile: float = 90.0
    percentile_over: str = "positive"  # positive | all
    surrogate: str = "linear"
    encoding: str = "direct"
    conversion_samples: int = 256


@dataclass
class CarryConfig:
    """The stage whose membranes live on from frame to frame; the rest is as in `IIRConfig`."""

    steps: int = 50_000
    leak: float = 0.0  # that it begins with, in every layer; 0: as T=1, without any memory
    burn_in: int = 8  # frames of a sequence that only bring its membranes up to date
    window: int = 8  # frames behind them that are learnt from


@dataclass
class EvalConfig:
    """Evaluation."""

    seed: int = 1_000_000
    epsilon: float = 0.0
    sticky: float = 0.25


@dataclass
class PlayConfig:
    """Playing for the eye."""

    output: str = "auto"  # auto | window | mp4 | gif
    overlay: bool = False
    max_steps: int = 2_000
    fps: int = 30


@dataclass
class Config:
    """Everything a command can be told."""

    env: str = ""  # every command needs it but the report of a paper's figure
    T: int = 1
    seed: int = 0
    preset: str = "default"  # default | paper
    T_start: int = 5
    T_step: int = 1
    direct: bool = False
    stages: str = "iir"  # iir | none
    run_dir: str | None = None
    runs: str = "runs"  # the folder of all runs
    paper: str | None = None  # iir | stdb | ull
    figure: int | None = None  # of that paper
    table: int | None = None  # of that paper, instead
    sweep: str | None = None  # a folder of runs, whose scores are put together
    zoo: str | None = None  # where agents are published; None: among those that ship
    ann: str | None = None  # an ANN that is done: it only plays, to fill the replay buffer
    init: str | None = None  # a network that the ANN stage starts to learn from
    teacher: str | None = None  # an ANN, of more frames perhaps, that teaches this run's
    # What a state dict does not say: its convolutions' strides, if they are not the Mnih nets', and
    # the largest pixel value it was trained on (1: images are divided by 255).
    strides: list[int] | None = None
    pixel_max: float = 1.0
    carry_state: bool = False  # go on from T=1: membranes live on from frame to frame
    exact: bool = False  # end with the T=1 network on an integer grid
    engine: str = "dense"  # dense | event: what an agent on that grid decides with
    network: str = "mnih"  # or cartpole, or layers as in 16c8s4-32c4s2-256; ann= brings its own
    bias: bool = False
    precision: str = "auto"  # auto | float32 | bfloat16
    device: str = "auto"
    threads: int = 0
    checkpoint_steps: int = 50_000
    episodes: int = 20
    video: bool = True
    format: str = "onnx"  # onnx | nir | torch | event: of an exported file
    output: str | None = None  # the exported file; None: in the stage's directory
    check_frames: int = 500  # of real games, that an exported file is checked on
    overlay: bool = False  # the short way to say play.overlay
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    dqn: DQNConfig = field(default_factory=DQNConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    iir: IIRConfig = field(default_factory=IIRConfig)
    carry: CarryConfig = field(default_factory=CarryConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    play: PlayConfig = field(default_factory=PlayConfig)


ConfigStore.instance().store("schema", Config)


def compose(overrides: Sequence[str], preset_names: Callable[[Config], list[str]]) -> Config:
    """Composes the settings of the agents' commands, see `compose_as`."""
    return compose_as(Config, "config", overrides, preset_names)


def compose_as(
    schema: type[Settings],
    primary: str,
    overrides: Sequence[str],
    preset_names: Callable[[Settings], list[str]],
) -> Settings:
    """Composes settings from command-line overrides.

    Args:
        schema: A dataclass of all settings and their defaults, known to Hydra's ConfigStore.
        primary: The file in configs that names it.
        overrides: key=value strings.
        preset_names: The presets (files in configs/settings) for what the overrides ask for.

    Raises:
        UserError: An unknown key, or a value of a wrong type; what `preset_names` raises.
    """
    _check_keys(overrides, schema)
    with _OneLine():
        with hydra.initialize_config_module("snn_rl.configs", version_base="1.3"):
            first = OmegaConf.to_object(hydra.compose(primary, list(overrides)))
            assert isinstance(first, schema)
            names = ",".join(preset_names(first))
            final = hydra.compose(primary, [f"+settings=[{names}]", *overrides])
        config = OmegaConf.to_object(final)
    assert isinstance(config, schema)
    return config


def preset_files(names: Sequence[str], preset: str) -> list[str]:
    """The files in configs/settings that apply, general first.

    Args:
        names: Of a task, general first: its family (of which there are presets), then itself.
        preset: One of that family's, or "default".

    Raises:
        UserError: No such preset of this family.
    """
    folder = resources.files("snn_rl.configs") / "settings"
    known = [entry.name.removesuffix(".yaml") for entry in folder.iterdir()]
    wanted = list(names)
    if preset != "default":
        ending = f"_{names[0]}"
        presets = sorted(name.removesuffix(ending) for name in known if name.endswith(ending))
        if preset not in presets:
            raise UserError(
                f"preset={preset}: must be one of {', '.join(['default', *presets])}"
                f"{did_you_mean(preset, presets)}"
            )
        wanted += [f"{preset}_{name}" for name in names]
    return [name for name in dict.fromkeys(wanted) if name in known]


def run_command(
    task: Callable[[Config], None], preset_names: Callable[[Config], list[str]], doc: str
) -> None:
    """Runs one of the agents' commands, see `run_command_as`."""
    run_command_as(Config, "config", task, preset_names, doc)


def print_error(error: UserError) -> None:
    """The one line of an error."""
    print(f"error: {error}", file=sys.stderr)


def run_command_as(
    schema: type[Settings],
    primary: str,
    task: Callable[[Settings], None],
    preset_names: Callable[[Settings], list[str]],
    doc: str,
    complain: Callable[[UserError], None] = print_error,
) -> None:
    """Runs a command: Hydra's command line (sweeps with -m), one-line errors, exit code 2.

    Args:
        schema: See `compose_as`.
        primary: See `compose_as`.
        task: The command.
        preset_names: See `compose_as`.
        doc: What `--help` prints.
        complain: Prints the line of an error.
    """
    composed = partial(compose_as, schema, primary, preset_names=preset_names)
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(doc.strip())
        return
    try:
        if not any(argument.startswith("-") for argument in arguments):
            task(composed(arguments))
        else:
            # what is no flag and no setting of Hydra's own; a typo is told before anything starts
            own = [a for a in arguments if "=" in a and not re.match(r"-|[+~]*hydra[./]", a)]
            _check_keys(own, schema)
            _sweep(lambda overrides: task(composed(overrides)), primary, complain)
    except UserError as error:
        complain(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _sweep(
    task: Callable[[list[str]], None], primary: str, complain: Callable[[UserError], None]
) -> None:
    """Hands over to Hydra's own command line, for -m and its launchers."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug keeps its traceback

    @hydra.main(version_base="1.3", config_path="pkg://snn_rl.configs", config_name=primary)
    def job(_: Any) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        GlobalHydra.instance().clear()
        try:
            task(overrides)
        except UserError as error:
            complain(error)
            sys.exit(2)

    with _OneLine():
        job()


def keys(schema: Any = Config, prefix: str = "") -> Iterator[str]:
    """Every setting's full name."""
    for name, entry in schema.__dataclass_fields__.items():
        nested = entry.default_factory
        if isinstance(nested, type) and is_dataclass(nested):
            yield from keys(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def value_of(config: Any, name: str) -> Any:
    """A setting's value by its full name."""
    value = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def is_sweep(override: str) -> bool:
    """Whether -m makes several runs of a key=value string: lr=0.1,0.2, but not lr=[0.1,0.2].

    Raises:
        UserError: Hydra cannot read it.
    """
    with _OneLine():
        return OverridesParser.create().parse_override(override).is_sweep_override()


def _check_keys(overrides: Sequence[str], schema: type[Any]) -> None:
    known = list(keys(schema))
    groups = {key.split(".")[0] for key in known if "." in key}
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read the command line, settings are key=value: {reason}") from None
    for override in parsed:
        key = override.key_or_group
        if override.is_delete() or key in groups or key not in known:
            everything = f"; {schema.__module__.replace('.', '/')}.py lists them all"
            hint = did_you_mean(key, known) or everything
            raise UserError(f"unknown setting {key}={override.value()}{hint}")


class _OneLine:
    """Turns what Hydra and OmegaConf say of a bad value into one line."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, HydraException | OmegaConfBaseException):
            cause = (
                error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
            )
            lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
            where = getattr(cause, "full_key", None)
            if "Missing" in type(cause).__name__ or "MISSING" in lines[0] or "???" in lines[0]:
                raise UserError(f"{where} is missing: give it a value") from None
            raise UserError(f"{where + ': ' if where else ''}{lines[0]}") from None
