"""TensorBoard log of a stage."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from snn_rl.files.atomic import make_directory
from snn_rl.utils.errors import UserError

_FRAME = 16  # bytes around a record: its length and two checksums


class EventLog(KVWriter):
    """Writer of a TensorBoard event file. A full disk stops the logging but not the training.

    TensorBoard's own writer re-raises errors of its thread in the training thread, and starts a new
    file whenever a run is resumed.

    Args:
        folder: Directory of the file.
        name: Name of the log.
        until: Last step to keep in an existing file. A resumed run repeats the later steps.
    """

    def __init__(self, folder: Path, name: str = "1-training", until: int = -1):
        self._path: Path | None = folder / f"events.out.tfevents.{name}"
        self._attempt(lambda path: self._restart(path, until))

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Appends the values of a step."""
        values = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in sorted(numbers(key_values, key_excluded).items())
        ]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))

        def append(path: Path) -> None:
            with path.open("ab") as file:
                RecordWriter(file).write(event.SerializeToString())

        self._attempt(append)

    def close(self) -> None:
        """Does nothing, because the file is only open during a write."""

    def _restart(self, path: Path, until: int) -> None:
        """Removes later steps in place, because an open TensorBoard does not follow a new file."""
        make_directory(path.parent)
        end = 0
        if path.is_file():
            for record in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(record)
                if event.HasField("summary") and event.step > until:
                    break
                end += len(record) + _FRAME
        with path.open("ab") as file:
            file.truncate(end)
            if not end:
                head = Event(wall_time=time.time(), file_version="brain.Event:2")
                RecordWriter(file).write(head.SerializeToString())

    def _attempt(self, action: Callable[[Path], None]) -> None:
        if self._path is None:
            return
        try:
            action(self._path)
        except (OSError, UserError) as error:
            reason = error.__cause__ if isinstance(error, UserError) else error
            tqdm.write(
                f"cannot write {self._path}: {getattr(reason, 'strerror', error)}. Training "
                "continues without this TensorBoard log"
            )
            self._path = None


def numbers(
    key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]]
) -> dict[str, float]:
    """Returns the values of a step that are not excluded from TensorBoard.

    The arguments are those of `KVWriter.write`.
    """
    return {
        key: float(value)
        for key, value in key_values.items()
        if "tensorboard" not in key_excluded[key]
    }
