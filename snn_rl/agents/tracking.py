"""Logs of a stage: TensorBoard, and optionally an experiment tracker (W&B or MLflow)."""

import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from stable_baselines3.common.logger import KVWriter, Logger
from tqdm import tqdm

from snn_rl.agents.event_log import EventLog, numbers
from snn_rl.chain import run_directory
from snn_rl.chain.records import StageEvaluation, unless_damaged
from snn_rl.files.atomic import read_json, write_json
from snn_rl.formats.registry import optional
from snn_rl.utils.errors import one_line

PROJECT: Final = "snn_rl"
_MEMORY = "track.json"
FOLDER: Final = "tensorboard"  # in the directory of a stage

# A function that logs values at a step, and a function that ends the run
_Tracker = tuple[Callable[[dict[str, float], int], object], Callable[[], object]]


def stage_logger(directory: Path, until: int = -1, track: str | None = None) -> Logger:
    """Returns the logger of a stage's training.

    Args:
        directory: Directory of the stage.
        until: Last step to keep in an existing log. A resumed run repeats the later steps.
        track: Key of `TRACKERS`, or None.
    """
    return Logger(None, [EventLog(directory / FOLDER, until=until), *_trackers(track, directory)])


def log_evaluation(directory: Path, results: StageEvaluation, track: str | None = None) -> None:
    """Writes the mean returns and lengths of a stage's evaluation, in place of earlier ones.

    Args:
        directory: Directory of the stage.
        results: Evaluation of the stage.
        track: Key of `TRACKERS`, or None.
    """
    means = {}
    for group, column in (("eval", results.greedy), ("eval_sticky", results.sticky)):
        means[f"{group}/mean_reward"] = column.mean
        means[f"{group}/mean_ep_length"] = sum(column.lengths) / len(column.lengths)
    for writer in (
        EventLog(directory / FOLDER, "2-evaluation"),
        *_trackers(track, directory, again=True),
    ):
        writer.write(means, dict.fromkeys(means, ()), results.steps or 0)
        writer.close()


def _trackers(name: str | None, directory: Path, again: bool = False) -> list[KVWriter]:
    return [] if name is None else [TrackerLog(name, directory, again)]


class TrackerLog(KVWriter):
    """Writer to an experiment tracker. An error of the tracker does not stop the training.

    The run of a stage is named after the stage and belongs to the group of its run directory.
    track.json keeps its identifier and its last step, so that a resumed stage continues the run and
    logs no step twice.

    Args:
        name: Key of `TRACKERS`.
        directory: Directory of the stage.
        again: True to log steps that have been logged before.

    Raises:
        UserError: The tracker is not installed.
    """

    def __init__(self, name: str, directory: Path, again: bool = False):
        self._name, self._again = name, again
        self._log: Callable[[dict[str, float], int], object] = _ignore
        self._end: Callable[[], object] = _ignore
        self._path = directory / _MEMORY
        known = unless_damaged(lambda: read_json(self._path)) if self._path.is_file() else None
        self._memory = known or {"id": uuid.uuid4().hex[:16], "step": -1}
        package = optional(name, name)
        self._attempt(lambda: self._start(package, directory.resolve()))

    def _start(self, package: Any, directory: Path) -> None:
        self._log, self._end = TRACKERS[self._name](package, directory, self._memory["id"])

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Logs the values of a step."""
        if self._again or step > self._memory["step"]:
            self._attempt(lambda: self._remember(numbers(key_values, key_excluded), step))

    def _remember(self, values: dict[str, float], step: int) -> None:
        self._log(values, step)
        self._memory["step"] = max(step, self._memory["step"])
        write_json(self._path, self._memory)

    def close(self) -> None:
        """Ends the run."""
        self._attempt(self._end)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # any error of the package, of its server, or of the disk
            tqdm.write(
                f"track={self._name}: {one_line(error)}. Training continues without this tracker"
            )
            self._log, self._end = _ignore, _ignore


def _ignore(*_: object) -> None:
    pass


def _wandb(wandb: Any, directory: Path, identity: str) -> _Tracker:
    """Starts or resumes a run of Weights & Biases."""
    run = wandb.init(
        project=PROJECT,
        group=directory.parent.name,
        name=directory.name,
        id=identity,
        resume="allow",
        dir=directory,
        config=_settings(directory),
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True),
    )
    return lambda values, step: run.log(values, step=step), run.finish


def _mlflow(mlflow: Any, directory: Path, identity: str) -> _Tracker:
    """Starts or resumes a run of MLflow."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    client, key = mlflow.MlflowClient(), f"{PROJECT}.stage"
    experiment = client.get_experiment_by_name(PROJECT)
    number = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
    found = client.search_runs([number], f"tags.`{key}` = '{identity}'")
    name = f"{directory.parent.name}/{directory.name}"
    tags = {key: identity}
    run = found[0] if found else client.create_run(number, run_name=name, tags=tags)
    run_id = run.info.run_id
    for setting, value in _settings(directory).items():
        client.log_param(run_id, setting, value)

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            client.log_metric(run_id, name, value, step=step)

    return log, lambda: client.set_terminated(run_id)


TRACKERS: Final[dict[str, Callable[[Any, Path, str], _Tracker]]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / run_directory.SETTINGS
    settings: dict[str, Any] = read_json(path) if path.is_file() else {}
    return settings
