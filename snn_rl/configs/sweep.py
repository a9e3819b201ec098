"""Runs of a sweep, started by Hydra's launchers in this process, in parallel, or on a cluster."""

import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from itertools import product

import hydra
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.types import HydraContext
from omegaconf import DictConfig

from snn_rl.utils.errors import UserError

# Extras that install launchers
_EXTRAS = {"joblib": "sweep", "submitit_slurm": "slurm", "submitit_local": "slurm"}


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Returns the command line of every run of a sweep, with the last value changing fastest."""
    values = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [str(each.input_line)]
        for each in overrides
    ]
    return [list(run) for run in product(*values)]


def launch(
    runs: Sequence[Sequence[str]],
    run: Callable[[Sequence[str]], None],
    complain: Callable[[UserError], None],
    launcher: Sequence[str],
) -> list[str]:
    """Starts every run; a run that fails does not keep the others from running.

    Hydra composes only the launcher's own settings. Every run composes its settings itself.

    Args:
        runs: Command lines.
        run: Function that runs the command with the settings of a command line.
        complain: Function that reports the error of a run.
        launcher: Settings of Hydra, such as "hydra/launcher=joblib".

    Returns:
        Settings in which each failed run differs from the others.

    Raises:
        UserError: The launcher is not installed, or one of its processes was killed.
    """
    main_process = os.getpid()

    def job(config: DictConfig) -> bool:
        if os.getppid() == main_process:
            _exit_with_parent(main_process)
        try:
            run(runs[config.run])
        except UserError as error:
            complain(error)
            return False
        except Exception:  # a bug, which a parallel run would report only at the end
            traceback.print_exc()
            return False
        return True

    try:
        with hydra.initialize_config_module("snn_rl.configs", "snn_rl", version_base="1.3"):
            config = hydra.compose("sweep", list(launcher), return_hydra_config=True)
            context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        advice = f"must be one of {', '.join(error.options or ())}"
        if name in _EXTRAS:
            advice = f"not installed; run pip install 'snn_rl[{_EXTRAS[name]}]'"
        raise UserError(f"{group}={name}: {advice}") from None
    started = Plugins.instance().instantiate_launcher(context, job, config)
    try:
        results = started.launch([[f"run={i}"] for i in range(len(runs))], initial_job_idx=0)
    except BrokenProcessPool:
        raise UserError(
            "a process of the sweep was killed, for example because the memory was full: run the "
            "same command again to resume"
        ) from None
    common = set.intersection(*map(set, runs))
    return [
        " ".join(word for word in line if word not in common) or " ".join(line)
        for line, done in zip(runs, results, strict=True)
        if not done.return_value
    ]


@cache  # a reused process watches its parent once
def _exit_with_parent(parent: int) -> None:
    """Ends this process when its parent, which started the sweep, is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
