"""Recorded runs: reading and selecting them, and the commands that make missing ones."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from snn_rl.chain import records, run_directory
from snn_rl.chain.records import ImageResult, Invocation, Settings, StageResult
from snn_rl.chain.stages import ANN, PRETRAINED, SCRATCH, ChainOptions, Stage, schedule
from snn_rl.configs.compose import compose, parse
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.images.chain import stage_settings
from snn_rl.papers.page import Compared, RunRow, RunTable
from snn_rl.reports.markdown import Markdown, code, plain
from snn_rl.utils.errors import UserError

# agents


@dataclass(frozen=True)
class AgentRun:
    """Run of an agent with its finished stages, by name.

    The training episodes of a fine-tuned ANN start with those before fine-tuning.
    """

    seed: int
    directory: Path
    invocations: list[Invocation]
    stages: dict[str, StageResult]


def read_agents(folder: Path, env: str) -> list[AgentRun]:
    """Reads the runs of an environment, <folder>/<env>/seed<k>, sorted by their seeds."""
    found = []
    for path in (folder / env).glob(f"seed*/{run_directory.RUN}"):
        directory = path.parent
        seed = directory.name.removeprefix("seed")
        if seed.isdecimal():
            stages = {s.name: s for s in records.finished(records.read_stages(directory))}
            if PRETRAINED in stages and ANN in stages:
                stages[ANN] = _with_pretraining(stages[PRETRAINED], stages[ANN])
            invocations = records.read_invocations(directory)
            found.append(AgentRun(int(seed), directory, invocations, stages))
    if len({tuple(stage.spec.names()) for run in found for stage in run.stages.values()}) > 1:
        raise UserError(
            f"the runs in {folder / env} have networks with different layers, which cannot be "
            "shown in one figure: move some of them to another folder"
        )
    return sorted(found, key=lambda run: run.seed)


def _with_pretraining(pretrained: StageResult, ann: StageResult) -> StageResult:
    if pretrained.counters is None or ann.counters is None:
        return ann
    first = pretrained.counters
    then = [[first.steps + step, *rest] for step, *rest in ann.counters.episodes]
    return replace(ann, counters=replace(ann.counters, episodes=[*first.episodes, *then]))


# image classification

_CHAIN = [stage.name for stage in schedule(ChainOptions(T=1))]
_SOURCES = {name: tuple(_CHAIN[:i]) for i, name in enumerate(_CHAIN)}  # in [IIR]'s chain
_composed = cache(compose)
_DEPTHS = ("*", "*/*")  # where runs are searched
# settings in which otherwise equal ANNs may differ
_INCIDENTAL = ("seed", "threads", "bf16", "workers")
# settings of a conversion, besides the ANN and T
CONVERSION = (
    *("iir.thresholds", "iir.percentile", "iir.percentile_over", "iir.threshold_scale"),
    *("iir.block_thresholds", "iir.conversion_samples", "iir.conversion_timesteps"),
    *("iir.thresholds_from", "limit"),  # the samples are training images
)
# settings that an ANN and a network trained from scratch share if they are comparable
_BUILT = ("dataset", "net", "batch_norm", "pooling", "clip", "pixels", "image_size", "limit")


@dataclass(frozen=True)
class ScoredStage(ImageResult):
    """Scored stage of a classification run.

    Its settings include the settings of the run's ANN. Its lineage has the names of the stages that
    led to the stage, starting with the first.
    """

    lineage: tuple[str, ...]
    invocations: list[Invocation]

    @property
    def run(self) -> Path:
        """Directory of the run."""
        return self.directory.parent

    @property
    def timesteps(self) -> int:
        """T; 0 for an ANN."""
        return self.stage.timesteps or 0

    @property
    def accuracy(self) -> float:
        """Accuracy in percent."""
        return 100 * self.score.accuracy

    @property
    def own_chain(self) -> bool:
        """True for a stage with the name, but not the sources, of a stage in [IIR]'s chain."""
        return self.lineage != _SOURCES.get(self.name, self.lineage)

    @property
    def epochs(self) -> int:
        """Training epochs of the stage."""
        return int(self.settings.get("fit.epochs" if self.stage.analog else "iir.epochs", 0))

    def has(self, wanted: Mapping[str, Any]) -> bool:
        """Returns True if the stage was made with these settings."""
        return all(self.settings.get(key) == value for key, value in wanted.items())

    def group(self, *besides: str) -> str:
        """Returns a key that stages share if they differ only in their seeds and machines.

        `besides` names other settings in which the stages may differ.
        """
        ignored = (*_INCIDENTAL, *besides)
        return repr(sorted(item for item in self.settings.items() if item[0] not in ignored))


@dataclass(frozen=True)
class ImageNetwork:
    """ANNs of several seeds with the same settings, and the spiking stages that belong to them."""

    name: str  # network and dataset
    analogs: Sequence[ScoredStage]  # ANNs
    # stages that started from one of the ANNs, or without an ANN with the same layers and images
    stages: Sequence[ScoredStage]


def read_images(folder: Path) -> list[ScoredStage]:
    """Reads every scored stage of the classification runs in <folder>/* and <folder>/*/*.

    Stages that were scored on training images are left out.
    """
    found = []
    runs = (
        path.parent for depth in _DEPTHS for path in folder.glob(f"{depth}/{run_directory.RUN}")
    )
    for run in sorted(runs):
        invocations = records.read_invocations(run)
        for result in records.read_image_stages(run):
            path, score = result.directory, result.score
            if not score.test_is_train:
                settings = Settings(_settings(run / ANN) | result.settings, path)
                own = (result.stage, settings, path, score)
                found.append(ScoredStage(*own, _lineage(path), invocations))
    return found


def _settings(stage: Path) -> dict[str, Any]:
    exist = (stage / run_directory.SETTINGS).exists()
    return records.read_settings(stage) if exist else {}


def _lineage(stage: Path) -> tuple[str, ...]:
    """Returns the sources of a stage, as far back as there are settings."""
    names: list[str] = []
    folders = {path.name for path in stage.parent.iterdir()}
    while (source := _settings(stage).get("source")) and source not in names:
        names.insert(0, source)
        if source not in folders:
            break
        stage = stage.parent / source
    return tuple(names)


def best(entries: Iterable[ScoredStage]) -> list[ScoredStage]:
    """Returns the best of several stages: the newest group that differs only in its seeds.

    More training images come first, then the stages of [IIR]'s chain, then more test images.
    """
    ranked: dict[tuple[float, bool, int], list[ScoredStage]] = {}
    for entry in entries:
        limit = entry.settings.get("limit") or float("inf")
        ranked.setdefault((-limit, entry.own_chain, -entry.score.images), []).append(entry)
    first = ranked[min(ranked)] if ranked else []
    newest = max(first, key=lambda entry: entry.invocations[-1].time, default=None)
    # every seed has its own ANN, which a run may have imported from a file
    return [entry for entry in first if newest and entry.group(ANN) == newest.group(ANN)]


def anns_of(scored: Sequence[ScoredStage]) -> dict[Path, ScoredStage]:
    """Returns the ANN that each stage started from, by the stage's directory.

    A stage often lies in another run than its ANN, which was then imported with ann=FILE. The
    checksum of that file in the settings identifies the ANN.
    """
    own = {entry.run: entry for entry in scored if entry.name == ANN}
    files = [entry for entry in own.values() if entry.network.exists()]
    by_file = {run_directory.file_hash(entry.network): entry for entry in files}
    found = {}
    for entry in scored:
        analog = None if entry.stage.kind == SCRATCH else own.get(entry.run)
        while analog is not None and analog.settings.get("ann") in by_file:
            analog = by_file[analog.settings["ann"]]
        if analog is not None:
            found[entry.directory] = analog
    return found


def networks_of(scored: Sequence[ScoredStage]) -> list[ImageNetwork]:
    """Groups spiking stages by the ANN that they started from, with its seeds in one group."""
    anns = anns_of(scored)
    scratch = [entry for entry in scored if entry.stage.kind == SCRATCH]
    groups: dict[str, tuple[list[ScoredStage], list[ScoredStage]]] = {}
    for entry in scored:
        if analog := anns.get(entry.directory):
            analogs, stages = groups.setdefault(analog.group(), ([], []))
            analogs += [analog] if analog not in analogs else []
            stages += [entry] if entry.name != ANN else []
    networks = []
    for analogs, stages in groups.values():
        built = {key: analogs[0].settings.get(key) for key in _BUILT}
        stages += [entry for entry in scratch if entry.has(built)]
        networks.append(ImageNetwork(f"{built['net']} on {built['dataset']}", analogs, stages))
    return networks


def decisive(stage: Stage, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the settings that affect a stage, without those of training for a conversion."""
    kept = (*CONVERSION, "iir.encoding")
    return {
        key: value
        for key, value in settings.items()
        if stage.trained or not key.startswith("iir.") or key in kept
    }


# Stages in a page by directory, in the order of their numbers in the table of runs, each with the
# settings that define the method of its cell or line
Used = dict[Path, tuple[ScoredStage, Mapping[str, Any]]]


def numbers(entries: Iterable[ScoredStage], used: Used) -> str:
    """Returns the numbers of stages in the table of runs, in brackets."""
    return f"[{', '.join(str([*used].index(entry.directory) + 1) for entry in entries)}]"


@dataclass(frozen=True)
class PaperSettings:
    """Settings of the classifiers in a paper."""

    preset: str
    nets: Sequence[str] = ()  # networks of a figure; () for a table, which names its networks
    datasets: Sequence[str] = ()  # datasets of a figure, see `nets`

    def compared(self, used: Used, scored: Sequence[ScoredStage]) -> list[Compared]:
        """Returns the settings of stages, and of their ANNs among `scored`, beside the paper's."""
        anns, compared = anns_of(scored), []
        for number, (entry, method) in enumerate(used.values(), start=1):
            analog = anns.get(entry.directory, entry)
            # the checksum of an ANN whose training is unknown
            ours = {**analog.settings, **entry.settings, "ann": analog.settings.get("ann")}
            words = [f"{key}={self._of(key, entry)}" for key in ("net", "dataset")]
            config = _composed(ClassifyConfig, (f"preset={self.preset}", *words))
            theirs = [stage_settings(config, "", each) for each in (Stage.parse(ANN), entry.stage)]
            paper = {**theirs[0], **theirs[1], **method}
            compared.append(Compared(str(number), decisive(entry.stage, ours), paper))
        return compared

    def _of(self, key: str, entry: ScoredStage) -> str:
        """Returns the entry's network or dataset, or the paper's first if the paper has others."""
        own: str = entry.settings[key]
        choices = self.nets if key == "net" else self.datasets
        return own if own in choices or not choices else choices[0]


def image_table(used: Used, folder: Path) -> RunTable:
    """Returns a page's table of runs, numbered from 1."""
    head = ["stage", "from", "accuracy", "epochs", "training images", "test images", "commands"]
    rows: list[RunRow] = []
    for number, (entry, _) in enumerate(used.values(), start=1):
        commands = dict.fromkeys(code(invocation.command) for invocation in entry.invocations)
        limit, images = entry.settings.get("limit") or "all", entry.score.images
        cells = [entry.name, ", ".join(entry.lineage) or "-", f"{entry.accuracy:.2f}"]
        cells += [str(entry.epochs), str(limit), str(images), Markdown("<br>".join(commands))]
        cells.append(entry.invocations[-1].revision or "unknown")
        rows.append((f"{number}: seed {entry.settings['seed']}", entry.run, cells))
    depths = " and ".join(code(f"{folder}/{depth}") for depth in _DEPTHS)
    return [*head, "revision"], rows, f"Runs are searched for in {depths}."


# commands

# settings of a recorded command that say which stages it makes, and where
_AGENT_IDENTITY = ("env", "T", "seed", "direct", "stages", "carry_state", "exact", "run_dir")
_IMAGE_IDENTITY = (
    *("dataset", "net", "preset", "T", "T_start", "T_step", "seed", "direct", "stages", "scratch"),
    *("prune", "ann", "run_dir", "runs"),
)
_FILES = ("data", "iir.thresholds_from")  # the settings of a stage have checksums instead


def given_settings(command: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings of one run in a recorded command, by their full names.

    A swept setting has the value in the settings of the run, and is left out if the run has none.
    """
    given = {}
    for word in shlex.split(command):
        key, equals, value = word.partition("=")
        key = key.lstrip("+")
        # options of Hydra's launcher would be errors without -m
        if not equals or key.startswith(("-", "hydra/", "hydra.")):
            continue
        if key in _FILES or not parse([word])[0].is_sweep_override():
            given[key] = value
        elif key in values:
            given[key] = plain(values[key])
    return given


def train_command(
    folder: Path, env: str, seed: int, invocations: Sequence[Invocation] = (), *words: str
) -> str:
    """Returns the command that trains a run to its end with the settings of its latest command."""
    said = [f"env={env}", *(words or ["T=1"]), *([f"seed={seed}"] if seed else [])]
    trainings = [each for each in invocations if " snn_rl.train " in f"{each.command} "]
    for latest in trainings[-1:]:
        values = dict(latest.settings)
        for section, group in latest.settings.items():
            if isinstance(group, dict):
                values |= {f"{section}.{name}": value for name, value in group.items()}
        given = given_settings(latest.command, values)
        said += [f"{key}={value}" for key, value in given.items() if key not in _AGENT_IDENTITY]
    if folder != Path(Config.runs):
        said.append(f"run_dir={folder / env / f'seed{seed}'}")
    return f"python -m snn_rl.train {shlex.join(said)}"


def stage_command(analog: ScoredStage, like: ScoredStage, words: str, run_dir: Path) -> str:
    """Returns the command of a stage after an ANN, with the other settings as for stage `like`."""
    flags = [word for word in words.split() if word.startswith("-")]
    said = [f"{key}={analog.settings[key]}" for key in ("dataset", "net")]
    said += [word for word in words.split() if word not in flags]
    if "scratch=true" not in said:
        said.append(f"ann={analog.network}")
    skipped = {*_IMAGE_IDENTITY, *(word.partition("=")[0] for word in said)}
    for key, value in given_settings(like.invocations[-1].command, like.settings).items():
        if key not in skipped and not key.startswith("fit."):  # the ANN exists
            said.append(f"{key}={value}")
    if analog.settings["seed"]:
        said.append(f"seed={analog.settings['seed']}")
    return f"python -m snn_rl.classify {shlex.join([*flags, *said, f'run_dir={run_dir}'])}"
