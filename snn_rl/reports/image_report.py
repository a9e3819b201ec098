"""The report of a classification run, from what its stages left in their directories."""

from pathlib import Path
from typing import Any

from snn_rl.chain import run_directory
from snn_rl.chain.records import costs
from snn_rl.chain.runner import SETTINGS
from snn_rl.chain.stages import ANN, label
from snn_rl.core.energy import FLOAT32, energy, memory_accesses, spikes
from snn_rl.core.networks import Network, SpikingNetwork
from snn_rl.files.atomic import read_json, write_text
from snn_rl.files.checkpoint import load_network
from snn_rl.images.chain import AT_ONE
from snn_rl.reports import figures
from snn_rl.reports.markdown import block, table


def write_report(directory: Path) -> Path:
    """Writes report.md of a run and returns its path.

    Args:
        directory: Of the run; stages that are not scored yet are left out.
    """
    stages = {
        path.parent.name: path.parent
        for path in directory.glob(f"*/{run_directory.METRICS}")
        if (path.parent / run_directory.NETWORK).exists()
    }
    order = sorted(stages, key=lambda name: (name != ANN, -_timesteps(stages[name]), name))
    rows, rates, taken, vanishing = [], [], [], {}
    for name in order:
        network, notes = load_network(stages[name] / run_directory.NETWORK)
        metrics = read_json(stages[name] / run_directory.METRICS)
        rows.append(_row(name, network, notes, metrics))
        taken.append(_costs(name, network, notes, metrics))
        rates.append([name, *(f"{rate:.3f}" for rate in metrics["spike_rates"])])
        if isinstance(network, SpikingNetwork):
            vanishing[name] = metrics
            if (stages[name] / AT_ONE).exists():
                vanishing[f"T1 of {name}"] = read_json(stages[name] / AT_ONE)
    invocations = read_json(directory / run_directory.RUN)
    last = invocations[-1]
    settings = last["settings"]
    text = [
        f"# {settings['net']} on {settings['dataset']}, seed {settings['seed']}",
        block("text", "\n".join(dict.fromkeys(entry["command"] for entry in invocations))),
        table(
            ["stage", "accuracy", "epochs", "updates", "minutes", "spikes / neuron", "energy"],
            rows,
        ),
        f"Accuracy: of the last network of each stage on {_images(metrics)}, once; "
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
        + ", ".join(f"{key} {value}" for key, value in last["versions"].items())
        + f"; revision {last['revision']}; {last['machine']} (the last command).",
    ]
    path = directory / run_directory.REPORT
    write_text(path, "\n\n".join(text) + "\n")
    return path


def _vanishing(directory: Path, layers: list[str], scores: dict[str, dict[str, Any]]) -> list[str]:
    """The section about weights at fewer timesteps than they were trained for, if there are any."""
    if not any(name.startswith("T1 of ") for name in scores):
        return []
    rates = {name: metrics["spike_rates"] for name, metrics in scores.items()}
    path = directory / run_directory.FIGURES / "vanishing.png"
    path.parent.mkdir(exist_ok=True)
    figures.save(figures.rates_by_layer(layers, rates), path)
    rows = [
        [name, f"{metrics['accuracy']:.2%}", *(f"{rate:.4f}" for rate in metrics["spike_rates"])]
        for name, metrics in scores.items()
    ]
    return [
        "## Spikes that vanish\n\n"
        "*T1 of* a stage: its weights and thresholds at one timestep, which they were not trained "
        "for ([IIR] Fig. 1d). Spikes per neuron and image.\n\n"
        + table(["network", "accuracy", *layers], rows)
        + f"\n\n![Spikes per neuron and image, layer by layer]({run_directory.FIGURES}/{path.name})"
    ]


def _timesteps(directory: Path) -> int:
    return int(read_json(directory / SETTINGS).get("T") or 0)


def _row(name: str, network: Network, notes: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    ratio = "1"
    if isinstance(network, SpikingNetwork):
        ratio = "-"
        entering = metrics.get("input_rate")
        if network.encoding == "direct" or entering is not None:
            used = energy(network.spec, metrics["spike_rates"], FLOAT32, input_rate=entering)
            ratio = f"{used.ratio:.2f}"
    total, neurons = spikes(network.spec, metrics["spike_rates"])
    return [
        label(name),
        f"{metrics['accuracy']:.2%}",
        str(notes["epochs"]),
        str(notes.get("updates", 0)),
        f"{notes.get('wall_s', 0) / 60:.0f}",
        f"{total / neurons:.3f}",
        ratio,
    ]


def _costs(
    name: str, network: Network, notes: dict[str, Any], metrics: dict[str, Any]
) -> list[str]:
    timed = ["-", "-", "-"]
    steps = 1
    if isinstance(network, SpikingNetwork):
        total, _ = spikes(network.spec, metrics["spike_rates"])
        steps = network.timesteps
        timed = [str(steps), f"{total:.0f}", f"{total * steps:.3g}"]
    fetched = memory_accesses(network.spec, steps)
    took = costs(notes, metrics)
    return [
        label(name),
        *timed,
        _number(fetched, 1e6),
        _number(took.training, 1e-3),
        _number(took.training_memory, 2**20),
        _number(took.inference, 1e-3),
        _number(took.inference_memory, 2**20),
    ]


def _images(metrics: dict[str, Any]) -> str:
    if metrics.get("test_is_train"):
        return f"{metrics['images']} TRAINING images, as there are no others"
    return f"{metrics['images']} test images"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.4g}"
