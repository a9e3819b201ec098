"""TensorBoard log of a stage."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from snn_rl.files.atomic import make_directory


class EventLog(KVWriter):
    """Writer of a TensorBoard event file. A full disk stops the logging but not the training.

    TensorBoard's own writer re-raises errors of its thread in the training thread.

    Args:
        folder: Directory of the file.
    """

    def __init__(self, folder: Path):
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._path: Path | None = folder / name
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Appends the values of a step."""
        values = [
            Summary.Value(tag=key, simple_value=float(value))
            for key, value in sorted(key_values.items())
            if "tensorboard" not in key_excluded[key]
        ]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Does nothing, because the file is only open during a write."""

    def _append(self, event: Event) -> None:
        if self._path is None:
            return
        try:
            make_directory(self._path.parent)
            with self._path.open("ab") as file:
                RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            tqdm.write(
                f"cannot write {self._path}: {error.strerror}. Training continues without this "
                "TensorBoard log"
            )
            self._path = None
