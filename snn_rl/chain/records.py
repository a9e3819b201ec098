"""What the stages of a run left in its directory: settings, training, evaluation."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snn_rl.chain import run_directory
from snn_rl.chain.runner import SETTINGS
from snn_rl.chain.stages import ANALOG, label
from snn_rl.core.energy import spikes
from snn_rl.core.networks import NetworkSpec
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.utils.errors import UserError

_KINDS = (
    *("", "-carried", "-exact", "-direct", "-direct-carried", "-direct-exact"),
    "-converted",
)
_STAGE = re.compile(rf"T(\d+)({'|'.join(_KINDS)})")


@dataclass
class Counters:
    """Where a stage stands.

    Attributes:
        segment: Segments finished.
        steps: Agent steps taken.
        updates: Gradient steps made.
        rows: Replay rows written since the chain began.
        calls: Vector-environment steps, which time the target network.
        wall_s: Seconds spent in finished segments.
        episodes: [step, return, length] of every finished episode.
        scores: [step, mean return] of every checkpoint that played for selection.
    """

    segment: int = 0
    steps: int = 0
    updates: int = 0
    rows: int = 0
    calls: int = 0
    wall_s: float = 0.0
    episodes: list[list[float]] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class StageResult:
    """What one stage left in its directory.

    Attributes:
        name: ann-pretrained, ann, T5, T1-direct, T100-converted, ...
        settings: settings.json, flat.
        counters: Where its training stands; None if it never trained.
        metrics: metrics.json; None before the evaluation.
        notes: What stands beside the network's weights; None before the end of its training.
    """

    name: str
    settings: dict[str, Any]
    counters: Counters | None
    metrics: dict[str, Any] | None
    notes: dict[str, Any] | None

    @property
    def label(self) -> str:
        """Its name in tables."""
        return label(self.name)

    @property
    def analog(self) -> bool:
        """Whether its network does not spike."""
        return self.name in ANALOG

    @property
    def spec(self) -> NetworkSpec:
        """Of its network, which must be finished."""
        assert self.notes is not None
        return NetworkSpec.from_dict(self.notes["network"]["spec"])

    @property
    def rates(self) -> list[float]:
        """Spikes per neuron and decision of every hidden layer in the greedy games.

        For the ANN: the fraction of non-zero activations.
        """
        assert self.metrics is not None
        return [float(rate) for rate in self.metrics[GREEDY]["spike_rates"]]

    @property
    def mean_rate(self) -> float:
        """Spikes per neuron and decision over all hidden neurons."""
        total, neurons = spikes(self.spec, self.rates)
        return total / neurons


def read_stages(directory: Path) -> list[StageResult]:
    """The stages of a run, in the chain's order: ANN, T5 ... T1, carried, exact, direct, converted.

    Raises:
        UserError: A file of the run is damaged.
    """
    found = [path.parent for path in directory.glob(f"*/{SETTINGS}") if is_stage(path.parent.name)]
    return [_read_stage(folder) for folder in sorted(found, key=lambda path: order(path.name))]


def is_stage(name: str) -> bool:
    """Whether a directory of this name holds a stage of an agent's chain."""
    return name in ANALOG or _STAGE.fullmatch(name) is not None


def order(name: str) -> tuple[int, int, str]:
    """Sorts stages by their names, in the chain's order; what is no agent's comes last."""
    if name in ANALOG:
        return -1, ANALOG.index(name), name
    match = _STAGE.fullmatch(name)
    if match is None:
        return len(_KINDS), 0, name
    return _KINDS.index(match[2]), -int(match[1]), name


def finished(stages: Iterable[StageResult]) -> list[StageResult]:
    """Those that have a network and an evaluation."""
    return [stage for stage in stages if stage.metrics and stage.notes]


def _read_stage(folder: Path) -> StageResult:
    metrics, network = folder / run_directory.METRICS, folder / run_directory.NETWORK
    return StageResult(
        folder.name,
        read_json(folder / SETTINGS),
        read_counters(folder),
        read_json(metrics) if metrics.exists() else None,
        load_tensors(network)[1] if network.exists() else None,
    )


STATE = "state.safetensors"


def read_counters(directory: Path) -> Counters | None:
    """Where the stage in this directory stands, or None if it has not begun.

    Raises:
        UserError: Its state is damaged.
    """
    path = directory / STATE
    if not path.exists():
        return None
    return counters_of(load_tensors(path)[1], path)


def counters_of(meta: dict[str, Any], path: Path) -> Counters:
    """Returns the counters that stand in a checkpoint's metadata."""
    try:
        return Counters(**meta["counters"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not the state of a stage ({error!r})") from None


GREEDY, STICKY = "greedy", "sticky"


@dataclass(frozen=True)
class Costs:
    """What a stage took, as far as it is known.

    Attributes:
        training: Seconds per image and epoch.
        training_memory: Bytes, see `snn_rl.utils.process_memory.PeakMemory`.
        inference: Seconds per image.
        inference_memory: Bytes.
    """

    training: float | None
    training_memory: int | None
    inference: float | None
    inference_memory: int | None


def costs(notes: Mapping[str, Any], metrics: Mapping[str, Any]) -> Costs:
    """What training and scoring a stage took.

    Args:
        notes: That stand beside its network.
        metrics: Its metrics.json.
    """
    training = notes["wall_s"] / notes["images"] if notes.get("images") else None
    return Costs(training, notes.get("memory"), metrics.get("seconds"), metrics.get("memory"))
