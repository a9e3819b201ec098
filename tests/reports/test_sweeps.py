"""Sweeps: statistics, report, and the command line that runs and resumes them."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py  # noqa: F401  (registers the games)
import pytest
from PIL import Image

from snn_rl import report, train
from snn_rl.chain.records import (
    Evaluation,
    Invocation,
    Score,
    StageEvaluation,
    Trials,
    write_invocations,
)
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.reports.sweeps import write_sweep
from snn_rl.utils.errors import UserError

PONG, BREAKOUT = "PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"


def make_run(folder: Path, seed: int, stages: dict[str, dict[str, float]], **settings: Any) -> None:
    """Writes a run with made-up mean returns or accuracies."""
    env = settings.pop("env", folder.name)
    directory = folder / f"seed{seed}"
    invocation = Invocation("a command", None, "2026-01-01", settings={"env": env, "seed": seed})
    write_invocations(directory, [invocation])
    for stage, scores in stages.items():
        write_json(directory / stage / "settings.json", {"seed": seed, "T": 1, **settings})
        metrics: Score | StageEvaluation
        if "accuracy" in scores:
            metrics = Score(scores["accuracy"], 100, [])
        else:
            columns = {name: Evaluation([v], [1], 1, 0, []) for name, v in scores.items()}
            metrics = StageEvaluation(evaluation=Trials(1, 1_000_000, 0.0, 0.25), **columns)
        metrics.write(directory / stage / "metrics.json")


def rows(text: str, title: str) -> list[list[str]]:
    """Returns the cells of the table below a heading."""
    part = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_names_and_settings_are_no_markup(tmp_path: Path) -> None:
    evil = "a|b `x` <script>alert($x_)</script> [y](javascript:alert(1))"
    folder = tmp_path / evil.replace("/", "")
    for seed in (0, 1):
        stages = {f"T{T}": {"accuracy": 0.1 * T} for T in (1, 2)}
        make_run(folder, seed, stages, env=evil, **{evil: seed})
    make_run(folder / evil.replace("/", ""), 0, stages, env=evil)
    text = write_sweep(folder).read_text()
    assert "&#60;script>" in text and "<script" not in text and "](javascript" not in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {4, 5}
    assert (folder / "sweep.png").exists()


def test_the_report_of_a_sweep(tmp_path: Path) -> None:
    returns = [21.0, 20.0, 3.0, 19.0, -20.0]
    for seed, score in enumerate(returns):
        stages = {"T1": {"greedy": score, "sticky": -score}, "ann": {"greedy": 20.5, "sticky": 0.0}}
        make_run(tmp_path / PONG, seed, stages)
    make_run(tmp_path / BREAKOUT, 7, {"ann": {"greedy": 30.5, "sticky": 1.7}})
    make_run(tmp_path / "cifar10-vgg6", 0, {"T1": {"accuracy": 0.5}, "ann": {"accuracy": 0.75}})

    path = write_sweep(tmp_path)
    text = path.read_text(encoding="utf-8")
    ann, t1 = rows(text, PONG)
    assert ann[:3] == ["ANN", "5", "20.5 [20.5, 20.5]"]
    assert t1[:2] == ["T1", "5"] and t1[3] == "-20.0 to 21.0"
    assert t1[2].startswith("14.0 [")  # of 3, 19 and 20
    assert [row[2] for row in rows(text, "cifar10-vgg6")] == [
        "75.0 [75.0, 75.0]",
        "50.0 [50.0, 50.0]",
    ]
    # T1 has one game only; the ANN's score on Breakout is a human's
    ann = rows(text, "All Atari games")[-1]
    assert ann[:3] == ["ANN", "2", "6"]
    assert ann[3].startswith(f"{100 * (20.5 + 20.7) / (14.6 + 20.7):.1f} [")
    assert "differ" not in text

    with (tmp_path / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    found = [float(r["score"]) for r in table if (r["stage"], r["column"]) == ("T1", "greedy")]
    assert sorted(found) == sorted(returns)


def test_games_are_compared_with_published_scores_and_with_their_anns(tmp_path: Path) -> None:
    for seed, (pong, breakout) in enumerate([(-20.7, 30.5), (14.6, 30.5), (14.6, 1.7)]):
        scores = {"greedy": 21.0, "sticky": 14.6}
        stages = {"ann": scores, "T2": scores, "T1": {"greedy": 20.0, "sticky": pong}}
        make_run(tmp_path / PONG, seed, stages)
        scores = {"greedy": 400.0, "sticky": 30.5}
        stages = {"ann": scores, "T1": {"greedy": 300.0, "sticky": breakout}}
        make_run(tmp_path / BREAKOUT, seed, stages)
    section = write_sweep(tmp_path).read_text(encoding="utf-8").split("## All Atari games")[1]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if "|" in line]
    assert lines[0][5:] == [
        *("sticky DQN, 3 M", "sticky DQN, 50 M"),
        *("ANN greedy", "ANN sticky", "T1 greedy", "T1 sticky"),
    ]
    breakout, pong = lines[2:4]
    assert pong[:4] == ["Pong", "-20.7", "14.6", "18.9"]
    assert pong[-4:] == ["21.0", "14.6", "20.0", f"{(14.6 + 14.6 - 20.7) / 3:.1f}"]
    assert breakout[-4:] == ["400.0", "30.5", "300.0", f"{(30.5 + 30.5 + 1.7) / 3:.1f}"]
    ann, t1 = lines[6:]
    assert ann[:3] == ["ANN", "2", "6"] and ann[-2:] == ["–", "–"]
    # Two of three runs of each game equal their ANN, and the others are random players.
    assert t1[:3] == ["T1", "2", "6"] and t1[5].startswith("75.0 [")
    assert t1[6].startswith("0.33 [")


def test_an_ann_before_fine_tuning_has_its_own_row(tmp_path: Path) -> None:
    names = ("T1", "ann", "ann-pretrained")
    make_run(tmp_path / PONG, 0, {name: {"greedy": 1.0, "sticky": 0.0} for name in names})
    text = write_sweep(tmp_path).read_text(encoding="utf-8")
    assert [row[0] for row in rows(text, PONG)] == ["ANN, pretrained", "ANN", "T1"]


def test_accuracy_against_the_timesteps(tmp_path: Path) -> None:
    for seed, gain in enumerate((0.0, 0.1)):
        scores = {f"T{t}-converted": {"accuracy": 0.2 + gain + 0.001 * t} for t in (100, 2, 10)}
        make_run(
            tmp_path / "poisson", seed, scores | {"T2": {"accuracy": 0.9}, "ann": {"accuracy": 1}}
        )
    make_run(tmp_path / "direct", 0, {f"T{t}": {"accuracy": 0.01 * t} for t in (5, 10)})
    make_run(tmp_path / PONG, 0, {f"T{t}": {"greedy": t, "sticky": t} for t in (1, 2)})
    text = write_sweep(tmp_path).read_text(encoding="utf-8")
    head = [line for line in text.split("## Accuracy against T")[1].splitlines() if "T=" in line]
    assert head == ["| runs | T=2 | T=5 | T=10 | T=100 |"]
    assert rows(text, "Accuracy against T") == [
        ["direct, trained", "", "5.0", "10.0", ""],
        ["poisson, converted", "25.2", "", "26.0", "35.0"],
    ]
    alone = write_sweep(tmp_path / "direct").read_text(encoding="utf-8")
    assert rows(alone, "Accuracy against T") == [["direct, trained", "5.0", "10.0"]]
    with Image.open(tmp_path / "sweep.png") as picture:
        assert min(picture.size) > 300


def test_runs_that_differ_in_more_than_their_seed_are_named(tmp_path: Path) -> None:
    scores = {"ann": {"greedy": 1.0, "sticky": 1.0}}
    make_run(tmp_path / "CartPole-v1", 0, scores, threads=1)
    make_run(tmp_path / "CartPole-v1", 1, scores, threads=2)
    make_run(tmp_path / "CartPole-v1", 2, {})
    text = write_sweep(tmp_path).read_text(encoding="utf-8")
    assert "differ in more than their seed:** `threads`" in text
    assert rows(text, "CartPole-v1")[0][1] == "2"


@pytest.mark.parametrize("other", ["these", "those"])
def test_settings_that_older_runs_lack_are_not_a_difference(tmp_path: Path, other: str) -> None:
    scores = {"ann": {"accuracy": 0.5}}
    make_run(tmp_path / "cifar10-vgg6", 0, scores)
    make_run(tmp_path / "cifar10-vgg6", 1, scores, training_images="these")
    make_run(tmp_path / "cifar10-vgg6", 2, scores, training_images=other)
    text = write_sweep(tmp_path).read_text(encoding="utf-8")
    assert ("differ in more than their seed:** `training_images`" in text) == (other == "those")


def test_games_with_several_kinds_of_runs_are_not_aggregated(tmp_path: Path) -> None:
    scores = {"ann": {"greedy": 1.0, "sticky": 1.0}}
    for folder, env in (("a", PONG), ("b", BREAKOUT)):
        make_run(tmp_path / folder, 0, scores, env=env)
    assert "All Atari games" in write_sweep(tmp_path).read_text(encoding="utf-8")
    make_run(tmp_path / "c", 0, scores, env=PONG)
    assert "All Atari games" not in write_sweep(tmp_path).read_text(encoding="utf-8")


def test_runs_of_two_games_side_by_side_are_not_averaged(tmp_path: Path) -> None:
    for seed, (env, score) in enumerate([(PONG, 20.0), (BREAKOUT, 300.0), (PONG, 18.0)]):
        make_run(tmp_path, seed, {"ann": {"greedy": score, "sticky": 0.0}}, env=env)
    text = write_sweep(tmp_path).read_text(encoding="utf-8")
    assert rows(text, f"{tmp_path.name}, {PONG}")[0][1:3] == ["2", "19.0 [18.0, 20.0]"]
    assert rows(text, f"{tmp_path.name}, {BREAKOUT}")[0][1:3] == ["1", "300.0 [300.0, 300.0]"]


def test_a_folder_without_runs_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the folder contains no run"):
        report.main(compose(Config, [f"sweep={tmp_path}"], report.presets))


# the command line

SETTINGS = [
    *("env=CartPole-v1", "T=1", "stages=none", "threads=1", "video=false", "episodes=1"),
    "network=4c8s8-8",
    *("rollout.cap=15", "rollout.n_envs=2", "checkpoint_steps=80", "dqn.steps=400"),
    *("dqn.learning_starts=40", "dqn.batch_size=8", "dqn.buffer_size=200"),
    *("dqn.selection_games=0", "dqn.target_return=null", "iir.conversion_samples=32"),
]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.usefixtures("without_figures")
def test_a_killed_sweep_resumes_with_the_same_command(
    tmp_path: Path, command: Command, fork: Callable[..., Any]
) -> None:
    def sweep() -> None:
        sys.argv = ["train", "-m", "seed=0,1", *SETTINGS]
        run_command(Config, train.main, train.__doc__)

    states = [tmp_path / f"runs/CartPole-v1/seed{k}/ann/state.safetensors" for k in (0, 1)]
    process = fork(sweep, tmp_path)
    deadline = time.monotonic() + 120
    while not states[1].exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    # killed after a checkpoint of the second run, before its end
    assert states[1].exists() and not (states[1].parents[1] / "report.md").exists()
    done = fork(sweep, tmp_path).wait()
    assert done.returncode == 0, done.stderr

    done = command("snn_rl.train", *SETTINGS, "seed=1", "run_dir=alone", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for stage in ("ann", "T1-converted"):
        folders = (tmp_path / "runs/CartPole-v1/seed1", tmp_path / "alone")
        one, other = (load_tensors(f / stage / "network.safetensors")[0] for f in folders)
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)
    text = write_sweep(tmp_path / "runs").read_text(encoding="utf-8")
    assert [row[:2] for row in rows(text, "CartPole-v1")] == [["ANN", "2"], ["T1-converted", "2"]]


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("dqn.stepz=3", ["unknown setting dqn.stepz=3", "did you mean dqn.steps"]),
        ("dqn.lr=fast", ["dqn.lr", "fast", "Float"]),
    ],
)
def test_a_typo_in_a_sweep_is_one_line(
    mistake: str,
    words: list[str],
    tmp_path: Path,
    command: Command,
) -> None:
    arguments = ["-m", "env=CartPole-v1", "seed=0,1", mistake]
    done = command("snn_rl.train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and all(word in line for word in words)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_of_bad_values_ends_with_one_line(tmp_path: Path, command: Command) -> None:
    done = command("snn_rl.train", "-m", "seed=0,1", *SETTINGS, "dqn.lr=-1", cwd=tmp_path)
    assert done.returncode != 0
    assert "error: dqn.lr=-1" in done.stderr and "Traceback" not in done.stderr
