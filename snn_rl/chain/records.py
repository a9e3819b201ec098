"""Records of a run: the contents of its JSON files and the metadata in its network files.

This is the only module that depends on the keys of these files. Functions that read them raise
UserError if a file is malformed.
"""

import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
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
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import check_settings, settings_of
from snn_rl.core.conversion import LayerReport
from snn_rl.core.energy import spikes
from snn_rl.core.networks import NetworkSpec
from snn_rl.files.archive import MAX_STATE
from snn_rl.files.atomic import read_json, write_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.utils.errors import DamagedFile, UserError, one_line

GREEDY, STICKY = "greedy", "sticky"
_LARGEST = 1e18  # largest absolute value of a number in a file
_PACKAGES = ("torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "hydra-core")
T = TypeVar("T")
# Stage settings that are not settings of a command, and settings that may be None
_STAGE_ONLY = {"bf16": bool, "source": str | None, "training_images": str, "workers": int}
_WITHOUT_EFFECT = ("iir.selection_games", "iir.selection_sticky_games", "pixel_max")


class Record:
    """Dataclass whose fields are the keys of a JSON object."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ()  # keys that are omitted if their value is None

    @classmethod
    def from_json(cls, data: Any, source: Path) -> Self:
        """Builds the record from the parsed JSON of the file `source`; ignores unknown keys."""
        try:
            record: Self = _typed(cls, data)
        except ValueError as error:
            raise DamagedFile(f"{source} is damaged: {error}") from None
        return record

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the record from a JSON file."""
        return cls.from_json(read_json(path), path)

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON-compatible types."""
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
    """Converts parsed JSON to a type, in which objects become dataclasses."""
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
                raise ValueError(f"missing key {each.name!r}")
        return kind(**values)  # type: ignore[operator]
    plain = get_origin(kind) or kind
    accepted = (int, float) if plain is float else plain
    if plain is not Any and (
        not isinstance(data, accepted) or (isinstance(data, bool) and plain is not bool)
    ):
        raise ValueError(f"expected {plain.__name__}, got {str(data)[:40]}")
    if plain in (int, float) and not abs(data) <= _LARGEST:
        raise ValueError(f"expected a number of at most {_LARGEST:g}, got {str(data)[:40]}")
    if plain is list:
        return [_typed(get_args(kind)[0], each) for each in data]
    if plain is dict:
        return {key: _typed(get_args(kind)[1], each) for key, each in data.items()}
    return data


def _check_rows(rows: list[list[float]], length: int) -> None:
    if any(len(row) != length for row in rows):
        raise ValueError(f"expected rows of {length} numbers")


def _check_rates(rates: list[float]) -> None:
    if min(rates, default=0.0) < 0:
        raise ValueError("expected spike rates of at least 0")


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


# evaluations


@dataclass(frozen=True)
class Trials(Record):
    """Episodes of an evaluation; the seed of episode i is seed + i."""

    episodes: int  # number of episodes per column
    seed: int
    epsilon: float  # probability of a random action
    sticky: float  # sticky-action probability of the sticky column; 0 in the greedy column


@dataclass(frozen=True)
class Evaluation(Record):
    """Results of one column of an evaluation.

    Attributes:
        returns: Unclipped return of every episode.
        lengths: Length of every episode as reported by the Monitor wrapper (emulator frames on
            Atari).
        distinct: Number of distinct action sequences.
        capped: Number of episodes that ended at the step limit.
        spike_rates: Spikes per neuron and decision of every hidden layer. For an ANN, the fraction
            of non-zero activations.
        agreement: Fraction of decisions that match the ANN's, sampled at the same steps as the
            spike rates; None without an ANN.
    """

    returns: list[float]
    lengths: list[int]
    distinct: int
    capped: int
    spike_rates: list[float]
    agreement: float | None = None

    def __post_init__(self) -> None:
        if not self.returns or len(self.lengths) != len(self.returns):
            raise ValueError("expected the return and the length of at least one episode")
        _check_rates(self.spike_rates)

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
        """Sample standard deviation of the returns (n - 1)."""
        return float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else 0.0

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap confidence interval of the mean return (10,000 draws, fixed seed)."""
        rng = np.random.default_rng(0)
        draws = rng.choice(self.returns, (10_000, len(self.returns))).mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Returns the results and their statistics as JSON-compatible types."""
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
        """Results keyed by column."""
        return {GREEDY: self.greedy, STICKY: self.sticky}


@dataclass(frozen=True, kw_only=True)
class StageEvaluation(Columns):
    """Evaluation of one stage. Stored in metrics.json, and for an ANN also in evaluation.json."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ("steps", "updates", "wall_s", "network")

    evaluation: Trials
    steps: int | None = None  # agent steps of training
    updates: int | None = None  # gradient steps of training
    wall_s: float | None = None  # training time in seconds
    network: str | None = None  # SHA-256 of the network file, in evaluation.json


@dataclass(frozen=True, kw_only=True)
class Comparison(StageEvaluation):
    """Evaluations of a spiking agent and its ANN: evaluation.json."""

    OPTIONAL = (*StageEvaluation.OPTIONAL, "work")

    env: str
    run: str  # directory of the run
    stage: str
    cap: int  # agent steps at which an episode is cut off
    layers: list[str]  # names of the hidden layers
    ann: Columns
    # Ratio of the ANN's energy to the agent's, keyed by number format (float32, int32, ...); None
    # unless the encoding is direct
    energy: dict[str, float] | None
    work: dict[str, float] | None = None  # operations of the event-driven engine per decision


@dataclass(frozen=True)
class Score(Record):
    """Accuracy of an image classifier: metrics.json.

    For an ANN, the spike rates are the fractions of non-zero activations.
    """

    accuracy: float  # fraction of correctly classified images (top-1)
    images: int
    spike_rates: list[float]  # spikes per neuron and image of every hidden layer
    input_rate: float | None = None  # expected input spikes per pixel value and image (Poisson)
    seconds: float | None = None  # time per image, including reading the image
    memory: int | None = None  # peak memory in bytes, see `PeakMemory`
    test_is_train: bool = False  # the images are training images, see `Dataset.test_is_train`
    test_images: str | None = None  # fingerprint of the images; None in older files

    def __post_init__(self) -> None:
        _check_rates(self.spike_rates)


def read_trials(path: Path) -> Trials:
    """Returns the evaluation episodes recorded in a metrics.json or evaluation.json."""
    data = read_json(path)
    return Trials.from_json(data.get("evaluation") if isinstance(data, dict) else data, path)


def read_metrics(directory: Path) -> StageEvaluation | Score | None:
    """Returns the metrics.json of a stage, or None if the stage has not been evaluated."""
    path = directory / run_directory.METRICS
    if not path.exists():
        return None
    data = read_json(path)
    kind = Score if isinstance(data, dict) and "accuracy" in data else StageEvaluation
    return kind.from_json(data, path)


def unless_damaged(read: Callable[[], T]) -> T | None:
    """Returns the result of reading a file that is not required; None if the file is damaged."""
    try:
        return read()
    except DamagedFile as error:
        print(f"{error}: ignoring the file")
        return None


@dataclass(frozen=True)
class Game(Record):
    """Episode in the game.json of a shipped agent."""

    seed: int
    decisions: int
    score: float  # the key "return"

    @classmethod
    def from_json(cls, data: Any, source: Path) -> Self:
        """Builds the record from the parsed JSON of the file `source`; ignores unknown keys."""
        if isinstance(data, dict) and "return" in data:
            data = {**data, "score": data["return"]}
        return super().from_json(data, source)


# training


@dataclass
class Counters(Record):
    """Progress of an agent's stage, stored with its checkpoint."""

    segment: int = 0  # number of finished segments
    steps: int = 0  # agent steps
    updates: int = 0  # gradient steps
    rows: int = 0  # replay rows since the start of the chain
    # vectorized-environment steps; determines when the target network is updated
    calls: int = 0
    wall_s: float = 0.0  # seconds of the finished segments
    episodes: list[list[float]] = field(default_factory=list)  # [step, return, length]
    scores: list[list[float]] = field(default_factory=list)  # [step, mean return] of checkpoints

    def __post_init__(self) -> None:
        if min(self.segment, self.steps, self.updates, self.rows, self.calls) < 0:
            raise ValueError("expected counters of at least 0")
        _check_rows(self.episodes, 3)
        _check_rows(self.scores, 2)


def read_counters(directory: Path) -> Counters | None:
    """Returns the progress of a stage, or None if the stage has not started."""
    path = directory / run_directory.STATE
    if not path.exists():
        return None
    return Counters.from_json(load_tensors(path, MAX_STATE)[1].get("counters"), path)


@dataclass(frozen=True)
class SelectionGames(Record):
    """One set of evaluation episodes used to select a stage's checkpoint."""

    games: int  # number of episodes
    sticky: float  # sticky-action probability


@dataclass(frozen=True, kw_only=True)
class AgentNotes(Record):
    """Training metadata stored in the agent's network file."""

    OPTIONAL = ("layers", "selection")

    env: str
    seed: int
    stage: str
    layers: list[LayerReport] | None = None  # at the end of the stage; None for an ANN
    steps: int
    updates: int
    wall_s: float
    scores: list[list[float]] = field(default_factory=list)  # see `Counters`
    selection: list[SelectionGames] | None = None  # evaluation episodes behind the scores

    def __post_init__(self) -> None:
        _check_rows(self.scores, 2)


def read_notes(path: Path) -> AgentNotes:
    """Returns the training metadata in an agent's network file."""
    return AgentNotes.from_json(load_tensors(path)[1], path)


@dataclass(frozen=True, kw_only=True)
class ImageNotes(Record):
    """Training metadata stored in a classifier's network file.

    If the stage was not trained, all fields after `epochs` except `layers` are None.
    """

    OPTIONAL = ("updates", "wall_s", "history", "memory", "images", "layers")

    dataset: str
    net: str
    stage: str
    seed: int
    epochs: int
    updates: int | None = None
    wall_s: float | None = None
    history: list[dict[str, Any]] | None = None  # results of every epoch; a loss may be NaN
    memory: int | None = None  # peak memory in bytes, see `PeakMemory`
    images: int | None = None  # number of images over all epochs
    layers: list[LayerReport] | None = None  # at the end of the stage; None for an ANN

    @property
    def seconds(self) -> float | None:
        """Training time per image and epoch in seconds, if known."""
        return self.wall_s / self.images if self.wall_s is not None and self.images else None


# settings and commands


class Settings(dict[str, Any]):
    """Settings of a file, keyed by full name; a missing setting raises UserError."""

    def __init__(self, values: dict[str, Any], source: Path):
        super().__init__(values)
        self.source = source

    def __missing__(self, key: str) -> Any:
        raise DamagedFile(f"{self.source} is damaged: missing key {key!r}")


def _check_types(settings: dict[str, Any], source: Path) -> Settings:
    """Checks the type of every known setting, and returns the settings of a file."""
    schema = ClassifyConfig if "dataset" in settings else Config
    types = _STAGE_ONLY | {name: each.type for name, each in settings_of(schema).items()}
    for key, value in settings.items():
        if value is None and key in _WITHOUT_EFFECT:
            continue
        try:
            _typed(types.get(key, Any), value)
        except ValueError as error:
            raise DamagedFile(f"{source} is damaged: {key}: {error}") from None
    return Settings(settings, source)


def read_settings(directory: Path) -> Settings:
    """Returns the settings that a stage's result depends on, keyed by full name."""
    path = directory / run_directory.SETTINGS
    return settings_from(read_json(path), path)


def settings_from(settings: Any, path: Path) -> Settings:
    """Returns settings from a file, keyed by full name.

    Raises:
        DamagedFile: They are not an object, or a value has the wrong type.
    """
    if not isinstance(settings, dict):
        raise DamagedFile(f"{path} is damaged: expected a JSON object")
    return _check_types(settings, path)


def flat(section: str, config: Any) -> dict[str, Any]:
    """Returns the settings of a section, keyed by full name."""
    return {f"{section}.{key}": value for key, value in asdict(config).items()}


def section(settings: dict[str, Any], name: str, kind: type[T]) -> T:
    """Rebuilds a section from settings keyed by full name; the inverse of `flat`.

    Raises:
        UserError: A value has the wrong type or is out of range.
    """
    keys = {each.name: f"{name}.{each.name}" for each in fields(kind)}  # type: ignore[arg-type]
    try:
        values = {own: settings[key] for own, key in keys.items() if key in settings}
        config: T = _typed(kind, values)
    except ValueError as error:
        raise UserError(f"invalid setting {name}.{error}") from None
    check_settings(config)
    return config


def is_done(directory: Path) -> bool:
    """Returns True if the stage in a directory has finished.

    Raises:
        UserError: The stage has finished, but its network or its settings are missing.
    """
    done = directory / run_directory.DONE
    if not done.exists():
        return False
    for file in (run_directory.NETWORK, run_directory.SETTINGS):
        if not (directory / file).exists():
            raise UserError(
                f"{directory / file} is missing, but the stage has finished: restore the file from "
                f"a backup, or delete {done} to compute the stage again"
            )
    return True


def replay_rows(directory: Path) -> int:
    """Returns the number of replay rows at the end of a finished stage, which later stages need."""
    try:
        counters = read_counters(directory)
        lost = f"{directory / run_directory.STATE} is missing"
    except DamagedFile as error:
        counters, lost = None, str(error)
    if counters is None:
        raise UserError(
            f"{lost}, but the next stage needs it: restore the file from a backup, or delete "
            f"{directory / run_directory.DONE} to compute the stage again"
        )
    return counters.rows


def mark_done(directory: Path) -> None:
    """Marks the stage in a directory as finished."""
    write_json(directory / run_directory.DONE, {"stage": directory.name})


@dataclass(frozen=True)
class Invocation(Record):
    """Command that was run on a run directory: an entry of run.json."""

    command: str
    revision: str | None  # Git revision of the code
    time: str  # start time in UTC, ISO 8601
    machine: str = ""  # architecture and number of threads
    versions: dict[str, str] = field(default_factory=dict)  # Python and the main packages
    settings: dict[str, Any] = field(default_factory=dict)  # resolved, nested by section

    def __post_init__(self) -> None:
        shlex.split(self.command)  # raises ValueError

    @classmethod
    def current(cls, config: Any, launcher: str = "python -m") -> "Invocation":
        """Describes this process; `launcher` is the command prefix before the module name."""
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
    """Returns the commands that were run on a run directory, oldest first."""
    path = directory / run_directory.RUN
    data = read_json(path)
    if not isinstance(data, list) or not data:
        raise DamagedFile(f"{path} is damaged: expected a list of commands")
    entries = [Invocation.from_json(entry, path) for entry in data]
    return [replace(each, settings=_check_types(each.settings, path)) for each in entries]


def write_invocations(directory: Path, invocations: Iterable[Invocation]) -> None:
    """Writes the commands that were run on a run directory."""
    write_json(directory / run_directory.RUN, [entry.to_json() for entry in invocations])


def record_invocation(directory: Path, config: Any, launcher: str = "python -m") -> None:
    """Adds this process to the commands of a run directory, see `Invocation.current`.

    Prints a note if the last command ran with other versions of Python or of the packages.
    """
    path, before = directory / run_directory.RUN, None
    if path.exists() and (before := unless_damaged(lambda: read_invocations(directory))) is None:
        damaged = path.rename(path.with_suffix(".damaged.json"))  # no run depends on its commands
        print(one_line(f"{path} was renamed to {damaged.name}"))
    now = Invocation.current(config, launcher)
    if before:
        old = before[-1].versions
        changes = [f"{k} {old[k]}, now {v}" for k, v in now.versions.items() if old.get(k, v) != v]
        if changes:
            made = f"{directory} was made with {'; '.join(changes)}"
            print(one_line(f"note: {made}. Results may differ"))
    write_invocations(directory, [*(before or []), now])


def _revision() -> str | None:
    """Returns the Git revision of the code, or None if the code is not part of a repository."""
    tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        # a package installed in an environment inside another repository is not tracked there
        _, done = [
            subprocess.run(
                command,
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
            for command in (tracked, describe)
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@dataclass(frozen=True)
class RecordedStage:
    """Stage of a run."""

    stage: Stage
    settings: dict[str, Any]  # settings that the result depends on, keyed by full name

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


# an agent's run


@dataclass(frozen=True)
class StageResult(RecordedStage):
    """Contents of the files of one stage."""

    counters: Counters | None  # None if the stage was not trained
    metrics: StageEvaluation | None  # None until the stage has been evaluated
    notes: AgentNotes | None  # None until training has finished
    network: NetworkSpec | None  # None until training has finished

    @property
    def evaluation(self) -> StageEvaluation:
        """Evaluation of the stage, which must have been evaluated."""
        assert self.metrics is not None
        return self.metrics

    @property
    def spec(self) -> NetworkSpec:
        """Description of the network of a finished stage."""
        assert self.network is not None
        return self.network

    @property
    def rates(self) -> list[float]:
        """Spikes per neuron and decision of every hidden layer in the greedy episodes."""
        return self.evaluation.greedy.spike_rates

    @property
    def mean_rate(self) -> float:
        """Mean spikes per neuron and decision over all hidden neurons."""
        total, neurons = spikes(self.spec, self.rates)
        return total / neurons

    @property
    def selection(self) -> list[SelectionGames]:
        """Evaluation episodes behind the scores of the stage's checkpoints."""
        if self.notes is not None and self.notes.selection is not None:
            return self.notes.selection
        # older runs store these numbers only in their settings
        played = self.settings["dqn.selection_games"], self.settings["rollout.sticky"]
        return [SelectionGames(*played)]


def read_stages(directory: Path) -> list[StageResult]:
    """Reads the stages of an agent's run, sorted by `Stage.order`."""
    return [_read_stage(stage, directory / stage.name) for stage in _complete_stages(directory)]


def stages_in(directory: Path, *files: str) -> list[Stage]:
    """Returns the stages of a run, sorted by `Stage.order`.

    The directory of each stage contains at least one of the files, by default the settings or the
    marker of a finished stage.
    """
    files = files or (run_directory.SETTINGS, run_directory.DONE)
    names = {path.parent.name for file in files for path in directory.glob(f"*/{file}")}
    found = (Stage.find(name) for name in names)
    return sorted((stage for stage in found if stage), key=lambda stage: stage.order)


def _complete_stages(directory: Path) -> list[Stage]:
    """Returns the stages of a run; prints and leaves out finished stages that lack files."""
    found = []
    for stage in stages_in(directory):
        try:
            is_done(directory / stage.name)
        except UserError as error:
            print(f"{error}. Leaving out the stage")
        else:
            found.append(stage)
    return found


def finished(stages: Iterable[StageResult]) -> list[StageResult]:
    """Returns the stages that have a network and an evaluation."""
    return [stage for stage in stages if stage.metrics and stage.notes]


def _read_stage(stage: Stage, directory: Path) -> StageResult:
    metrics = read_metrics(directory)
    path = directory / run_directory.NETWORK
    if isinstance(metrics, Score):
        raise UserError(
            f"{directory}: expected a stage of an agent, got a stage of an image classifier"
        )
    notes = spec = None
    if path.exists():
        meta = load_tensors(path)[1]
        notes, spec = AgentNotes.from_json(meta, path), _spec(meta, path)
        for column in metrics.columns.values() if metrics else ():
            check_layers(column.spike_rates, spec, directory / run_directory.METRICS)
    counters = unless_damaged(lambda: read_counters(directory))
    return StageResult(stage, read_settings(directory), counters, metrics, notes, spec)


def _spec(meta: dict[str, Any], path: Path) -> NetworkSpec:
    """Returns the description in the notes of a network file."""
    network = meta.get("network")
    try:
        return NetworkSpec.from_dict(network["spec"] if isinstance(network, dict) else {})
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"{path} is damaged: {error}") from None


def check_layers(rates: Sequence[float], spec: NetworkSpec, path: Path) -> None:
    """Checks that a file has the spike rate of every hidden layer."""
    layers = len(spec.names()) - 1
    if len(rates) != layers:
        raise DamagedFile(f"{path} is damaged: expected {layers} spike rates, got {len(rates)}")


# a classifier's run


@dataclass(frozen=True)
class ImageResult(RecordedStage):
    """Contents of the files of one scored stage of a classification run."""

    directory: Path  # directory of the stage
    score: Score  # score on the test images

    @property
    def network(self) -> Path:
        """Path of the network file."""
        return self.directory / run_directory.NETWORK

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return load_tensors(self.network)[1]

    @property
    def notes(self) -> ImageNotes:
        """Training metadata; raises UserError if the network file is missing or malformed."""
        return ImageNotes.from_json(self._meta, self.network)

    @property
    def spec(self) -> NetworkSpec:
        """Description of the network."""
        spec = _spec(self._meta, self.network)
        check_layers(self.score.spike_rates, spec, self.directory / run_directory.METRICS)
        return spec

    @property
    def spikes(self) -> tuple[float, int]:
        """Spikes of all hidden neurons per image, and the number of hidden neurons."""
        return spikes(self.spec, self.score.spike_rates)


def read_image_stages(directory: Path) -> list[ImageResult]:
    """Reads the scored stages of a classification run, sorted by `Stage.order`."""
    found = []
    for stage in _complete_stages(directory):
        path = directory / stage.name
        score = read_metrics(path)
        if isinstance(score, Score):
            found.append(ImageResult(stage, read_settings(path), path, score))
    return found
