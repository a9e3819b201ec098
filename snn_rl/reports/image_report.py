"""Report of a classification run: report.md, and a figure if stages were scored at T = 1."""

from collections.abc import Sequence
from pathlib import Path

from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    ImageResult,
    Score,
    check_layers,
    read_image_stages,
    read_invocations,
)
from snn_rl.core.energy import FLOAT32, energy, memory_accesses
from snn_rl.files.atomic import write_text
from snn_rl.images.chain import AT_ONE
from snn_rl.reports.markdown import block, escape, page, table
from snn_rl.reports.panels import AT_ONE_PREFIX
from snn_rl.utils.errors import UserError

_FIGURE = f"{run_directory.FIGURES}/vanishing.png"


def write_report(directory: Path) -> Path:
    """Writes report.md of a run and returns its path; stages without a score are left out."""
    stages = [each for each in read_image_stages(directory) if each.network.exists()]
    if not stages:
        raise UserError(f"{directory} has no scored stage of an image classifier")
    stages.sort(key=lambda s: (not s.stage.analog, -(s.stage.timesteps or 0), s.stage.name))
    invocations = read_invocations(directory)
    latest = invocations[-1]
    settings = latest.settings
    layers = stages[-1].spec.names()[:-1]
    rates = [[s.stage.label, *(f"{rate:.3f}" for rate in s.score.spike_rates)] for s in stages]
    versions = ", ".join(f"{key} {value}" for key, value in latest.versions.items())
    parts = [
        escape(f"# {settings['net']} on {settings['dataset']}, seed {settings['seed']}"),
        block("text", "\n".join(dict.fromkeys(entry.command for entry in invocations))),
        table(
            ["stage", "accuracy", "epochs", "gradient steps", "minutes", "spikes/neuron", "energy"],
            list(map(_result_cells, stages)),
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
            list(map(_cost_cells, stages)),
        ),
        "## Environment",
        escape(
            f"{versions}; revision {latest.revision or 'unknown'}; {latest.machine} "
            "(latest command)."
        ),
    ]
    path = directory / run_directory.REPORT
    write_text(path, page(parts))
    return path


def _result_cells(result: ImageResult) -> list[str]:
    """Returns the row of the table of results."""
    entering, ratio = result.score.input_rate, "1" if result.stage.analog else "-"
    if result.settings.get("iir.encoding") == "direct" or entering is not None:
        rates = result.score.spike_rates
        ratio = f"{energy(result.spec, rates, FLOAT32, input_rate=entering).ratio:.2f}"
    total, neurons = result.spikes
    return [
        result.stage.label,
        f"{result.score.accuracy:.2%}",
        str(result.notes.epochs),
        str(result.notes.updates or 0),
        f"{(result.notes.wall_s or 0) / 60:.0f}",
        f"{total / neurons:.3f}",
        ratio,
    ]


def _cost_cells(result: ImageResult) -> list[str]:
    """Returns the row of the table of time and memory."""
    (total, _), T = result.spikes, result.stage.timesteps or 1
    spiking = [str(T), f"{total:.0f}", f"{total * T:.3g}"]
    return [
        result.stage.label,
        *(["-"] * 3 if result.stage.analog else spiking),
        _number(memory_accesses(result.spec, T), 1e6),
        _number(result.notes.seconds, 1e-3),
        _number(result.notes.memory, 2**20),
        _number(result.score.seconds, 1e-3),
        _number(result.score.memory, 2**20),
    ]


def _vanishing_section(
    directory: Path, layers: Sequence[str], stages: Sequence[ImageResult]
) -> list[str]:
    """Returns the section about weights at fewer timesteps than they were trained for."""
    scores: dict[str, Score] = {}
    for result in (each for each in stages if not each.stage.analog):
        scores[result.stage.name] = result.score
        if (result.directory / AT_ONE).exists():
            at_one = Score.read(result.directory / AT_ONE)
            check_layers(at_one.spike_rates, result.spec, result.directory / AT_ONE)
            scores[f"{AT_ONE_PREFIX}{result.stage.name}"] = at_one
    examples = [name for name in scores if name.startswith(AT_ONE_PREFIX)]
    if not examples:
        return []
    from snn_rl.reports import figures  # imports matplotlib

    rates = {name: score.spike_rates for name, score in scores.items()}
    figures.save(figures.rates_by_layer(layers, rates), directory / _FIGURE)
    rows = [
        [name, f"{score.accuracy:.2%}", *(f"{rate:.4f}" for rate in score.spike_rates)]
        for name, score in scores.items()
    ]
    return [
        "## Vanishing spikes",
        f"*{examples[0]}* has the weights and thresholds of "
        f"{examples[0].removeprefix(AT_ONE_PREFIX)} at one timestep, for which they were not "
        "trained ([IIR] Fig. 1d). Spikes per neuron and image.",
        table(["network", "accuracy", *layers], rows),
        f"![Spikes per neuron and image, layer by layer]({_FIGURE})",
    ]


def _images(score: Score) -> str:
    if score.test_is_train:
        return f"{score.images} TRAINING images, since the dataset has no test images"
    return f"{score.images} test images"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.4g}"
