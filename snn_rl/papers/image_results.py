"""What the stages of classification runs left in their directories, and which belong together.

A stage often lies in another run than the ANN that it begins with (`ann=FILE`). Its settings have
the checksum of that file, and by it the ANN is found again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from snn_rl.chain import run_directory
from snn_rl.chain.records import ImageNotes, Score, read_invocations, read_metrics, read_settings
from snn_rl.chain.run_directory import SETTINGS
from snn_rl.chain.stages import ANN, SCRATCH, ChainOptions, Stage, schedule
from snn_rl.core.networks import NetworkSpec
from snn_rl.files.checkpoint import load_tensors
from snn_rl.reports.markdown import code, table

_CHAIN = [stage.name for stage in schedule(ChainOptions(T=1))]
_GRADUAL = {name: tuple(_CHAIN[:i]) for i, name in enumerate(_CHAIN)}  # all that lies before it
_DEPTHS = ("*", "*/*")  # where runs are looked for
# settings of an ANN that say on what machine it was trained, or which of several alike it is
_ALIKE = ("seed", "threads", "bf16", "workers")
# settings that an ANN and a spiking network trained from scratch have to share to be compared
_BUILT = ("dataset", "net", "batch_norm", "pooling", "clip", "pixels", "image_size", "limit")


@dataclass(frozen=True)
class Measured:
    """A scored stage of a classification run.

    Attributes:
        directory: Of the run.
        stage: Its name.
        settings: Its own, over those of the ANN before it.
        lineage: The stages that it comes from, the first one first.
        metrics: Its accuracy, from metrics.json.
        commands: Of the run's invocations, each once.
        revision: Of the software at the last of them.
        time: When that was.
    """

    directory: Path
    stage: str
    settings: dict[str, Any]
    lineage: tuple[str, ...]
    metrics: Score
    commands: tuple[str, ...]
    revision: str
    time: str

    @property
    def accuracy(self) -> float:
        """On the test images, in percent."""
        return 100 * self.metrics.accuracy

    @property
    def images(self) -> int:
        """How many test images."""
        return self.metrics.images

    @property
    def strays(self) -> bool:
        """Whether it is called as a stage of [IIR]'s chain, and comes by other stages."""
        return self.lineage != _GRADUAL.get(self.stage, self.lineage)

    @property
    def rank(self) -> tuple[int, bool, int]:
        """More training images come first, then the paper's chain, then more test images."""
        limit = self.settings.get("limit")
        return (-limit if limit else -(10**9), self.strays, -self.images)

    def alike(self, *besides: str) -> str:
        """What runs have in common that differ in their seeds, and in the machine, alone.

        Args:
            *besides: Other settings in which they may differ.
        """
        ignored = (*_ALIKE, *besides)
        return repr(sorted(item for item in self.settings.items() if item[0] not in ignored))

    @property
    def timesteps(self) -> int:
        """T; 0 for an ANN."""
        return int(self.settings.get("T") or 0)

    @property
    def epochs(self) -> int:
        """That the stage was trained for."""
        return int(self.settings.get("fit.epochs" if self.stage == ANN else "iir.epochs", 0))

    @property
    def network(self) -> Path:
        """The file of its network."""
        return self.directory / self.stage / run_directory.NETWORK

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return load_tensors(self.network)[1]

    @property
    def notes(self) -> ImageNotes:
        """Notes on its training.

        Raises:
            UserError: The network is not there, or damaged.
        """
        return ImageNotes.from_json(self._meta, self.network)

    @property
    def spec(self) -> NetworkSpec:
        """Of its network; raises as `notes` does."""
        return NetworkSpec.from_dict(self._meta["network"]["spec"])

    def has(self, wanted: Mapping[str, Any]) -> bool:
        """Whether it was made with these settings."""
        return all(self.settings.get(key) == value for key, value in wanted.items())


@dataclass(frozen=True)
class ImageNetwork:
    """ANNs that were trained alike but for the seed, and the spiking stages that belong to them.

    Attributes:
        name: Network and data set.
        analogs: The ANNs.
        stages: That begin with one of them, or with no ANN and the same layers and images.
    """

    name: str
    analogs: tuple[Measured, ...]
    stages: tuple[Measured, ...]


def read_measured(folder: Path) -> list[Measured]:
    """Every scored stage of the classification runs in a folder, or in a folder of that.

    Raises:
        UserError: A file of a run is damaged.
    """
    found = []
    scored = (
        path for depth in _DEPTHS for path in folder.glob(f"{depth}/*/{run_directory.METRICS}")
    )
    for path in sorted(scored):
        stage = path.parent
        metrics = read_metrics(stage)
        if not isinstance(metrics, Score) or metrics.test_is_train:
            continue
        if not (stage / SETTINGS).exists() or Stage.find(stage.name) is None:
            continue
        before = stage.parent / ANN
        ann = read_settings(before) if (before / SETTINGS).exists() else {}
        invocations = read_invocations(stage.parent)
        found.append(
            Measured(
                stage.parent,
                stage.name,
                {**ann, **read_settings(stage)},
                _lineage(stage),
                metrics,
                tuple(dict.fromkeys(entry.command for entry in invocations)),
                invocations[-1].revision or "unknown",
                invocations[-1].time,
            )
        )
    return found


def looked_in(folder: Path) -> str:
    """Says where `read_measured` looks."""
    return f"Runs are looked for in {' and '.join(code(f'{folder}/{depth}') for depth in _DEPTHS)}."


def _lineage(stage: Path) -> tuple[str, ...]:
    """The stages that a stage comes from, as far back as there are settings."""
    names: list[str] = []
    while (stage / SETTINGS).exists():
        source = read_settings(stage).get("source")
        if not source or source in names:
            break
        names.insert(0, source)
        stage = stage.parent / source
    return tuple(names)


def best(entries: Iterable[Measured]) -> list[Measured]:
    """Those with the most images, and of these the newest with its like: seeds of one another."""
    entries = list(entries)
    least = min((entry.rank for entry in entries), default=None)
    first = [entry for entry in entries if entry.rank == least]
    newest = max(first, key=lambda entry: entry.time, default=None)
    # every seed has an ANN of its own, which its run may have from a file
    return [entry for entry in first if newest and entry.alike(ANN) == newest.alike(ANN)]


def networks_of(measured: Sequence[Measured]) -> list[ImageNetwork]:
    """The spiking stages by the ANN that they begin with, ANNs of several seeds put together.

    Args:
        measured: From `read_measured`.
    """
    own = {entry.directory: entry for entry in measured if entry.stage == ANN}
    by_file = {
        run_directory.file_hash(str(e.network)): e for e in own.values() if e.network.exists()
    }

    def origin(entry: Measured) -> Measured | None:
        ann = own.get(entry.directory)
        while ann is not None and ann.settings.get("ann") in by_file:
            ann = by_file[ann.settings["ann"]]
        return ann

    groups: dict[str, tuple[list[Measured], list[Measured]]] = {}
    scratch = [entry for entry in measured if Stage.parse(entry.stage).kind == SCRATCH]
    for entry in measured:
        analog = None if entry in scratch else origin(entry)
        if analog is None:
            continue
        analogs, stages = groups.setdefault(analog.alike(), ([], []))
        if analog not in analogs:
            analogs.append(analog)
        if entry.stage != ANN:
            stages.append(entry)
    networks = []
    for analogs, stages in groups.values():
        built = {key: analogs[0].settings.get(key) for key in _BUILT}
        fitting = (entry for entry in scratch if entry.has(built))
        name = f"{built['net']} on {built['dataset']}"
        networks.append(ImageNetwork(name, tuple(analogs), (*stages, *fitting)))
    return networks


def run_table(entries: Sequence[Measured], target: Path) -> str:
    """A table of stages, numbered from 1, with their commands and revisions.

    Args:
        entries: The stages.
        target: Folder of the page that the table stands on.
    """
    rows = []
    for number, entry in enumerate(entries, start=1):
        settings = entry.settings
        rows.append(
            [
                f"[{number}: seed {settings['seed']}]"
                f"({run_directory.link(entry.directory, target)})",
                entry.stage,
                ", ".join(entry.lineage) or "-",
                f"{entry.accuracy:.2f}",
                str(entry.epochs),
                str(settings.get("limit") or "all"),
                str(entry.images),
                "<br>".join(map(code, entry.commands)),
                entry.revision,
            ]
        )
    head = ["run", "stage", "from", "accuracy", "epochs", "training images", "test images"]
    return table([*head, "commands", "revision"], rows, names=2)
