"""Figures of [IIR], from run directories with made-up numbers."""

import csv
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snn_rl import report
from snn_rl.agents import plan
from snn_rl.chain.records import AgentNotes, Evaluation, read_stages
from snn_rl.chain.stages import Stage
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
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
from snn_rl.papers.iir import CARTPOLE, CONVERTED, PONG, PUBLISHED_RETURNS
from snn_rl.papers.page import FIGURE, write_page
from snn_rl.papers.runs import read_agents
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec((1, 9, 9), (Conv(3, 3, 2), Dense(5)), 2)
CHAIN = ("ann", "T5", "T4", "T3", "T2", "T1")
STAGES = {
    3: {CARTPOLE: ("ann", "T1", "T3", "T5"), PONG: ("ann", "T1", "T3", "T5")},
    5: {CARTPOLE: ("ann", "T1", "T3", "T5")},
    6: {PONG: ("ann", "T5", "T3", "T1", CONVERTED)},
}
COMMAND = "python -m snn_rl.train env={} T=1 seed={} run_dir=elsewhere threads=1 iir.lr=0.5"


def build_run(
    folder: Path, env=CARTPOLE, seed=0, names=CHAIN, spec=SPEC, episodes=30, games=4, **kw
):
    """Writes a run with made-up numbers into the folder of all runs."""
    directory = folder / env / f"seed{seed}"
    invocation = {
        "time": "2026-01-02T03:04:05+00:00",
        "command": COMMAND.format(env, seed),
        "versions": {"snn_rl": "0.0.1", "torch": "9.9"},
        "revision": "abc123",
        "machine": "abacus",
    }
    write_json(directory / "run.json", [invocation])
    config = compose(Config, [f"env={env}", f"seed={seed}"])
    for k, name in enumerate(names):
        rng = np.random.default_rng([seed, k])
        stage = Stage.parse(name)
        settings = plan.stage_settings(config, stage)
        settings |= {key: v for key, v in kw.items() if not (stage.analog and key[:4] == "iir.")}
        write_json(directory / name / "settings.json", settings)
        torch.manual_seed(k)
        network = AnalogNetwork(spec)
        if stage.timesteps is not None:
            network = SpikingNetwork(spec, SpikingOptions(stage.timesteps))
        notes = AgentNotes(env=env, seed=seed, stage=name, steps=900, updates=1, wall_s=1.0)
        save_network(directory / name / "network.safetensors", network, notes.to_json())
        if stage.trained:
            history = [[10 * i, float(x), 9] for i, x in enumerate(rng.normal(5, 2, episodes))]
            counters = {"counters": {"steps": 900, "episodes": history}}
            save_tensors(directory / name / "state.safetensors", {"x": torch.zeros(1)}, counters)
        metrics = {"evaluation": {"episodes": 4, "epsilon": 0.0, "seed": 1000, "sticky": 0.25}}
        for column in ("greedy", "sticky"):
            returns = [round(float(x), 2) for x in rng.normal(15, 2, games)]
            rates = [float(x) for x in rng.uniform(0.01, 0.5, len(spec.layers))]
            metrics[column] = Evaluation(returns, [7] * games, min(games, 3), 0, rates).to_json()
        write_json(directory / name / "metrics.json", metrics)
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("all")
    for seed in (0, 1, 10):
        build_run(folder, CARTPOLE, seed)
    build_run(folder, PONG, 0, (*CHAIN, CONVERTED))
    return folder


@pytest.fixture(scope="module", params=[3, 5, 6])
def written(folder, request) -> tuple[int, Path]:
    path, missing = write_figure(request.param, folder)
    assert missing == []
    return request.param, path


def entries(path: Path) -> list[dict[str, str]]:
    with (path.parent / "returns.csv").open() as file:
        return list(csv.DictReader(file))


def numbers(path: Path) -> dict[tuple[str, str], list[str]]:
    """Rows of the table of numbers, by game and network."""
    part = path.read_text().split("\n## Numbers\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {len(lines[0])}
    return {(line[0], line[1]): line[2:] for line in lines[2:]}


def write_figure(number: int, folder: Path) -> tuple[Path, list[str]]:
    return write_page(("iir", FIGURE, number), folder)


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    run_command(Config, report.main, presets=report.presets)


def returns(folder: Path, env: str, seed: int, name: str, column="greedy") -> list[float]:
    (stage,) = (s for s in read_stages(folder / env / f"seed{seed}") if s.name == name)
    return stage.evaluation.columns[column].returns


def test_the_files_of_a_figure(folder, written):
    number, path = written
    assert path == folder / "paper" / f"iir-figure{number}" / "README.md"
    assert {file.name for file in path.parent.iterdir()} == {
        "README.md",
        "figure.png",
        "returns.csv",
    }
    with Image.open(path.parent / "figure.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 500
    assert 0.01 < (pixels < 250).mean() < 0.6


def test_seeds_are_pooled_and_compared_with_the_paper(folder):
    path, _ = write_figure(3, folder)
    rows = numbers(path)
    names = {"CartPole": CARTPOLE, "Pong": PONG}
    assert list(rows) == [(game, n) for game in names for n in ("ANN", "T1", "T3", "T5")]
    for (game, network), cells in rows.items():
        name = "ann" if network == "ANN" else network
        seeds = (0, 1, 10) if game == "CartPole" else (0,)
        each = [returns(folder, names[game], seed, name) for seed in seeds]
        pooled = [value for values in each for value in values]
        assert cells[1] == f"{statistics.fmean(pooled):.1f} ± {statistics.stdev(pooled):.1f}"
        assert cells[2] == f"{len(pooled)} ({3 * len(seeds)} distinct)"
        means = [f"{s}: {statistics.fmean(v):.1f}" for s, v in zip(seeds, each, strict=True)]
        assert cells[3] == ", ".join(means)
        printed = PUBLISHED_RETURNS.get((names[game], name))
        assert cells[0] == (f"{printed[0]} ± {printed[1]}" if printed else "–")
    assert rows["CartPole", "T1"][0] == "38.7 ± 5.4"
    assert rows["Pong", "T1"][5] == "0.08"
    assert rows["Pong", "ANN"][5:7] == ["–", "–"]


def test_spikes_are_the_mean_over_all_neurons(folder):
    path, _ = write_figure(3, folder)
    stages = read_stages(folder / PONG / "seed0")
    rates = next(stage.rates for stage in stages if stage.name == "T1")
    # 3 channels of 4 x 4, then 5 units
    expected = (48 * rates[0] + 5 * rates[1]) / 53
    assert numbers(path)["Pong", "T1"][6] == f"{expected:.2f}"


def test_every_return_is_in_the_csv(folder, written):
    number, path = written
    listed = entries(path)
    for env, names in STAGES[number].items():
        for seed in (0, 1, 10) if env == CARTPOLE else (0,):
            stages = {s.name: s for s in read_stages(folder / env / f"seed{seed}")}
            for name in names:
                own = [
                    e for e in listed if (e["env"], e["run"], e["stage"]) == (env, str(seed), name)
                ]
                games = [e for e in own if e["kind"] == "greedy"]
                assert [float(e["return"]) for e in games] == returns(folder, env, seed, name)
                assert [int(e["seed"]) for e in games] == [1000, 1001, 1002, 1003]
                training = [e for e in own if e["kind"] == "training"]
                history = [] if name == CONVERTED or number == 3 else stages[name].counters.episodes
                assert [[float(e["step"]), float(e["return"])] for e in training] == [
                    row[:2] for row in history
                ]
    assert {e["stage"] for e in listed} == {n for s in STAGES[number].values() for n in s}


def test_training_means(folder):
    path, _ = write_figure(6, folder)
    rows = numbers(path)
    assert [network for _, network in rows] == ["ANN", "T5", "T3", "T1", "T100, converted"]
    (ann,) = (s for s in read_stages(folder / PONG / "seed0") if s.name == "ann")
    values = [row[1] for row in ann.counters.episodes]
    last = statistics.fmean(values[-20:])
    assert rows["Pong", "ANN"][-3:] == [
        "0: 30",
        f"0: {statistics.fmean(values):.1f}",
        f"0: {last:.1f}",
    ]
    assert rows["Pong", "T100, converted"][-3:] == ["–"] * 3


def test_a_fine_tuned_ann_shows_both_trainings(tmp_path):
    before = build_run(tmp_path, PONG, 1, ("ann",)) / "ann"
    before.rename(tmp_path / "first")
    directory = build_run(tmp_path, PONG, 0)
    (tmp_path / "first").rename(directory / "ann-pretrained")
    (run,) = [run for run in read_agents(tmp_path, PONG) if run.seed == 0]
    (own,) = (s for s in read_stages(directory) if s.name == "ann")
    whole = run.stages["ann"].counters.episodes
    assert len(whole) == 2 * len(own.counters.episodes)
    assert whole[len(own.counters.episodes)] == [900, *own.counters.episodes[0][1:]]


def test_differences_from_the_paper_are_read_from_the_runs(folder, tmp_path):
    text = write_figure(5, folder)[0].read_text()
    assert "| CartPole | `dqn.n_steps` | 1 | 5 |" in text
    assert "| CartPole | `iir.steps` | 20000 | 8000, 2000 |" in text
    assert "distilled from the ANN" in text
    build_run(tmp_path, CARTPOLE, 0, **{"iir.objective": "td", "dqn.n_steps": 1})
    text = write_figure(5, tmp_path)[0].read_text()
    assert "`dqn.n_steps`" not in text
    assert "distilled from the ANN" not in text


def test_commands_and_versions_of_every_run(folder):
    text = write_figure(5, folder)[0].read_text()
    for seed in (0, 1, 10):
        assert f"[CartPole, seed {seed}](../../CartPole-v1/seed{seed}) | `" in text
        assert f"`{COMMAND.format(CARTPOLE, seed)}` | abc123 |" in text
    assert "CartPole, seed 0; CartPole, seed 1; CartPole, seed 10: snn_rl 0.0.1, torch 9.9" in text


def test_panels_keep_the_papers_letters(tmp_path):
    build_run(tmp_path, PONG, 0, ("ann", "T5", "T4", "T3", "T2", "T1"))
    shutil.rmtree(tmp_path / PONG / "seed0" / "T3")
    text = write_figure(6, tmp_path)[0].read_text()
    assert "![(a) Pong, ANN | (b) Pong, T5 | (d) Pong, T1](figure.png)" in text


def test_missing_parts_are_listed_with_their_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    directory = build_run(Path("runs"), PONG, 2, ("ann", "T5"))
    command(monkeypatch, "paper=iir", "figure=6")
    train = "python -m snn_rl.train env=PongNoFrameskip-v4"
    lines = [
        f"Pong, seed 2: T3 and T1 are not finished. Command: {train} T=1 seed=2 threads=1 "
        "iir.lr=0.5",
        f"Pong, seed 2: T100-converted is not finished. Command: {train} T=100 "
        "stages=none seed=2 threads=1 iir.lr=0.5",
    ]
    path = Path("runs/paper/iir-figure6/README.md")
    printed = [*(f"missing: {line}" for line in lines), str(path)]
    assert capsys.readouterr().out.splitlines() == printed
    assert path.read_text().endswith(
        "## Missing runs\n\n" + "".join(f"- {line}\n" for line in lines)
    )

    (directory / "T5" / "metrics.json").unlink()
    _, missing = write_figure(3, Path("runs"))
    train = "python -m snn_rl.train env"
    assert missing[0] == f"CartPole: there is no run. Command: {train}=CartPole-v1 T=1"
    assert missing[1].startswith("Pong, seed 2: T1, T3 and T5 are not finished")


def test_the_commands_name_another_folder(tmp_path):
    folder = tmp_path / "all my runs"
    build_run(folder, CARTPOLE, 0, ("ann",))
    _, missing = write_figure(3, folder)
    assert missing[0].endswith(f"iir.lr=0.5 'run_dir={folder}/CartPole-v1/seed0'")
    assert missing[1].endswith(f"T=1 'run_dir={folder}/PongNoFrameskip-v4/seed0'")


def test_swept_settings_have_the_values_of_the_run(tmp_path):
    directory = build_run(tmp_path, CARTPOLE, 0, ("ann",))
    (invocation,) = read_json(directory / "run.json")
    invocation["command"] = (
        "python -m snn_rl.train -m env=CartPole-v1 seed=0,1 'ann=my nets/a.pt' iir.lr=0.5,0.25 "
        "threads=1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2"
    )
    invocation["settings"] = {"threads": 2, "iir": {"lr": 0.25}}
    write_json(directory / "run.json", [invocation])
    _, missing = write_figure(5, tmp_path)
    assert missing[0].endswith(
        "snn_rl.train env=CartPole-v1 T=1 'ann=my nets/a.pt' iir.lr=0.25 threads=2 "
        f"run_dir={tmp_path}/CartPole-v1/seed0"
    )


def test_short_stages_and_anns_from_files(tmp_path):
    directory = build_run(tmp_path, CARTPOLE, 3, episodes=0)
    with pytest.raises(UserError, match="runs of this figure"):
        write_figure(5, tmp_path)
    build_run(tmp_path, CARTPOLE, 4, ("ann",), ann="0123abcd")
    shutil.rmtree(directory / "T1")
    build_run(tmp_path, CARTPOLE, 5, ("T1",))
    _, missing = write_figure(5, tmp_path)
    assert any("T3 and T5 trained for less than an episode" in line for line in missing)
    (imported,) = (line for line in missing if "imported" in line)
    assert "CartPole, seed 4" in imported
    assert "T=1 seed=6 run_dir" in imported


def test_one_seed_and_one_episode_have_no_spread(tmp_path):
    directory = build_run(tmp_path, PONG, 0, (*CHAIN, CONVERTED), episodes=1, games=1)
    path, _ = write_figure(6, tmp_path)
    assert "nan" not in path.read_text()
    assert not (directory / "figures").exists()


def test_other_directories_are_not_runs(tmp_path):
    build_run(tmp_path, CARTPOLE, 0, ("ann",))
    (tmp_path / CARTPOLE / "seed1").mkdir()
    shutil.copytree(tmp_path / CARTPOLE / "seed0", tmp_path / CARTPOLE / "seed0-old")
    assert [run.seed for run in read_agents(tmp_path, CARTPOLE)] == [0]


def test_networks_with_different_layers_are_rejected(tmp_path):
    build_run(tmp_path, CARTPOLE, 0, ("ann",))
    build_run(tmp_path, CARTPOLE, 1, ("ann",), spec=NetworkSpec((1, 9, 9), (Dense(5),), 2))
    with pytest.raises(UserError, match="different layers"):
        write_figure(3, tmp_path)


@pytest.mark.parametrize("file", ["run.json", "ann/metrics.json"])
def test_a_damaged_file_is_named(tmp_path, file):
    path = build_run(tmp_path, CARTPOLE, 0, ("ann",)) / file
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=str(path)):
        write_figure(3, tmp_path)


def test_other_commands_still_need_an_environment():
    with pytest.raises(UserError, match="env is missing"):
        compose(Config, ["paper=iir", "figure=3"])


def test_the_same_runs_give_the_same_files(folder, written):
    number, path = written
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    write_figure(number, folder)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
