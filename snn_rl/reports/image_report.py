"""The report of a classification run, from what its stages left in their directories."""

from pathlib import Path

from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    ImageNotes,
    Score,
    costs,
    read_invocations,
    stages_in,
)
from snn_rl.chain.stages import Stage
from snn_rl.core.energy import FLOAT32, energy, memory_accesses, spikes
from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.files.atomic import write_text
from snn_rl.files.checkpoint import load_network
from snn_rl.images.chain import AT_ONE
from snn_rl.reports import figures
from snn_rl.reports.markdown import block, table


def write_report(directory: Path) -> Path:
    """Writes report.md of a run and returns its path.

    Args:
        directory: Of the run; stages that are not scored yet are left out.
    """
    rows, rates, taken, vanishing = [], [], [], {}
    for stage in stages_in(directory, run_directory.METRICS):
        folder = directory / stage.name
        path = folder / run_directory.NETWORK
        if not path.exists():
            continue
        network, meta = load_network(path)
        notes = ImageNotes.from_json(meta, path)
        score = Score.read(folder / run_directory.METRICS)
        rows.append(_row(stage, network, notes, score))
        taken.append(_costs(stage, network, notes, score))
        rates.append([stage.name, *(f"{rate:.3f}" for rate in score.spike_rates)])
        if isinstance(network, SpikingNetwork):
            vanishing[stage.name] = score
            if (folder / AT_ONE).exists():
                vanishing[f"T1 of {stage.name}"] = Score.read(folder / AT_ONE)
    invocations = read_invocations(directory)
    last = invocations[-1]
    settings = last.settings
    text = [
        f"# {settings['net']} on {settings['dataset']}, seed {settings['seed']}",
        block("text", "\n".join(dict.fromkeys(entry.command for entry in invocations))),
        table(
            ["stage", "accuracy", "epochs", "updates", "minutes", "spikes / neuron", "energy"],
            rows,
        ),
        f"Accuracy: of the last network of each stage on {_images(score)}, once; "
        "energy: how many times more the dense ANN needs (MAC 4.6 pJ, AC 0.9 pJ; under direct "
        "encoding the first layer analog, under Poisson encoding its input spikes counted; "
        "accumulations by the spikes that enter a layer, and of a spike that is averaged with its "
        "neighbours one quarter, as the papers count; behind max-pooling, too, at the rate in "
        "front of it, though up to four times as many spikes arrive).",
        "## Spikes per neuron and image\n\n"
        "Of the ANN: the fraction of activations that are not zero.\n\n"
        + table(["stage", *network.spec.names()[:-1]], rates),
        *_vanishing(directory, network.spec.names()[:-1], vanishing),
        "## Time, memory, and energy-delay product\n\n"
        "Spikes: of all hidden neurons, per image; energy-delay product: spikes times timesteps, "
        "after [STDB] section 7, where a spike is the unit of energy; memory accesses: weights at "
        "every timestep and membranes between them, per image ([IIR], Inference Efficiency); times "
        "per image, on the machine below and whatever else ran there; memory: the most in use, of "
        "the whole process where there is no GPU.\n\n"
        + table(
            [
                *("stage", "T", "spikes", "energy-delay product", "memory accesses (M)"),
                *("training ms", "training MiB", "inference ms", "inference MiB"),
            ],
            taken,
        ),
        "## Where it was run\n\n"
        + ", ".join(f"{key} {value}" for key, value in last.versions.items())
        + f"; revision {last.revision}; {last.machine} (the last command).",
    ]
    path = directory / run_directory.REPORT
    write_text(path, "\n\n".join(text) + "\n")
    return path


def _vanishing(directory: Path, layers: list[str], scores: dict[str, Score]) -> list[str]:
    """The section about weights at fewer timesteps than they were trained for, if there are any."""
    if not any(name.startswith("T1 of ") for name in scores):
        return []
    rates = {name: score.spike_rates for name, score in scores.items()}
    path = directory / run_directory.FIGURES / "vanishing.png"
    path.parent.mkdir(exist_ok=True)
    figures.save(figures.rates_by_layer(layers, rates), path)
    rows = [
        [name, f"{score.accuracy:.2%}", *(f"{rate:.4f}" for rate in score.spike_rates)]
        for name, score in scores.items()
    ]
    return [
        "## Spikes that vanish\n\n"
        "*T1 of* a stage: its weights and thresholds at one timestep, which they were not trained "
        "for ([IIR] Fig. 1d). Spikes per neuron and image.\n\n"
        + table(["network", "accuracy", *layers], rows)
        + f"\n\n![Spikes per neuron and image, layer by layer]({run_directory.FIGURES}/{path.name})"
    ]


def _row(stage: Stage, network: Network, notes: ImageNotes, score: Score) -> list[str]:
    ratio = "1"
    if isinstance(network, SpikingNetwork):
        ratio = "-"
        entering = score.input_rate
        if network.options.encoding == "direct" or entering is not None:
            used = energy(network.spec, score.spike_rates, FLOAT32, input_rate=entering)
            ratio = f"{used.ratio:.2f}"
    total, neurons = spikes(network.spec, score.spike_rates)
    return [
        stage.label,
        f"{score.accuracy:.2%}",
        str(notes.epochs),
        str(notes.updates or 0),
        f"{(notes.wall_s or 0) / 60:.0f}",
        f"{total / neurons:.3f}",
        ratio,
    ]


def _costs(stage: Stage, network: Network, notes: ImageNotes, score: Score) -> list[str]:
    timed = ["-", "-", "-"]
    steps = 1
    if isinstance(network, SpikingNetwork):
        total, _ = spikes(network.spec, score.spike_rates)
        steps = network.timesteps
        timed = [str(steps), f"{total:.0f}", f"{total * steps:.3g}"]
    fetched = memory_accesses(network.spec, steps)
    took = costs(notes, score)
    return [
        stage.label,
        *timed,
        _number(fetched, 1e6),
        _number(took.training, 1e-3),
        _number(took.training_memory, 2**20),
        _number(took.inference, 1e-3),
        _number(took.inference_memory, 2**20),
    ]


def _images(score: Score) -> str:
    if score.test_is_train:
        return f"{score.images} TRAINING images, as there are no others"
    return f"{score.images} test images"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.4g}"
