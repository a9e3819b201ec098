"""Composition of settings from presets and the command line, and the frame of every command.

Precedence: schema < family preset < preset of the exact id < presets of teacher=state < paper
preset < command line.
"""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from snn_rl import __version__
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import help_text, settings_of
from snn_rl.configs.sweep import combinations, launch
from snn_rl.envs import EnvFamily, UnknownEnv, family
from snn_rl.utils.console import replace_unprintable
from snn_rl.utils.errors import UserError, did_you_mean

Settings = TypeVar("Settings", Config, ClassifyConfig)

_PRESET_FILES = resources.files("snn_rl.configs") / "settings"


def compose(
    schema: type[Settings],
    overrides: Sequence[str],
    presets: Callable[[Settings], list[str]] | None = None,
) -> Settings:
    """Composes settings from command-line overrides.

    `presets` maps the settings without presets to the names of the presets to apply, in order.
    None selects `agent_presets` or `image_presets`.

    Raises:
        UserError: A key is unknown, a value has the wrong type, a setting has several values, or
            `presets` raises the error.
    """
    parsed = parse(overrides)
    _check_keys(parsed, schema)
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line}: several values start a sweep, which needs -m; a list is "
                "written [a,b]"
            )
    chosen: Callable[[Any], list[str]] = presets or _PRESETS[schema]
    with _one_line_errors():
        names = chosen(_merge(schema, [], parsed))
        return _merge(schema, names, parsed)


def _merge(
    schema: type[Settings], presets: Sequence[str], overrides: Sequence[Override]
) -> Settings:
    """Returns the defaults of a schema, overridden by presets and then by the command line."""
    merged = OmegaConf.structured(schema)
    for preset in presets:
        merged.merge_with(_preset_settings(preset))
    for override in overrides:
        OmegaConf.update(merged, override.key_or_group, override.value())
    config = OmegaConf.to_object(merged)
    assert isinstance(config, schema)
    return config


def _preset_settings(name: str) -> DictConfig:
    """Returns the settings of a preset, including those of the preset that it extends."""
    settings = OmegaConf.create((_PRESET_FILES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(settings, DictConfig)
    base = settings.pop("extends", None)
    merged = _preset_settings(base) if base else OmegaConf.create()
    merged.merge_with(settings)
    return merged


def agent_presets(config: Config) -> list[str]:
    """Returns the presets of an environment."""
    if not config.env:
        raise UserError("env is missing: set, for example, env=CartPole-v1")
    names = [known_family(config.env).name, config.env]
    if config.teacher == "state":
        names += [f"{name}_state" for name in names]
    return _preset_names(names, config.preset)


def known_family(env: str) -> EnvFamily:
    """Returns the family of an environment that a setting names.

    Raises:
        UserError: The environment is unknown.
    """
    try:
        return family(env)
    except UnknownEnv as error:
        raise UserError(str(error)) from None


def image_presets(config: ClassifyConfig) -> list[str]:
    """Returns the presets of a dataset and a network, for example cifar, cifar10, and vgg16."""
    dataset, net = config.dataset, config.net
    if not dataset:
        raise UserError("no dataset given; for example, set dataset=cifar10")
    known = settings_of(ClassifyConfig)
    known["dataset"].check(dataset)
    family = dataset.rstrip("0123456789")
    # Networks without presets, including misspelled names, select nothing.
    networks = [net, f"{dataset}_{net}"] if net in known["net"].choices else []
    return _preset_names([family, dataset, *networks], config.preset)


def _preset_names(names: Sequence[str], preset: str) -> list[str]:
    """Returns the files in configs/settings to apply, in order.

    The first name is the family of the task, which names its presets. More specific names follow.
    """
    known = [entry.name.removesuffix(".yaml") for entry in _PRESET_FILES.iterdir()]
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


_PRESETS: dict[Any, Callable[[Any], list[str]]] = {
    Config: agent_presets,
    ClassifyConfig: image_presets,
}


def print_error(error: UserError) -> None:
    """Prints an error as one line, below any progress bars."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(f"error: {error}", file=sys.stderr, flush=True)


def run_command(
    schema: type[Settings],
    main: Callable[[Settings], None],
    doc: str | None = None,
    settings: Collection[str] = (),
    presets: Callable[[Settings], list[str]] | None = None,
    complain: Callable[[UserError], None] = print_error,
    results: Callable[[Settings], Mapping[Path, Mapping[str, Any]]] = lambda _: {},
) -> None:
    """Runs a command with the settings of the command line.

    A `UserError` ends the process with exit code 2 after one line on stderr. `--help` shows `doc`
    and the listed settings and sections, and `--help all` all settings. `--cfg job` prints the
    settings, and `-m` runs a sweep.

    `results` returns the directories that a run writes, and the settings that the content of each
    directory depends on.
    """
    replace_unprintable()
    options = {argument for argument in sys.argv[1:] if argument.startswith("-")}
    arguments = [argument for argument in sys.argv[1:] if argument not in options]
    if options & {"-h", "--help"}:
        print(help_text(schema, doc or "", () if "all" in arguments else settings))
        return

    def run(overrides: Sequence[str]) -> None:
        replace_unprintable()  # a sweep may start other processes
        main(compose(schema, overrides, presets))

    try:
        for option in options - {"--version", "--cfg", "-m", "--multirun"}:
            raise UserError(
                f"unknown option {option}: must be one of --help, --version, --cfg job (prints the "
                "settings), -m (sweep); settings are key=value"
            )
        if "--version" in options:
            print(f"snn_rl {__version__}")
        elif "--cfg" in options:
            arguments = [argument for argument in arguments if argument != "job"]
            print(OmegaConf.to_yaml(compose(schema, arguments, presets)), end="")
        elif options:
            parsed = parse(arguments)
            own = [each for each in parsed if not each.is_hydra_override()]
            launcher = [str(each.input_line) for each in parsed if each.is_hydra_override()]
            _check_keys(own, schema)
            with _one_line_errors():
                runs = combinations(own)
                _check_runs(runs, lambda run: results(compose(schema, run, presets)))
                failed = launch(runs, run, complain, launcher)
            if failed:
                complain(
                    UserError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
                )
                sys.exit(1)
        else:
            run(arguments)
    except UserError as error:
        complain(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to resume", file=sys.stderr)
        sys.exit(130)


def _check_runs(
    runs: Sequence[Sequence[str]],
    results: Callable[[Sequence[str]], Mapping[Path, Mapping[str, Any]]],
) -> None:
    """Refuses a sweep whose runs would overwrite each other, or would all be refused."""
    errors = []
    written: dict[Path, tuple[Sequence[str], Mapping[str, Any]]] = {}
    for run in runs:
        try:
            directories = results(run)
        except UserError as error:
            errors.append(error)
            continue
        for directory, settings in directories.items():
            other, before = written.setdefault(directory, (run, settings))
            if before != settings:
                (first, second), *_ = ((a, b) for a, b in zip(other, run, strict=True) if a != b)
                key = first.partition("=")[0]
                raise UserError(
                    f"the runs with {first} and {second} would both write to {directory}: give "
                    f"each run its own directory, for example 'run_dir=runs/{key}${{{key}}}'"
                )
    if len(errors) == len(runs):
        raise errors[0]


def parse(words: Sequence[str]) -> list[Override]:
    """Parses a command line, in which `lr=0.1,0.2` is a sweep, and `lr=[0.1,0.2]` is one value."""
    parser = OverridesParser.create()
    parsed = []
    for word in words:
        try:
            parsed.append(parser.parse_override(word))
        except HydraException:
            raise UserError(_unparsed(word)) from None
    return parsed


def _check_keys(overrides: Sequence[Override], schema: type[Any]) -> None:
    """Refuses unknown settings, and the removal of settings."""
    known = settings_of(schema)
    groups = {key.split(".")[0] for key in known if "." in key}
    for override in overrides:
        key, word = override.key_or_group, str(override.input_line)
        if key in known and (override.is_add() or override.is_force_add()):
            raise UserError(f"{word}: write {word.lstrip('+')}, because the setting exists")
        if override.is_delete() and key in known:
            raise UserError(f"{word}: a setting cannot be removed; set {key}=VALUE")
        if key in groups or key not in known or override.package is not None:
            everything = f"; {schema.__module__.replace('.', '/')}.py lists them all"
            hint = did_you_mean(key, known) or everything
            raise UserError(f"unknown setting {word.lstrip('+~')}{hint}")


def _unparsed(word: str) -> str:
    """Returns the error message for a part of the command line that is not a setting."""
    key, equals, value = " ".join(word.split()).partition("=")
    if not equals:
        return (
            f"cannot parse {key}: settings are key=value; a value with spaces needs quotes, for "
            'example "run_dir=my runs"'
        )
    value = os.path.expanduser(value).replace("'", "").replace('"', "")
    return (
        f"cannot parse {word!r}: a value with special characters needs two pairs of quotes, for "
        f"example '{key}=\"{value}\"'"
    )


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns Hydra's and OmegaConf's errors into a `UserError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        line = next(line.strip() for line in str(cause).splitlines() if line.strip())
        key = getattr(cause, "full_key", None)
        if key and ("Missing" in type(cause).__name__ or "MISSING" in line or "???" in line):
            raise UserError(f"{key} is missing: set a value") from None
        raise UserError(f"{key}: {line}" if key else line) from None
