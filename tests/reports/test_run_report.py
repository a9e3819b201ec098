"""Report of an agent's run, from run directories with made-up numbers."""

import csv
import itertools
import json
import math
import shutil
import statistics
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from snn_rl import report
from snn_rl.chain.records import AgentNotes, Evaluation, read_stages
from snn_rl.chain.stages import Stage
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
from snn_rl.core.conversion import layer_table
from snn_rl.core.networks import (
    AnalogNetwork,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.files.atomic import read_json, write_json
from snn_rl.files.checkpoint import save_network, save_tensors
from snn_rl.reports import sweep_figure
from snn_rl.reports.panels import color, running_mean
from snn_rl.reports.run_report import reward_section, write_report
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec((2, 11, 9), (Conv(4, 3, 2), Conv(3, 2, 1), Dense(7)), 5)
CHAIN = ("ann", "T5", "T4", "T3", "T2", "T1")
ALL = (*CHAIN, "T1-direct", "T12-converted")
FIGURES = ("learning", "rewards", "spike_rates", "energy")


def build_run(
    directory: Path, names=ALL, spec=SPEC, games=6, scale=1.0, steps=900, episodes=40
) -> Path:
    """Writes a run directory with made-up numbers, with every stage finished and evaluated."""
    for command in ("train T=1", "train T=1 iir.t1_steps=2 a|b"):
        record(directory, command)
    for k, name in enumerate(names):
        rng = np.random.default_rng(k)
        folder = directory / name
        timesteps = Stage.parse(name).timesteps
        write_json(folder / "settings.json", settings(name, timesteps))
        torch.manual_seed(k)
        network = (
            SpikingNetwork(spec, SpikingOptions(timesteps)) if timesteps else AnalogNetwork(spec)
        )
        notes = AgentNotes(
            env="CartPole-v1", seed=3, stage=name, steps=900, updates=7, wall_s=1.0
        ).to_json()
        if timesteps is None:
            notes["scores"] = [[300, 1.5], [600, 4.25], [900, 4.25], [1200, -3]]
        if timesteps:
            for i, neuron in enumerate(network.neurons):
                neuron.v_threshold.data.fill_(0.01 * (i + 1))
            table = layer_table(network, torch.rand(3, *spec.input_shape), [])
            notes["layers"] = [vars(row) for row in table]
        if name == "T1":
            kinds = [{"games": 20, "sticky": 0.0}, {"games": 40, "sticky": 0.25}]
            notes |= {"scores": [[60, 7.0], [90, 9.5]], "selection": kinds}
        save_network(folder / "network.safetensors", network, notes)
        if not name.endswith("-converted"):
            save_state(folder, rng, steps if name == "ann" else steps // 10, episodes)
        metrics = {
            "evaluation": {"episodes": games, "epsilon": 0.0, "seed": 1000, "sticky": 0.25},
            "steps": 1200 + k,
            "updates": 340 + k,
            "wall_s": 50.0 * 3**k,
        }
        for column, best in (("greedy", 20 * scale), ("sticky", 12 * scale)):
            returns = [round(float(x), 2) for x in rng.normal(best - k * scale, 2 * scale, games)]
            lengths = [int(x) for x in rng.integers(100, 999, games)]
            rates = [float(x) for x in rng.uniform(0.01, 0.09 * (timesteps or 6), len(spec.layers))]
            outcome = Evaluation(returns, lengths, games - 1, k % 3, rates)
            metrics[column] = outcome.to_json()
        write_json(folder / "metrics.json", metrics)
    return directory


def record(directory: Path, command: str) -> None:
    write_json(
        directory / "run.json",
        [
            *(read_json(directory / "run.json") if (directory / "run.json").exists() else []),
            {
                "time": "2026-01-02T03:04:05+00:00",
                "command": f"python -m snn_rl.{command}",
                "versions": {"snn_rl": "0.0.1", "torch": "9.9"},
                "revision": None,
                "machine": "abacus, 1 threads",
                "settings": {"env": "CartPole-v1", "seed": 3},
            },
        ],
    )


def settings(name: str, timesteps: int | None) -> dict:
    shared = {"env": "CartPole-v1", "dqn.lr": 0.25}
    if timesteps is None:
        return {**shared, "ann": None, "dqn.selection_games": 5, "rollout.sticky": 0.0}
    objective = "td" if name == "T1-direct" else "distill"
    return {**shared, "T": timesteps, "iir.objective": objective, "iir.encoding": "direct"}


def save_state(folder: Path, rng: np.random.Generator, steps: int, episodes: int) -> None:
    at = np.sort(rng.integers(1, steps, episodes)).tolist()
    level = -20 + 38 / (1 + np.exp(-np.linspace(-6, 6, episodes))) if folder.name == "ann" else 17
    returns = (level + rng.normal(0, 2, episodes)).round(1).tolist()
    history = [[int(s), r, 50] for s, r in zip(at, returns, strict=True)]
    counters = {"steps": steps, "updates": 7, "episodes": history}
    save_tensors(folder / "state.safetensors", {"x": torch.zeros(1)}, {"counters": counters})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    directory = build_run(tmp_path_factory.mktemp("run"))
    write_report(directory)
    return directory


@pytest.fixture(scope="module")
def text(run) -> str:
    return (run / "report.md").read_text()


def section(text: str, title: str) -> str:
    return text.split(f"<summary>{title}</summary>\n")[1].split("\n</details>")[0]


def table(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the head and the rows, by first cell, of the first table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert {len(row) for row in cells} == {len(cells[0])}
    return cells[0], {row[0]: row[1:] for row in cells[2:]}


def metrics(run: Path, name: str) -> dict:
    return json.loads((run / name / "metrics.json").read_text())


def display(name: str) -> str:
    return "ANN" if name == "ann" else name


def naive_counts() -> tuple[list[int], list[int]]:
    """Counts the multiply-accumulates of every weight layer and the hidden neurons one by one."""
    macs, neurons = [], []
    channels, height, width = SPEC.input_shape
    for layer in SPEC.layers[:2]:
        rows = range(0, height - layer.kernel + 1, layer.stride)
        columns = range(0, width - layer.kernel + 1, layer.stride)
        outputs = list(itertools.product(range(layer.channels), rows, columns))
        macs.append(sum(channels * layer.kernel * layer.kernel for _ in outputs))
        neurons.append(len(outputs))
        channels, height, width = layer.channels, len(rows), len(columns)
    units = SPEC.layers[2].units
    macs += [channels * height * width * units, units * SPEC.outputs]
    return macs, [*neurons, units]


def test_the_selected_checkpoint_is_named(text: str) -> None:
    learning = section(text, "Learning")
    assert "ANN: the checkpoint at 600 agent steps was selected as the best of 4 by the" in learning
    assert "mean return over 5 episodes without exploration (sticky actions: 0). The" in learning
    assert "1.50 (300), 4.25 (600), 4.25 (900), -3.00 (1,200)" in learning
    assert (
        "at 90 agent steps was selected as the best of 2 by the mean return over 20 episodes"
        in learning
    )
    assert "0) and 40 episodes without exploration (sticky actions: 0.25). The" in learning
    assert learning.count("the checkpoint at") == 2


def test_the_reward_table_has_the_metrics(run, text):
    _, rows = table(section(text, "Reward"))
    assert list(rows) == [display(name) for name in ALL]
    for name in ALL:
        data = metrics(run, name)
        cells = rows[display(name)]
        assert cells[0] == f"{data['steps']:,}"
        assert cells[1] == str(data["updates"])
        assert int(cells[3]) == len(data["greedy"]["returns"])
        for column, first in (("greedy", 4), ("sticky", 7)):
            returns = data[column]["returns"]
            mean, std = statistics.fmean(returns), statistics.stdev(returns)
            low, high = data[column]["interval"]
            assert low < mean < high
            assert cells[first] == f"{mean:.1f} ± {std:.1f} [{low:.1f}, {high:.1f}]"
            assert cells[first + 1] == str(data[column]["distinct"])
            assert cells[first + 2] == str(data[column]["capped"])


def test_wall_clock_is_readable(text):
    _, rows = table(section(text, "Reward"))
    # 50 s * 3^k
    assert rows["ANN"][2] == "50 s"
    assert rows["T5"][2] == "2 min"
    assert rows["T2"][2] == "68 min"
    assert rows["T1"][2] == "3 h 22 min"


def test_the_headline_compares_t1_with_its_ann(run, text):
    sentence = text.splitlines()[2]
    assert sentence.startswith("**T1 scores ")
    t1, ann = sentence.split("its ANN")
    for part, name in ((t1, "T1"), (ann, "ann")):
        for column, words in (("greedy", "greedy"), ("sticky", "with sticky actions")):
            returns = metrics(run, name)[column]["returns"]
            score = f"{statistics.fmean(returns):.1f} ± {statistics.stdev(returns):.1f}"
            assert f"{score} {words}" in part


def test_the_summary_has_the_numbers_that_matter(run, text):
    head, rows = table(text[: text.index("<details")])
    assert head == ["stage", "greedy", "sticky", "spikes", "energy saving", "minutes"]
    _, rates = table(section(text, "Spike rates"))
    _, energies = table(section(text, "Energy"))
    for name in ("ann", "T5", "T1"):
        found, cells = metrics(run, name), rows[display(name)]
        for cell, column in zip(cells, ("greedy", "sticky"), strict=False):
            assert float(cell) == pytest.approx(
                statistics.fmean(found[column]["returns"]), abs=0.051
            )
        assert float(cells[4]) == pytest.approx(found["wall_s"] / 60, abs=0.051)
    assert rows["ANN"][2:4] == ["–", "–"]
    assert float(rows["T1"][2]) == pytest.approx(float(rates["T1"][-1]), abs=0.00051)
    assert float(rows["T1"][3]) == pytest.approx(float(energies["T1"][3]), abs=0.051)
    assert text.count("<details") == text.count("</details>") == text.count("<summary>")


def test_spike_rates_and_their_mean_over_neurons(run, text):
    head, rows = table(section(text, "Spike rates"))
    assert head == ["stage", "conv1", "conv2", "fc1", "all neurons"]
    _, neurons = naive_counts()
    for name in ALL:
        rates = metrics(run, name)["greedy"]["spike_rates"]
        spikes = sum(rate for rate, n in zip(rates, neurons, strict=True) for _ in range(n))
        expected = [*rates, spikes / sum(neurons)]
        assert [float(cell) for cell in rows[display(name)]] == pytest.approx(expected, abs=6e-5)


def test_energy_table_against_a_naive_count(run, text):
    head, rows = table(section(text, "Energy"))
    assert head[3:7] == ["float32 (µJ)", "× dense", "× own-layer", "× effective"]
    macs, _ = naive_counts()
    alive = metrics(run, "ann")["greedy"]["spike_rates"]
    skipping = macs[0] + sum(macs[i + 1] * alive[i] for i in range(3))
    for name in ALL[1:]:
        rates = metrics(run, name)["greedy"]["spike_rates"]
        entering = sum(macs[i + 1] * rates[i] for i in range(3))
        # the head fires nothing, so it keeps what enters it
        own = macs[1] * rates[1] + macs[2] * rates[2] + macs[3] * rates[2]
        for (mac, ac), first in (((4.6, 0.9), 2), ((3.2, 0.1), 6)):
            spiking = mac * macs[0] + ac * entering
            expected = [
                mac * sum(macs) / spiking,
                mac * sum(macs) / (mac * macs[0] + ac * own),
                mac * skipping / spiking,
            ]
            cells = rows[name][first : first + 4]
            assert float(cells[0]) == pytest.approx(spiking * 1e-6, rel=6e-3)
            assert [float(cell) for cell in cells[1:]] == pytest.approx(expected, abs=6e-3)
    assert float(rows["ANN, skips zeros"][3]) == pytest.approx(sum(macs) / skipping, abs=6e-3)


@pytest.mark.usefixtures("without_figures")
def test_the_figure_of_several_runs_has_the_energies_of_the_report(run, text):
    figure = sweep_figure.draw({"Pole": [run]})
    learning, energies = figure.axes
    assert learning.get_title(loc="left") == "Pole: training of the ANN"
    _, rows = table(section(text, "Energy"))
    dots = {
        label.get_text(): line for label, line in zip(energies.texts, energies.lines, strict=True)
    }
    for name, row in (("ANN", "ANN, dense"), ("T5", "T5"), ("T1", "T1")):
        ((energy,), (score,)) = dots[name].get_data()
        assert float(rows[row][2]) == pytest.approx(energy, rel=5e-3)
        stage = "ann" if name == "ANN" else name
        assert score == pytest.approx(statistics.fmean(metrics(run, stage)["sticky"]["returns"]))


def test_no_effective_ratio_without_the_ann(tmp_path):
    head, rows = table(section(write_report(build_run(tmp_path, ["T2"])).read_text(), "Energy"))
    assert rows["T2"][head.index("× effective") - 1] == "–"
    assert "ANN, skips zeros" not in rows


@pytest.mark.usefixtures("without_figures")
def test_energy_is_left_out_if_the_input_is_spikes(tmp_path):
    build_run(tmp_path, ["ann", "T2", "T1"])
    stored = read_json(tmp_path / "T2" / "settings.json")
    write_json(tmp_path / "T2" / "settings.json", {**stored, "iir.encoding": "poisson"})
    energy = section(write_report(tmp_path).read_text(), "Energy")
    assert "T2" not in table(energy)[1]
    assert "only for direct encoding: T2." in energy


def test_the_layer_table_has_the_notes_of_training(run, text):
    lines = [line for line in section(text, "Layers").splitlines() if line.startswith("| T")]
    expected = []
    for stage in read_stages(run):
        for layer in stage.notes.layers or []:
            expected.append(
                f"| {stage.name} | {layer.name} | {layer.v_threshold:.4f} "
                f"| {layer.spike_rate:.4f} | {layer.dead:.1%} |"
            )
    assert lines == expected
    assert len(lines) == 3 * (len(ALL) - 1)


def test_every_return_is_in_the_report_and_in_the_csv(run, text):
    lines = [line for line in section(text, "Returns").splitlines() if line.startswith("|")]
    shown = {tuple(cells[:2]): cells[2] for cells in (x.strip("| ").split(" | ") for x in lines)}
    with (run / "returns.csv").open() as file:
        entries = list(csv.DictReader(file))
    for name in ALL:
        data = metrics(run, name)
        for column in ("greedy", "sticky"):
            listed = shown[display(name), column].split(", ")
            assert [float(value) for value in listed] == data[column]["returns"]
            trials = [e for e in entries if (e["stage"], e["column"]) == (name, column)]
            assert [float(e["return"]) for e in trials] == data[column]["returns"]
            assert [int(e["length"]) for e in trials] == data[column]["lengths"]
            assert [int(e["seed"]) for e in trials] == [1000 + i for i in range(6)]
    assert len(entries) == 2 * 6 * len(ALL)


def test_different_settings_are_listed_by_stage(text):
    part = section(text, "Settings")
    assert "\ndqn.lr: 0.25\n" in part
    head, rows = table(part)
    assert head[1:] == [display(name) for name in ALL]
    assert rows["`T`"] == ["–", "5", "4", "3", "2", "1", "1", "12"]
    assert rows["`iir.objective`"] == ["–", *["distill"] * 5, "td", "distill"]
    assert set(rows) == {"`T`", "`iir.objective`"}
    block = part.split("```json\n")[1].split("\n```")[0]
    assert json.loads(block) == {"env": "CartPole-v1", "seed": 3}


def test_commands_with_versions_and_revision(text):
    part = section(text, "Commands")
    assert "| `python -m snn_rl.train T=1` | unknown | abacus, 1 threads |" in part
    assert "`python -m snn_rl.train T=1 iir.t1_steps=2 a\\|b`" in part
    assert "Versions (# 1, 2): snn_rl 0.0.1, torch 9.9" in part


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_pictures(run, text, name):
    assert text.count(f"(figures/{name}.png)") == 1
    with Image.open(run / "figures" / f"{name}.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 300
    assert 0.01 < (pixels < 250).mean() < 0.6


def test_matplotlib_s_settings_are_not_changed(run):
    before = dict(matplotlib.rcParams.copy())
    write_report(run)
    assert dict(matplotlib.rcParams.copy()) == before


@pytest.mark.usefixtures("without_figures")
def test_the_same_run_gives_the_same_report(run, text):
    write_report(run)
    assert (run / "report.md").read_text() == text


def test_stages_are_in_the_order_of_the_chain(tmp_path):
    names = ["T1-direct", "T5", "T100-converted", "T10", "ann", "T2", "T8-converted"]
    build_run(tmp_path, names)
    (tmp_path / "figures").mkdir()
    write_json(tmp_path / "other" / "settings.json", {})
    ordered = [stage.name for stage in read_stages(tmp_path)]
    assert ordered == ["ann", "T10", "T5", "T2", "T1-direct", "T100-converted", "T8-converted"]


def test_a_run_that_has_just_started(tmp_path):
    record(tmp_path, "train")
    write_json(tmp_path / "ann" / "settings.json", settings("ann", None))
    text = write_report(tmp_path).read_text()
    assert "No stage has been evaluated yet" in text
    assert "Not evaluated yet: ANN (0 agent steps so far)." in text
    assert not (tmp_path / "figures").exists()


@pytest.mark.usefixtures("without_figures")
def test_a_stage_in_training_is_only_in_the_learning_curve(tmp_path):
    build_run(tmp_path, ["ann", "T5", "T4"])
    for file in ("network.safetensors", "metrics.json"):
        (tmp_path / "T4" / file).unlink()
    text = write_report(tmp_path).read_text()
    assert "**T5 scores " in text
    assert "Not evaluated yet: T4 (90 agent steps so far)." in text
    assert list(table(section(text, "Reward"))[1]) == ["ANN", "T5"]
    assert "| T4 |" not in section(text, "Layers")


@pytest.mark.usefixtures("without_figures")
def test_missing_training_episodes_are_named(tmp_path):
    build_run(tmp_path, ["ann", "T5", "T12-converted"])
    state = tmp_path / "T5" / "state.safetensors"
    note = "episodes are missing, because state.safetensors is missing or damaged:** T5."
    for damage in (lambda: state.write_bytes(state.read_bytes()[:-1]), state.unlink):
        damage()
        assert note in section(write_report(tmp_path).read_text(), "Learning")


def test_the_ann_alone(tmp_path):
    text = write_report(build_run(tmp_path, ["ann"])).read_text()
    assert text.splitlines()[2].startswith("**ANN scores ")
    assert "Energy" not in text
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"learning", "rewards"}


def test_conversion_alone_has_no_learning_curve(tmp_path):
    text = write_report(build_run(tmp_path, ["T12-converted"])).read_text()
    assert "**T12-converted scores " in text
    assert "Learning" not in text
    assert "ANN scores" not in text


@pytest.mark.usefixtures("without_figures")
def test_one_episode_has_no_spread(tmp_path):
    text = write_report(build_run(tmp_path, ["ann", "T1"], games=1)).read_text()
    assert "± 0.0" in text
    assert "nan" not in text


@pytest.mark.usefixtures("without_figures")
def test_finished_videos_are_linked(tmp_path):
    build_run(tmp_path, ["ann", "T1"])
    for name in ("play.mp4", ".play.partial.mp4"):
        (tmp_path / "T1" / name).touch()
    assert "\n\nVideo: [T1](T1/play.mp4).\n\n" in write_report(tmp_path).read_text()


def test_a_missing_run_is_rejected_with_the_command_that_trains_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", "env=CartPole-v1", f"run_dir={tmp_path}"])
    with pytest.raises(SystemExit) as end:
        run_command(Config, report.main, presets=report.presets)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"python -m snn_rl.train env=ID T=1 run_dir={tmp_path}" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_figures")
def test_the_command_reports_the_requested_run(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "report.md").unlink()
    report.main(compose(Config, ["env=CartPole-v1", f"run_dir={tmp_path / 'copy'}"]))
    assert capsys.readouterr().out == f"{tmp_path / 'copy' / 'report.md'}\n"
    assert (tmp_path / "copy" / "report.md").is_file()


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("file", ["run.json", "ann/metrics.json"])
def test_a_damaged_file_is_named(tmp_path, file):
    build_run(tmp_path, ["ann"])
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=str(path)):
        write_report(tmp_path)


def test_running_mean_against_slices():
    values = np.random.default_rng(0).normal(size=30).tolist()
    for i, mean in enumerate(running_mean(values, 7)):
        window = values[: i + 1][-7:]
        assert math.isclose(mean, sum(window) / len(window))


def test_the_stages_of_a_chain_have_different_colors():
    names = [*CHAIN, "T100-converted"]
    assert len({color(name) for name in names}) == len(names)
    assert color("T1-direct") == color("T1")


@pytest.mark.usefixtures("without_figures")
def test_agreement_with_the_ann_is_in_the_table_of_returns(tmp_path: Path) -> None:
    build_run(tmp_path, names=("ann", "T2", "T1"))
    assert "agreement" not in "".join(reward_section(read_stages(tmp_path)))
    data = metrics(tmp_path, "T1")
    data["greedy"]["agreement"], data["sticky"]["agreement"] = 0.98765, 0.5
    write_json(tmp_path / "T1" / "metrics.json", data)
    reward = "\n\n".join(reward_section(read_stages(tmp_path)))
    _, rows = table(reward)
    assert (rows["T1"][7], rows["T1"][11]) == ("98.8%", "50.0%")
    for name in ("ANN", "T2"):
        assert (rows[name][7], rows[name][11]) == ("–", "–")
    assert "*Agreement*" in reward
