"""Commands that make what is missing, with the words of the commands that runs have recorded."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_rl.configs.compose import is_sweep
from snn_rl.papers.image_results import Measured
from snn_rl.reports.markdown import plain

# of a recorded command: what says which stage it makes and where, and of what ANN
_WHICH = {
    *("dataset", "net", "preset", "T", "T_start", "T_step", "seed", "direct", "stages", "scratch"),
    *("prune", "ann", "run_dir", "runs"),
}
_FILES = ("data", "iir.thresholds_from")  # a stage's settings have no paths, but checksums


def given_settings(command: str, values: Mapping[str, Any]) -> dict[str, str]:
    """What a recorded command says of one of its runs, by the settings' full names.

    Args:
        command: As a run.json has it.
        values: The run's own; a sweep over anything else is left out.
    """
    given = {}
    for word in shlex.split(command):
        key, equals, value = word.partition("=")
        key = key.lstrip("+")
        # a launcher's options, and settings of sweeps, which are errors without -m
        if not equals or key.startswith(("-", "hydra/", "hydra.")):
            continue
        if key not in _FILES and is_sweep(word):
            if key not in values:
                continue
            value = plain(values[key])
        given[key] = value
    return given


def stage_command(analog: Measured, like: Measured, words: Sequence[str], run_dir: Path) -> str:
    """The command of a stage of image classification.

    Args:
        analog: The ANN that it begins with, or is compared with.
        like: The stage that it is compared with: what its command says of training and
            conversion is said again.
        words: Of the command, which say what stage it makes.
        run_dir: Where.
    """
    flags = [word for word in words if word.startswith("-")]
    said = [f"{key}={analog.settings[key]}" for key in ("dataset", "net")]
    said += [word for word in words if word not in flags]
    if "scratch=true" not in words:
        said.append(f"ann={analog.network}")
    skipped = _WHICH | {word.partition("=")[0] for word in said}
    said += [
        f"{key}={value}"
        for key, value in given_settings(like.commands[-1], like.settings).items()
        if key not in skipped and not key.startswith("fit.")  # the ANN is there
    ]
    if analog.settings["seed"]:
        said.append(f"seed={analog.settings['seed']}")
    return f"python -m snn_rl.classify {shlex.join([*flags, *said, f'run_dir={run_dir}'])}"
