"""Report of a classification run: report.md, and a figure if stages were scored at T = 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from snn_rl.chain import run_directory
from snn_rl.chain.records import ImageNotes, Score, read_invocations, stages_in
from snn_rl.chain.stages import Stage
from snn_rl.core.energy import FLOAT32, energy, memory_accesses, spikes
from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.files.atomic import write_text
from snn_rl.files.checkpoint import load_network
from snn_rl.images.chain import AT_ONE
from snn_rl.reports.markdown import block, page, table

_FIGURE = f"{run_directory.FIGURES}/vanishing.png"


@dataclass(frozen=True)
class _Scored:
    """Scored stage of a run.

    Attributes:
        stage: Stage.
        network: Network at the end of the stage.
        notes: Notes on the training.
        score: Score on the test images.
        at_one: Score of the weights of a stage with T > 1 at T = 1, if known.
    """

    stage: Stage
    network: Network
    notes: ImageNotes
    score: Score
    at_one: Score | None

    @cached_property
    def spikes(self) -> tuple[float, int]:
        """Spikes of all hidden neurons per image, and number of these neurons."""
        return spikes(self.network.spec, self.score.spike_rates)

    @property
    def timesteps(self) -> int:
        """T; 1 for an ANN."""
        return self.stage.timesteps or 1

    def result_cells(self) -> list[str]:
        """Returns the row of the table of results."""
        ratio = "-" if isinstance(self.network, SpikingNetwork) else "1"
        entering = self.score.input_rate
        if isinstance(self.network, SpikingNetwork) and (
            self.network.options.encoding == "direct" or entering is not None
        ):
            rates = self.score.spike_rates
            used = energy(self.network.spec, rates, FLOAT32, input_rate=entering)
            ratio = f"{used.ratio:.2f}"
        total, neurons = self.spikes
        return [
            self.stage.label,
            f"{self.score.accuracy:.2%}",
            str(self.notes.epochs),
            str(self.notes.updates or 0),
            f"{(self.notes.wall_s or 0) / 60:.0f}",
            f"{total / neurons:.3f}",
            ratio,
        ]

    def cost_cells(self) -> list[str]:
        """Returns the row of the table of time and memory."""
        total, _ = self.spikes
        T = self.timesteps
        spiking = [str(T), f"{total:.0f}", f"{total * T:.3g}"]
        return [
            self.stage.label,
            *(["-"] * 3 if self.stage.analog else spiking),
            _number(memory_accesses(self.network.spec, T), 1e6),
            _number(self.notes.seconds, 1e-3),
            _number(self.notes.memory, 2**20),
            _number(self.score.seconds, 1e-3),
            _number(self.score.memory, 2**20),
        ]


def write_report(directory: Path) -> Path:
    """Writes report.md of a run and returns its path.

    Args:
        directory: Directory of the run. Stages without a score are left out.
    """
    stages = [
        _read(stage, directory / stage.name)
        for stage in stages_in(directory, run_directory.METRICS)
        if (directory / stage.name / run_directory.NETWORK).exists()
    ]
    stages.sort(key=lambda s: (not s.stage.analog, -(s.stage.timesteps or 0), s.stage.name))
    invocations = read_invocations(directory)
    latest = invocations[-1]
    settings = latest.settings
    layers = stages[-1].network.spec.names()[:-1]
    rates = [[s.stage.label, *(f"{rate:.3f}" for rate in s.score.spike_rates)] for s in stages]
    versions = ", ".join(f"{key} {value}" for key, value in latest.versions.items())
    parts = [
        f"# {settings['net']} on {settings['dataset']}, seed {settings['seed']}",
        block("text", "\n".join(dict.fromkeys(entry.command for entry in invocations))),
        table(
            ["stage", "accuracy", "epochs", "updates", "minutes", "spikes / neuron", "energy"],
            [each.result_cells() for each in stages],
        ),
        f"Accuracy: last network of each stage, evaluated once on {_images(stages[-1].score)}. "
        "Energy: energy of the dense ANN divided by the stage's (MAC 4.6 pJ, AC 0.9 pJ). Under "
        "direct encoding, the first layer is analog; under Poisson encoding, its input spikes are "
        "counted. Every other layer needs one AC per synapse and spike that enters the layer. A "
        "spike that average pooling combines with its neighbors counts as a quarter, as in the "
        "papers. Spikes after max pooling are counted at the rate before the pooling, although up "
        "to four times as many arrive.",
        "## Spikes per neuron and image",
        "The row of the ANN is the fraction of its activations that are not zero.",
        table(["stage", *layers], rates),
        *_vanishing_section(directory, layers, stages),
        "## Time, memory, and energy-delay product",
        "Spikes: of all hidden neurons, per image. Energy-delay product: spikes times timesteps "
        "([STDB] section 7, where one spike is the unit of energy). Memory accesses: weights at "
        "every timestep and membranes between timesteps, per image ([IIR], Inference Efficiency). "
        "Times: per image, on the machine below, including the load of other processes. Memory: "
        "peak memory of the GPU, or of the whole process on a CPU.",
        table(
            [
                *("stage", "T", "spikes", "energy-delay product", "memory accesses (M)"),
                *("training ms", "training MiB", "inference ms", "inference MiB"),
            ],
            [each.cost_cells() for each in stages],
        ),
        "## Environment",
        f"{versions}; revision {latest.revision or 'unknown'}; {latest.machine} (latest command).",
    ]
    path = directory / run_directory.REPORT
    write_text(path, page(parts))
    return path


def _read(stage: Stage, directory: Path) -> _Scored:
    path, at_one = directory / run_directory.NETWORK, directory / AT_ONE
    network, notes = load_network(path)
    return _Scored(
        stage,
        network,
        ImageNotes.from_json(notes, path),
        Score.read(directory / run_directory.METRICS),
        Score.read(at_one) if at_one.exists() and not stage.analog else None,
    )


def _vanishing_section(
    directory: Path, layers: Sequence[str], stages: Sequence[_Scored]
) -> list[str]:
    """Returns the section about weights at fewer timesteps than they were trained for."""
    if all(each.at_one is None for each in stages):
        return []
    from snn_rl.reports import figures  # imports matplotlib

    scores: Mapping[str, Score] = {
        name: score
        for each in stages
        for name, score in (
            (each.stage.name, each.score),
            (f"{figures.AT_ONE}{each.stage.name}", each.at_one),
        )
        if score is not None and not each.stage.analog
    }
    rates = {name: score.spike_rates for name, score in scores.items()}
    figures.save(figures.rates_by_layer(layers, rates), directory / _FIGURE)
    rows = [
        [name, f"{score.accuracy:.2%}", *(f"{rate:.4f}" for rate in score.spike_rates)]
        for name, score in scores.items()
    ]
    return [
        "## Vanishing spikes",
        f"*{figures.AT_ONE}* a stage: the stage's weights and thresholds at one timestep, for "
        "which they were not trained ([IIR] Fig. 1d). Spikes per neuron and image.",
        table(["network", "accuracy", *layers], rows),
        f"![Spikes per neuron and image, layer by layer]({_FIGURE})",
    ]


def _images(score: Score) -> str:
    if score.test_is_train:
        return f"{score.images} TRAINING images, since the dataset has no test images"
    return f"{score.images} test images"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.4g}"
