"""Settings: their schema, the presets, and the way from a command line to a `Config`.

Precedence: schema < preset (family, then exact id) < command line. The preset follows from `env`.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
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

from snn_rl.configs.schema import Config
from snn_rl.envs import UnknownEnv, family
from snn_rl.utils.errors import UserError, did_you_mean

Settings = TypeVar("Settings")


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


def agent_presets(config: Config) -> list[str]:
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
