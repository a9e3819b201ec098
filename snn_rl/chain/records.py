"""Records of a run: the contents of its JSON files and the notes in its networks' files.

No other module knows the keys of these files. A reader raises UserError for a malformed file.
"""

import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin

import numpy as np
import torch

from snn_rl import __version__
from snn_rl.chain import run_directory
from snn_rl.chain.stages import Stage
from snn_rl.core.conversion import LayerReport
from snn_rl.core.energy import spikes
from snn_rl.core.networks import NetworkSpec
from snn_rl.files.atomic import read_json, write_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.utils.errors import UserError

GREEDY, STICKY = "greedy", "sticky"
_PACKAGES = ("torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "hydra-core")
T = TypeVar("T")


class Record:
    """Dataclass whose fields are the keys of a JSON object.

    Attributes:
        OPTIONAL: Keys that are not written if their value is None.
    """

    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_json(cls, data: Any, source: Path) -> Self:
        """Builds the record from parsed JSON and ignores unknown keys.

        Raises:
            UserError: A key is missing, or a value has another type. The message names `source`.
        """
        try:
            record: Self = _typed(cls, data)
        except ValueError as error:
            raise UserError(f"{source} is damaged: {error}") from None
        return record

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the record from a JSON file.

        Raises:
            UserError: The file is missing or malformed.
        """
        return cls.from_json(read_json(path), path)

    def to_json(self) -> dict[str, Any]:
        """Returns the record as plain JSON types."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {
            key: _plain(value)
            for key, value in values.items()
            if value is not None or key not in self.OPTIONAL
        }

    def write(self, path: Path) -> None:
        """Writes the record to a JSON file."""
        write_json(path, self.to_json())


def _typed(kind: Any, data: Any) -> Any:
    """Returns JSON data as a value of a type, with records built from their objects."""
    if isinstance(kind, UnionType):
        kinds = get_args(kind)
        return None if data is None and type(None) in kinds else _typed(kinds[0], data)
    if is_dataclass(kind):
        if not isinstance(data, dict):
            raise ValueError(f"expected a JSON object, got {str(data)[:40]}")
        values = {}
        for each in fields(kind):
            if each.name in data:
                try:
                    values[each.name] = _typed(each.type, data[each.name])
                except ValueError as error:
                    raise ValueError(f"{each.name}: {error}") from None
            elif each.default is MISSING and each.default_factory is MISSING:
                raise ValueError(f"it has no {each.name}")
        return kind(**values)  # type: ignore[operator]
    plain = get_origin(kind) or kind
    accepted = (int, float) if plain is float else plain
    if plain is not Any and (
        not isinstance(data, accepted) or (isinstance(data, bool) and plain is not bool)
    ):
        raise ValueError(f"{str(data)[:40]} is not of type {plain.__name__}")
    return [_typed(get_args(kind)[0], each) for each in data] if plain is list else data


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


# evaluations


@dataclass(frozen=True)
class Trials(Record):
    """Episodes of an evaluation; episode i has the seed `seed` + i."""

    episodes: int  # number of episodes of each column
    seed: int
    epsilon: float  # probability of a random action
    sticky: float  # sticky-action probability of the sticky column; 0 in the greedy column


@dataclass(frozen=True)
class Evaluation(Record):
    """Results of one column of an evaluation.

    Attributes:
        returns: Unclipped return of every episode.
        lengths: Steps of every episode, counted by its Monitor (emulator frames on Atari).
        distinct: Number of different episodes, compared action by action.
        capped: Number of episodes that ended at the step limit.
        spike_rates: Spikes per neuron and decision of every hidden layer. For an ANN, the fraction
            of non-zero activations.
        agreement: Fraction of decisions that equal the ANN's, sampled like the spike rates; None
            without an ANN.
    """

    returns: list[float]
    lengths: list[int]
    distinct: int
    capped: int
    spike_rates: list[float]
    agreement: float | None = None

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.returns)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns (n - 1)."""
        return float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else 0.0

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean by a bootstrap over the episodes (10,000 draws, fixed seed)."""
        rng = np.random.default_rng(0)
        draws = rng.choice(self.returns, (10_000, len(self.returns))).mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Returns the results and their statistics as plain JSON types."""
        return {
            **super().to_json(),
            "mean": self.mean,
            "std": self.std,
            "interval": list(self.interval),
            "episodes": self.episodes,
        }


@dataclass(frozen=True, kw_only=True)
class Columns(Record):
    """Greedy and sticky results of one network."""

    greedy: Evaluation
    sticky: Evaluation

    @property
    def columns(self) -> dict[str, Evaluation]:
        """Results by the name of the column."""
        return {GREEDY: self.greedy, STICKY: self.sticky}


@dataclass(frozen=True, kw_only=True)
class StageEvaluation(Columns):
    """Evaluation of an agent's stage: metrics.json, or evaluation.json of an ANN."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ("steps", "updates", "wall_s", "network")

    evaluation: Trials
    steps: int | None = None  # agent steps of the training
    updates: int | None = None  # gradient steps of the training
    wall_s: float | None = None  # seconds of the training
    network: str | None = None  # SHA-256 of the network's file, in evaluation.json


@dataclass(frozen=True, kw_only=True)
class Comparison(StageEvaluation):
    """Evaluation of a spiking agent beside its ANN: evaluation.json."""

    OPTIONAL = (*StageEvaluation.OPTIONAL, "work")

    env: str
    run: str  # directory of the run
    stage: str
    cap: int  # agent steps at which an episode is cut off
    layers: list[str]  # names of the hidden layers
    ann: Columns
    energy: dict[str, float] | None  # ANN / agent by arithmetic; None without direct encoding
    work: dict[str, float] | None = None  # operations of the event-driven engine per decision


@dataclass(frozen=True)
class Score(Record):
    """Accuracy of an image classifier: metrics.json.

    The spike rates of an ANN are its fractions of non-zero activations.
    """

    accuracy: float  # fraction of correctly classified images (top-1)
    images: int
    spike_rates: list[float]  # spikes per neuron and image of every hidden layer
    input_rate: float | None = None  # expected input spikes per pixel value and image (Poisson)
    seconds: float | None = None  # per image, including reading it
    memory: int | None = None  # peak in bytes, see `PeakMemory`
    test_is_train: bool = False  # the images are training images, see `Dataset.test_is_train`
    test_images: str | None = None  # fingerprint of the images; None in files of older versions


def read_trials(path: Path) -> Trials:
    """Returns the episodes of an evaluation in a metrics.json or evaluation.json.

    Raises:
        UserError: The file is missing or malformed.
    """
    data = read_json(path)
    return Trials.from_json(data.get("evaluation") if isinstance(data, dict) else data, path)


def read_metrics(directory: Path) -> StageEvaluation | Score | None:
    """Returns a stage's metrics.json; None before the evaluation.

    Raises:
        UserError: The file is malformed.
    """
    path = directory / run_directory.METRICS
    if not path.exists():
        return None
    data = read_json(path)
    kind = Score if isinstance(data, dict) and "accuracy" in data else StageEvaluation
    return kind.from_json(data, path)


# training


@dataclass
class Counters(Record):
    """Progress of an agent's stage, stored with its checkpoint."""

    segment: int = 0  # finished segments
    steps: int = 0  # agent steps
    updates: int = 0  # gradient steps
    rows: int = 0  # replay rows since the beginning of the chain
    calls: int = 0  # steps of the vectorized environment, which time the target's updates
    wall_s: float = 0.0  # seconds of the finished segments
    episodes: list[list[float]] = field(default_factory=list)  # [step, return, length]
    scores: list[list[float]] = field(default_factory=list)  # [step, mean return] of checkpoints


def read_counters(directory: Path) -> Counters | None:
    """Returns the progress of the stage in a directory; None if the stage has not started.

    Raises:
        UserError: The stage's checkpoint is damaged.
    """
    path = directory / run_directory.STATE
    if not path.exists():
        return None
    return Counters.from_json(load_tensors(path)[1].get("counters"), path)


@dataclass(frozen=True)
class SelectionGames(Record):
    """Episodes of one kind that select among a stage's checkpoints."""

    games: int  # number of episodes
    sticky: float  # sticky-action probability


@dataclass(frozen=True, kw_only=True)
class AgentNotes(Record):
    """Notes on an agent's training, in the file of its network."""

    OPTIONAL = ("layers", "selection")

    env: str
    seed: int
    stage: str
    layers: list[LayerReport] | None = None  # at the end of the stage; None for an ANN
    steps: int
    updates: int
    wall_s: float
    scores: list[list[float]] = field(default_factory=list)  # see `Counters`
    selection: list[SelectionGames] | None = None  # episodes that gave the scores


def read_notes(path: Path) -> AgentNotes:
    """Returns the notes in the file of an agent's network.

    Raises:
        UserError: The file is missing or damaged.
    """
    return AgentNotes.from_json(load_tensors(path)[1], path)


@dataclass(frozen=True, kw_only=True)
class ImageNotes(Record):
    """Notes on a classifier's training, in the file of its network.

    Without training, all values after `epochs` are None, except for the layers.
    """

    OPTIONAL = ("updates", "wall_s", "history", "memory", "images", "layers")

    dataset: str
    net: str
    stage: str
    seed: int
    epochs: int
    updates: int | None = None
    wall_s: float | None = None
    history: list[dict[str, float]] | None = None  # results of every epoch
    memory: int | None = None  # peak in bytes, see `PeakMemory`
    images: int | None = None  # number of images, counted in every epoch
    layers: list[LayerReport] | None = None  # at the end of the stage; None for an ANN

    @property
    def seconds(self) -> float | None:
        """Seconds of training per image and epoch, if known."""
        return self.wall_s / self.images if self.wall_s is not None and self.images else None


# settings and commands


def read_settings(directory: Path) -> dict[str, Any]:
    """Returns the settings that a stage's result depends on, by their full names.

    Raises:
        UserError: The file is missing or malformed.
    """
    path = directory / run_directory.SETTINGS
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path} is damaged: expected a JSON object")
    return settings


def flat(section: str, config: Any) -> dict[str, Any]:
    """Returns a section of the settings by their full names."""
    return {f"{section}.{key}": value for key, value in asdict(config).items()}


def section(settings: dict[str, Any], name: str, kind: type[T]) -> T:
    """Rebuilds a section of the settings from their full names; the inverse of `flat`."""
    keys = {each.name: f"{name}.{each.name}" for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{own: settings[key] for own, key in keys.items() if key in settings})


def is_done(directory: Path) -> bool:
    """Returns True if the stage in a directory is finished."""
    return (directory / run_directory.DONE).exists()


def mark_done(directory: Path) -> None:
    """Marks the stage in a directory as finished."""
    write_json(directory / run_directory.DONE, {"stage": directory.name})


@dataclass(frozen=True)
class Invocation(Record):
    """Command that worked on a run: an entry of run.json."""

    command: str
    revision: str | None  # Git revision of the code
    time: str  # start in UTC, ISO 8601
    machine: str = ""  # architecture and number of threads
    versions: dict[str, str] = field(default_factory=dict)  # Python and the main packages
    settings: dict[str, Any] = field(default_factory=dict)  # resolved, nested by section

    @classmethod
    def current(cls, config: Any, launcher: str = "python -m") -> "Invocation":
        """Describes this process.

        Args:
            config: Resolved settings, a dataclass.
            launcher: Words in front of the module's name.
        """
        path = Path(sys.argv[0])
        module = path.parent.name if path.stem == "__main__" else path.stem
        return cls(
            f"{launcher} snn_rl.{module} {shlex.join(sys.argv[1:])}".rstrip(),
            _revision(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            f"{platform.machine()}, {torch.get_num_threads()} threads",
            {
                "snn_rl": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in _PACKAGES},
            },
            asdict(config),
        )


def read_invocations(directory: Path) -> list[Invocation]:
    """Returns the commands that worked on a run, oldest first.

    Raises:
        UserError: The file is missing or malformed.
    """
    path = directory / run_directory.RUN
    data = read_json(path)
    if not isinstance(data, list) or not data:
        raise UserError(f"{path} is damaged: expected a list of commands")
    return [Invocation.from_json(entry, path) for entry in data]


def write_invocations(directory: Path, invocations: Iterable[Invocation]) -> None:
    """Writes the commands that worked on a run."""
    write_json(directory / run_directory.RUN, [entry.to_json() for entry in invocations])


def record_invocation(directory: Path, config: Any, launcher: str = "python -m") -> None:
    """Adds this process to the commands that worked on a run, see `Invocation.current`."""
    before = read_invocations(directory) if (directory / run_directory.RUN).exists() else []
    write_invocations(directory, [*before, Invocation.current(config, launcher)])


def _revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


# an agent's run


@dataclass(frozen=True)
class StageResult:
    """Files of a stage of an agent's run."""

    stage: Stage
    settings: dict[str, Any]  # settings that the result depends on, by their full names
    counters: Counters | None  # None if the stage was not trained
    metrics: StageEvaluation | None  # None before the evaluation
    notes: AgentNotes | None  # None before the end of the training, like the network
    network: NetworkSpec | None

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.stage.name

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.stage.label

    @property
    def analog(self) -> bool:
        """True for an ANN."""
        return self.stage.analog

    @property
    def evaluation(self) -> StageEvaluation:
        """Evaluation of an evaluated stage."""
        assert self.metrics is not None
        return self.metrics

    @property
    def spec(self) -> NetworkSpec:
        """Description of a finished stage's network."""
        assert self.network is not None
        return self.network

    @property
    def rates(self) -> list[float]:
        """Spikes per neuron and decision of every hidden layer in the greedy episodes."""
        return self.evaluation.greedy.spike_rates

    @property
    def mean_rate(self) -> float:
        """Spikes per neuron and decision over all hidden neurons."""
        total, neurons = spikes(self.spec, self.rates)
        return total / neurons

    @property
    def selection(self) -> list[SelectionGames]:
        """Episodes that gave the scores of the stage's checkpoints."""
        if self.notes is not None and self.notes.selection is not None:
            return self.notes.selection
        # runs of older versions have these numbers in their settings only
        played = self.settings["dqn.selection_games"], self.settings["rollout.sticky"]
        return [SelectionGames(*played)]


def read_stages(directory: Path) -> list[StageResult]:
    """Reads the stages of an agent's run, sorted by `Stage.order`.

    Raises:
        UserError: A file of the run is malformed.
    """
    return [_read_stage(stage, directory / stage.name) for stage in stages_in(directory)]


def stages_in(directory: Path, file: str = run_directory.SETTINGS) -> list[Stage]:
    """Returns the stages of a run that have a file, sorted by `Stage.order`.

    Args:
        directory: Directory of the run.
        file: Name of the file.
    """
    found = (Stage.find(path.parent.name) for path in directory.glob(f"*/{file}"))
    return sorted((stage for stage in found if stage), key=lambda stage: stage.order)


def finished(stages: Iterable[StageResult]) -> list[StageResult]:
    """Returns the stages that have a network and an evaluation."""
    return [stage for stage in stages if stage.metrics and stage.notes]


def _read_stage(stage: Stage, directory: Path) -> StageResult:
    metrics = read_metrics(directory)
    path = directory / run_directory.NETWORK
    if isinstance(metrics, Score):
        raise UserError(f"{directory} is a stage of an image classifier, not of an agent")
    notes = spec = None
    if path.exists():
        meta = load_tensors(path)[1]
        notes, spec = (
            AgentNotes.from_json(meta, path),
            NetworkSpec.from_dict(meta["network"]["spec"]),
        )
    return StageResult(
        stage, read_settings(directory), read_counters(directory), metrics, notes, spec
    )


# a classifier's run


@dataclass(frozen=True)
class ImageResult:
    """Files of a scored stage of a classification run.

    Attributes:
        directory: Directory of the stage.
        stage: Stage.
        settings: Settings that the stage's result depends on, by their full names.
        score: Score on the test images.
    """

    directory: Path
    stage: Stage
    settings: dict[str, Any]
    score: Score

    @property
    def network(self) -> Path:
        """File of the network."""
        return self.directory / run_directory.NETWORK

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return load_tensors(self.network)[1]

    @property
    def notes(self) -> ImageNotes:
        """Notes on the training; raises UserError if the network's file is missing or malformed."""
        return ImageNotes.from_json(self._meta, self.network)

    @property
    def spec(self) -> NetworkSpec:
        """Description of the network; raises UserError like `notes`."""
        return NetworkSpec.from_dict(self._meta["network"]["spec"])

    @property
    def spikes(self) -> tuple[float, int]:
        """Spikes of all hidden neurons per image, and number of these neurons."""
        return spikes(self.spec, self.score.spike_rates)


def read_image_stages(directory: Path) -> list[ImageResult]:
    """Reads the scored stages of a classification run, sorted by `Stage.order`.

    Raises:
        UserError: A file of the run is malformed.
    """
    found = []
    for stage in stages_in(directory):
        path = directory / stage.name
        score = read_metrics(path)
        if isinstance(score, Score):
            found.append(ImageResult(path, stage, read_settings(path), score))
    return found
