"""The train command with small chains: resuming after kill -9, refusals, invalid input."""

import errno
import gc
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv

from snn_rl import train
from snn_rl.agents import chain as agents_chain
from snn_rl.agents import timing
from snn_rl.agents.finding import find_stage
from snn_rl.chain import run_directory
from snn_rl.chain.records import read_counters
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork, SpikingOptions
from snn_rl.core.networks.q_networks import cartpole
from snn_rl.files.checkpoint import load_network, load_tensors, save_network

pytestmark = pytest.mark.usefixtures("without_figures")

SMALL = [
    "env=CartPole-v1",
    "network=4c8s8-8",
    "threads=1",
    "video=false",
    "episodes=1",
    "checkpoint_steps=80",
    "rollout.n_envs=2",
    "rollout.cap=15",
    "dqn.steps=400",
    "dqn.train_freq=4",
    "dqn.learning_starts=40",
    "dqn.batch_size=8",
    "dqn.buffer_size=200",
    "dqn.target_update_interval=50",
    "dqn.epsilon_steps=150",
    "dqn.selection_games=2",
    "iir.steps=160",
    "iir.train_freq=4",
    "iir.t1_steps=0",
    "iir.batch_size=8",
    "iir.conversion_samples=32",
    "T_start=2",
]
STAGES = ("ann", "T2", "T1")


def run(run_dir: Path, *extra: str) -> None:
    """Runs the command in this process."""
    arguments, sys.argv = sys.argv, ["train", *SMALL, f"run_dir={run_dir}", *extra]
    try:
        run_command(Config, train.main, train.__doc__)
    finally:
        sys.argv = arguments


def refuse(capsys: pytest.CaptureFixture[str], run_dir: Path, *extra: str) -> str:
    """Returns the error line of the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(run_dir, *extra)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


def results(run_dir: Path, stages: Sequence[str] = STAGES) -> dict[str, torch.Tensor]:
    """Returns all results of the training of each stage."""
    found = {}
    for stage in stages:
        for file in ("network.safetensors", "state.safetensors"):
            tensors, meta = load_tensors(run_dir / stage / file)
            found |= {f"{stage}/{file}/{name}": tensor for name, tensor in tensors.items()}
            if file == "state.safetensors":
                counters = meta["counters"]
                found[f"{stage}/episodes"] = torch.tensor(counters["episodes"], dtype=torch.float64)
                found[f"{stage}/steps"] = torch.tensor([counters["steps"], counters["updates"]])
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, fork: Callable[..., Any]) -> Path:
    run_dir: Path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert fork(partial(run, run_dir)).wait().returncode == 0
    return run_dir


def test_the_estimate_of_the_duration_does_not_affect_the_run(
    uninterrupted: Path, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    def estimated() -> None:
        timing._SHORT, timing._SECONDS = 0, 0.01
        run(tmp_path / "run")

    assert fork(estimated).wait().returncode == 0
    assert_same(results(uninterrupted), results(tmp_path / "run"))


def test_every_stage_is_trained_and_evaluated(uninterrupted: Path) -> None:
    tensors = results(uninterrupted)
    for before, after in itertools.pairwise(STAGES):
        name = "network.safetensors/synapses.0.weight"
        assert not torch.equal(tensors[f"{before}/{name}"], tensors[f"{after}/{name}"])
    for stage in STAGES:
        metrics = json.loads((uninterrupted / stage / "metrics.json").read_text())
        assert len(metrics["greedy"]["returns"]) == len(metrics["sticky"]["returns"]) == 1
    _, notes = load_tensors(uninterrupted / "ann" / "network.safetensors")
    assert [step for step, _ in notes["scores"]] == [160, 240, 320, 400]
    entry = json.loads((uninterrupted / "run.json").read_text())[0]
    assert entry["versions"]["torch"] == torch.__version__
    assert "run_dir=" in entry["command"]


def test_only_one_replay_buffer_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    before = sum(issubclass(type(thing), ReplayBuffer) for thing in gc.get_objects())
    alive = []
    real = agents_chain.train_stage

    def counting(*arguments: object) -> None:
        alive.append(sum(issubclass(type(thing), ReplayBuffer) for thing in gc.get_objects()))
        real(*arguments)

    monkeypatch.setattr(agents_chain, "train_stage", counting)
    run(tmp_path / "run")
    assert [count - before for count in alive] == [1, 1, 1]


def test_another_seed_gives_other_weights(uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", "seed=1")
    one, other = results(uninterrupted), results(tmp_path / "run")
    name = "T1/network.safetensors/synapses.0.weight"
    assert not torch.equal(one[name], other[name])


def test_spiking_stages_have_their_own_sticky_actions_and_selection_episodes(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(name: str) -> list[float]:
        """Records the sticky-action probabilities of the environments that a function makes."""
        make, stickies = getattr(agents_chain, name), []

        def spy(*args: Any, **settings: Any) -> VecEnv:
            stickies.append(settings["sticky"])
            return make(*args, **settings)

        monkeypatch.setattr(agents_chain, name, spy)
        return stickies

    played, chose = watched("make_env"), watched("evaluation_env")
    arguments = ["iir.sticky=0.5", "iir.selection_games=3", "iir.selection_steps=40"]
    arguments += ["iir.selection_sticky_games=5"]
    run(tmp_path, *arguments, "iir.steps=40", "iir.t1_steps=160")
    first = played.index(0.5)  # the first spiking stage
    assert set(played[:first]) == {0.0} and set(played[first:]) == {0.5}
    assert set(chose[:-6]) == {0.0} and chose[-6:] == [0.0, 0.5] * 3  # three checkpoints of T1
    name = "network.safetensors/synapses.0.weight"
    assert torch.equal(results(uninterrupted)[f"ann/{name}"], results(tmp_path)[f"ann/{name}"])
    settings = [json.loads((tmp_path / stage / "settings.json").read_text()) for stage in STAGES]
    assert [each["rollout.sticky"] for each in settings] == [0.0, 0.5, 0.5]
    assert [each["iir.selection_games"] for each in settings[1:]] == [None, 3]
    assert [each["iir.selection_sticky_games"] for each in settings[1:]] == [None, 5]
    _, notes = load_tensors(tmp_path / "T2" / "network.safetensors")
    assert notes["scores"] == [] and "selection" not in notes
    chosen, notes = load_tensors(tmp_path / "T1" / "network.safetensors")
    assert [step for step, _ in notes["scores"]] == [80, 120, 160]
    assert notes["selection"] == [{"games": 3, "sticky": 0.0}, {"games": 5, "sticky": 0.5}]
    best, _ = load_tensors(tmp_path / "T1" / "best.safetensors")
    assert all(torch.equal(tensor, best[key]) for key, tensor in chosen.items())


def test_ten_kills_leave_the_result_bit_identical(
    uninterrupted: Path,
    tmp_path: Path,
    fork: Callable[..., Any],
    fork_killed_at: Callable[..., None],
) -> None:
    rng = random.Random(0)
    run_dir = tmp_path / "killed"
    # at a certain file: in the ANN stage, between stages, in a spiking stage
    for moment in ("half", "before", "after", "half", "before", "after"):
        fork_killed_at(moment, rng.randint(2, 8), partial(run, run_dir))
    # at a random time
    for _ in range(4):
        process = fork(partial(run, run_dir))
        time.sleep(rng.uniform(0.2, 1.5))
        process.kill()
        process.wait()
    run(run_dir)
    assert_same(results(uninterrupted), results(run_dir))


def test_a_smaller_T_continues_after_the_finished_stages(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run(run_dir, "T=2")
    assert not (run_dir / "T1").exists()
    stamps = {s: (run_dir / s / "network.safetensors").stat().st_mtime_ns for s in ("ann", "T2")}
    run(run_dir, "T=1")
    for stage, stamp in stamps.items():
        assert (run_dir / stage / "network.safetensors").stat().st_mtime_ns == stamp
    assert_same(results(uninterrupted), results(run_dir))


def test_only_training_settings_of_a_started_stage_must_not_change(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(uninterrupted)
    invocations = (uninterrupted / "run.json").read_bytes()
    line = refuse(capsys, uninterrupted, "dqn.lr=0.5")
    assert "dqn.lr was 0.0005, now 0.5" in line
    line = refuse(capsys, uninterrupted, "iir.epsilon=0.5")
    assert "T2" in line and "iir.epsilon was 0.02, now 0.5" in line
    line = refuse(capsys, uninterrupted, "finetune.steps=160")
    assert "source was absent, now ann-pretrained" in line
    assert_same(before, results(uninterrupted))
    assert (uninterrupted / "run.json").read_bytes() == invocations
    shutil.copytree(uninterrupted, tmp_path / "run")
    run(tmp_path / "run", "episodes=2")
    metrics = json.loads((tmp_path / "run" / "T1" / "metrics.json").read_text())
    assert len(metrics["greedy"]["returns"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["env=CartPol-v1"], ["CartPol-v1", "did you mean CartPole-v1"]),
        (["env=PingNoFrameskip-v4"], ["did you mean", "PongNoFrameskip-v4"]),
        (["env=ALE/Pong-v5"], ["skips frames", "PongNoFrameskip-v4"]),
        (["T=0"], ["T=0", "1 or more"]),
        (["T=2.5"], ["T", "2.5", "Integer"]),
        (["T=3"], ["T=3", "T_start=2"]),
        (["T_start=5", "T=2", "T_step=2"], ["T=2", "5, 3, 1"]),
        (["dqn.stepz=3"], ["dqn.stepz", "did you mean dqn.steps"]),
        (["+new=3"], ["unknown setting new"]),
        (["dqn.lr=fast"], ["dqn.lr", "fast", "Float"]),
        (["dqn.batch_size=0"], ["dqn.batch_size=0", "1 or more"]),
        (["iir.objective=magic"], ["iir.objective", "td", "distill"]),
        (["iir.percentile=101"], ["iir.percentile", "100"]),
        (["iir.sticky=2"], ["iir.sticky=2", "between 0 and 1"]),
        (["iir.selection_steps=1"], ["iir.selection_steps=1", "rollout.n_envs=2"]),
        (["eval.seed=1999981", "episodes=20"], ["eval.seed=1999981", "2000000"]),
        (["eval.seed=2009999"], ["eval.seed=2009999", "2009999"]),
        (["dqn.target_return=3", "dqn.selection_games=0"], ["target_return=3", "selection_games"]),
        (["checkpoint_steps=2"], ["checkpoint_steps=2", "rollout.n_envs=2"]),
        (["preset=papr"], ["preset=papr", "paper"]),
        (["carry_state=true", "T=2"], ["T=1"]),
        (["exact=true", "carry_state=true"], ["exact=true", "cannot be combined with carry_state"]),
        (["exact=true", "iir.encoding=poisson"], ["exact=true", "iir.encoding=direct"]),
        (["carry_state=true", "iir.encoding=poisson"], ["iir.encoding=direct"]),
        (["carry.window=1"], ["carry.window=1", "between 2"]),
        (["carry_state=true", "carry.burn_in=95"], ["103 frames", "only 99 frames"]),
        (["figure=3"], ["figure=3", "snn_rl.report"]),
        (["play.output=window"], ["play.output=window", "snn_rl.play", "gif"]),
        (["dqn.steps=40"], ["dqn.steps=40", "dqn.learning_starts=40"]),
        (["threads=-1"], ["threads=-1", "between 0"]),
        (["dqn.lr_steps=0"], ["dqn.lr_steps=0", "1 or more"]),
        (["finetune.steps=8"], ["finetune.steps=8", "dqn.learning_starts=40"]),
        (["finetune.sticky=2"], ["finetune.sticky=2", "between 0 and 1"]),
        (["ann=nowhere.safetensors"], ["no such file", "nowhere.safetensors"]),
        (["network=mnhi"], ["network=mnhi", "cartpole, mnih", "16c8s4-32c4s2-256"]),
        (["network=3c50s1"], ["too small"]),
        (["strides=[4,x]"], ["strides", "x", "Integer"]),
        (["pixel_max=0"], ["pixel_max=0"]),
        (["nonsense"], ["key=value"]),
    ],
)
def test_invalid_input_gives_one_line_and_exit_code_2(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refuse(capsys, tmp_path / "run", *arguments)
    for word in words:
        assert word in line
    assert not (tmp_path / "run" / "ann").exists()


def test_a_missing_gpu_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refuse(capsys, tmp_path / "run", "device=cuda")
    assert "no GPU" in line and "device=auto" in line


def test_a_missing_env_gives_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "T=1"])
    with pytest.raises(SystemExit) as stop:
        run_command(Config, train.main)
    assert stop.value.code == 2
    assert "env=CartPole-v1" in capsys.readouterr().err


def test_networks_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    save_network(other, AnalogNetwork(cartpole((1, 40, 120), 2)))
    line = refuse(capsys, tmp_path / "run", f"ann={other}")
    assert "does not fit env=CartPole-v1" in line
    spiking = tmp_path / "spiking.safetensors"
    save_network(spiking, SpikingNetwork(cartpole((3, 40, 120), 2), SpikingOptions(2)))
    assert "spiking" in refuse(capsys, tmp_path / "run", f"ann={spiking}")


def test_an_imported_network_starts_the_chain(uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", f"ann={uninterrupted / 'ann' / 'network.safetensors'}")
    one, other = results(uninterrupted), results(tmp_path / "run")
    name = "network.safetensors/synapses.0.weight"
    assert torch.equal(one[f"ann/{name}"], other[f"ann/{name}"])
    assert not torch.equal(one[f"T1/{name}"], other[f"T1/{name}"])


def test_a_state_dict_of_pytorch_starts_the_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 6, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 12 * 39, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 2),
    )
    file = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), file)
    run_dir = tmp_path / "run"
    assert "strides=[4,2,1]" in refuse(capsys, run_dir, f"ann={file}")
    assert "padding" in refuse(capsys, run_dir, f"ann={file}", "strides=[2]")
    extra = [f"ann={file}", "strides=[3]", "T_start=1"]
    assert "rollout.frame_stack=3" in refuse(capsys, run_dir, *extra, "rollout.frame_stack=1")
    run(run_dir, *extra)
    ann, _ = load_network(run_dir / "ann" / "network.safetensors")
    images = torch.rand(2, 3, 40, 120)
    torch.testing.assert_close(ann(images), theirs(images))
    student, _ = load_network(run_dir / "T1" / "network.safetensors")
    assert isinstance(student, SpikingNetwork) and student.spec == ann.spec
    settings = json.loads((run_dir / "T1" / "settings.json").read_text())
    assert (settings["network"], settings["bias"]) == ("4c6s3-16", True)
    metrics = json.loads((run_dir / "T1" / "metrics.json").read_text())
    assert all(0 <= metrics[column]["agreement"] <= 1 for column in ("greedy", "sticky"))
    assert "agreement" in (run_dir / "report.md").read_text()
    line = refuse(capsys, run_dir, *extra, "pixel_max=255")
    assert "pixel_max was absent, now 255" in line or "pixel_max was None, now 255" in line


def test_training_continues_from_a_given_network(uninterrupted: Path, tmp_path: Path) -> None:
    start = uninterrupted / "ann" / "network.safetensors"
    # with a learning rate of 0, the weights do not change
    still = ["dqn.steps=64", "dqn.lr=0"]
    run(tmp_path / "run", f"init={start}", *still, "T_start=1", "iir.steps=16")
    one, _ = load_tensors(start)
    other, _ = load_tensors(tmp_path / "run" / "ann" / "network.safetensors")
    assert_same(one, other)
    run(tmp_path / "longer", f"init={start}", "T_start=1", "iir.steps=16")
    other, _ = load_tensors(tmp_path / "longer" / "ann" / "network.safetensors")
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_the_ann_is_fine_tuned_under_sticky_actions(
    uninterrupted: Path, tmp_path: Path, fork_killed_at: Callable[..., None]
) -> None:
    extra = ["finetune.steps=160", "finetune.lr=1e-3", "finetune.selection_games=3"]
    extra += ["T_start=1", "iir.steps=40"]
    stages = ("ann-pretrained", "ann", "T1")
    run(tmp_path / "whole", *extra)
    expected = results(tmp_path / "whole", stages)
    before = results(uninterrupted, ["ann"])
    for key, tensor in before.items():
        assert torch.equal(tensor, expected[key.replace("ann/", "ann-pretrained/", 1)])
    name = "network.safetensors/synapses.0.weight"
    assert not torch.equal(expected[f"ann-pretrained/{name}"], expected[f"ann/{name}"])

    def settings(stage: str) -> dict[str, Any]:
        return json.loads((tmp_path / "whole" / stage / "settings.json").read_text())

    assert [settings(stage)["rollout.sticky"] for stage in stages] == [0.0, 0.25, 0.0]
    assert [settings(stage)["dqn.steps"] for stage in stages[:2]] == [400, 160]
    assert [settings(stage).get("source") for stage in stages] == [None, "ann-pretrained", "ann"]
    _, notes = load_tensors(tmp_path / "whole" / "ann" / "network.safetensors")
    assert notes["selection"] == [{"games": 3, "sticky": 0.0}, {"games": 3, "sticky": 0.25}]
    assert [step for step, _ in notes["scores"]] == [80, 160], "all checkpoints of the second half"
    counted = (read_counters(tmp_path / "whole" / stage) for stage in stages[1:])
    tuned, student = (each for each in counted if each is not None)
    assert tuned.rows == tuned.calls, "fine-tuning starts with an empty replay buffer"
    assert student.rows == tuned.rows + student.calls, "T1 continues with the rows of the ANN"
    assert tuned.updates <= (160 - 40) // 2, "no updates during the first, random steps"
    text = (tmp_path / "whole" / "report.md").read_text()
    assert "| ANN, pretrained | 400 |" in text and "| ANN | 160 |" in text

    killed = tmp_path / "killed"
    shutil.copytree(uninterrupted / "ann", killed / "ann-pretrained")
    fork_killed_at("after", 4, partial(run, killed, *extra))  # the first checkpoint
    assert not (killed / "ann" / "done.json").exists()
    run(killed, *extra)
    assert_same(expected, results(killed, stages))


def test_lr_steps_sets_the_learning_rate_independently_of_the_length(
    tmp_path: Path,
) -> None:
    def weights(name: str, *extra: str) -> torch.Tensor:
        # every return reaches the target: the stage ends at the first checkpoint with low epsilon
        run(tmp_path / name, "stages=none", "T=2", "dqn.target_return=0", *extra)
        counters = read_counters(tmp_path / name / "ann")
        assert counters is not None and [step for step, _ in counters.scores] == [160]
        return results(tmp_path / name, ["ann"])["ann/network.safetensors/synapses.0.weight"]

    short = weights("short")
    assert torch.allclose(short, weights("same", "dqn.steps=800", "dqn.lr_steps=400"), atol=1e-6)
    assert torch.equal(short, weights("clipped", "dqn.lr_steps=9999"))
    assert not torch.allclose(short, weights("slow", "dqn.steps=800"), atol=1e-6)


CARRIED = [
    "rollout.frame_stack=1",
    "network=8c8s4-8c4s2",
    "T_start=1",
    "carry_state=true",
    "carry.steps=200",
    "carry.leak=0.5",
]


def test_a_carried_chain_with_a_teacher_of_more_frames_survives_kills(
    uninterrupted: Path, tmp_path: Path, fork_killed_at: Callable[..., None]
) -> None:
    extra = [*CARRIED, f"teacher={uninterrupted / 'ann' / 'network.safetensors'}"]
    run(tmp_path / "whole", *extra)
    stages = ("ann", "T1", "T1-carried")
    expected = results(tmp_path / "whole", stages)
    for stage in stages:
        assert expected[f"{stage}/network.safetensors/synapses.0.weight"].shape[1] == 1
    assert (expected["T1/network.safetensors/neurons.0.leak"] == 1.0).all()
    leak = expected["T1-carried/network.safetensors/neurons.0.leak"]
    assert leak != 0.5 and 0 < leak < 1, "the leak starts at 0.5 and is trained"
    killed = tmp_path / "killed"
    run(killed, *extra[:-2], extra[-1], "carry_state=false")
    for moment, writes in (("half", 6), ("after", 2)):  # the first and the second checkpoint
        fork_killed_at(moment, writes, partial(run, killed, *extra))
        assert (killed / "T1-carried").exists()
        assert not (killed / "T1-carried" / "done.json").exists()
    run(killed, *extra)
    assert_same(expected, results(killed, stages))


PRIVILEGED = [
    *("teacher=state", "T_start=1", "state.steps=240", "state.checkpoint_steps=80"),
    *("state.n_envs=2", "state.hidden=8", "state.learning_starts=20", "state.explore_steps=20"),
    *("state.batch_size=8", "state.quantiles=3", "state.buffer_size=100", "student.steps=200"),
    "student.batch_size=8",
    *("state.train_freq=4", "state.gradient_steps=2", "student.guided_steps=100"),
]


def test_a_chain_with_a_privileged_teacher_survives_kills(
    tmp_path: Path, fork_killed_at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, *PRIVILEGED)
    stages = ("teacher", "ann", "T1")
    expected = results(whole, stages)
    assert torch.equal(expected["ann/steps"], torch.tensor([200, expected["ann/steps"][1]]))
    report = (whole / "report.md").read_text()
    assert "<summary>Teacher</summary>" in report
    assert "The agents in the table observe images only." in report
    # the second checkpoint of the teacher, and of its student
    for stage, writes in (("teacher", 9), ("ann", 12)):
        fork_killed_at("half", writes, partial(run, killed, *PRIVILEGED))
        assert (killed / stage / "state.safetensors").exists()
        assert not (killed / stage / "done.json").exists()
    run(killed, *PRIVILEGED)
    assert_same(expected, results(killed, stages))
    # The student's settings do not concern the finished teacher.
    line = refuse(capsys, killed, *PRIVILEGED, "student.lr=0.5")
    assert f"{killed / 'ann'} was started with other settings: student.lr" in line


def test_an_exact_stage_is_added_to_a_finished_chain(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    run(tmp_path / "run", "exact=true")
    printed = capsys.readouterr().out.splitlines()
    float_network, _ = load_network(tmp_path / "run" / "T1" / "network.safetensors")
    network, notes = load_network(tmp_path / "run" / "T1-exact" / "network.safetensors")
    assert isinstance(float_network, SpikingNetwork) and isinstance(network, SpikingNetwork)
    assert_same(network.state_dict(), quantize(float_network).state_dict())
    assert notes["steps"] == notes["updates"] == 0
    assert [row["name"] for row in notes["layers"]] == ["conv1", "fc1"]
    metrics = json.loads((tmp_path / "run" / "T1-exact" / "metrics.json").read_text())
    assert metrics["greedy"]["episodes"] == 1
    ann, exact, file, following, *commands = printed[-7:]
    assert ann.startswith("ann: ") and file == f"report: {tmp_path / 'run' / 'report.md'}"
    greedy, sticky = (f"{metrics[column]['mean']:.1f}" for column in ("greedy", "sticky"))
    assert exact == f"T1-exact: mean return {greedy} greedy, {sticky} with sticky actions"
    # The printed commands select this stage.
    assert following == "next:" and len(commands) == 3
    for command, name in zip(commands, ("play", "evaluate", "export"), strict=True):
        program, found, *words = command.split()
        assert (program, found) == ("snn-rl", name)
        assert find_stage(compose(Config, words)).directory == tmp_path / "run" / "T1-exact"
    report = (tmp_path / "run" / "report.md").read_text()
    assert report.index("| T1-exact |") > report.index("| T1 |")
    assert_same(results(uninterrupted), results(tmp_path / "run"))


def test_the_teacher_determines_the_weights(uninterrupted: Path, tmp_path: Path) -> None:
    ann = uninterrupted / "ann" / "network.safetensors"
    small = ["dqn.steps=80", "T_start=1", "iir.steps=16"]
    run(tmp_path / "taught", f"teacher={ann}", *small)
    network, _ = load_network(ann)
    torch.nn.init.normal_(network.head.weight)
    other = tmp_path / "other.safetensors"
    save_network(other, network)
    run(tmp_path / "other", f"teacher={other}", *small)
    names = ("ann/network.safetensors/head.weight", "T1/network.safetensors/head.weight")
    one, two = (results(tmp_path / name, ("ann", "T1")) for name in ("taught", "other"))
    assert all(not torch.equal(one[name], two[name]) for name in names)


def test_a_teacher_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for network, extra, words in (
        (AnalogNetwork(cartpole((2, 40, 120), 2)), [], ["(2, 40, 120)", "or more frames"]),
        (
            AnalogNetwork(cartpole((3, 40, 120), 4)),
            [],
            ["with 4 outputs", "(3, 40, 120), or more frames with 2 outputs"],
        ),
        (SpikingNetwork(cartpole((3, 40, 120), 2), SpikingOptions(2)), [], ["spiking", "an ANN"]),
        (AnalogNetwork(cartpole((3, 40, 120), 2)), ["rollout.frames=difference"], ["frames=stack"]),
    ):
        file = tmp_path / "teacher.safetensors"
        save_network(file, network)
        line = refuse(capsys, tmp_path / "run", f"teacher={file}", *extra)
        assert all(word in line for word in words)
    assert not (tmp_path / "run").exists()


def test_conversion_without_retraining_keeps_the_weights(
    uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    run(tmp_path / "run", "stages=none", "T=20")
    converted, _ = load_tensors(tmp_path / "run" / "T20-converted" / "network.safetensors")
    ann, _ = load_tensors(uninterrupted / "ann" / "network.safetensors")
    assert torch.equal(converted["synapses.0.weight"], ann["synapses.0.weight"])
    scale = converted["neurons.0.v_threshold"]
    assert torch.equal(converted["synapses.1.weight"], ann["synapses.1.weight"] * scale)


def interrupted(run_dir: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Interrupts a run with Ctrl-C after a number of files."""
    real = os.replace

    def replace(source: str, target: str) -> None:
        nonlocal writes
        writes -= 1
        if writes < 0:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(SystemExit) as stop:
        run(run_dir)
    assert stop.value.code == 130
    monkeypatch.setattr(os, "replace", real)


@pytest.mark.parametrize("file", ["state.safetensors", "network.safetensors", "settings.json"])
def test_a_finished_stage_that_lacks_a_file_is_refused(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    shutil.rmtree(run_dir / "T1")
    data = (run_dir / "T2" / file).read_bytes()
    (run_dir / "T2" / file).unlink()
    advice = f"delete {run_dir / 'T2' / 'done.json'} to compute the stage again"
    line = refuse(capsys, run_dir)
    assert f"T2/{file} is missing" in line and advice in line
    if file == "state.safetensors":
        (run_dir / "T2" / file).write_bytes(data[: len(data) // 2])
        line = refuse(capsys, run_dir)
        assert f"T2/{file} is damaged" in line and advice in line


def test_files_that_can_be_written_again_may_be_damaged(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    metrics, commands = run_dir / "T1" / "metrics.json", run_dir / "run.json"
    before = metrics.read_text()
    metrics.write_text("{}")
    commands.write_text("5")
    run(run_dir)
    text = capsys.readouterr().out
    assert f"{metrics} is damaged" in text and f"{commands} is damaged" in text
    assert metrics.read_text() == before
    assert len(json.loads(commands.read_text())) == 1
    assert (run_dir / "run.damaged.json").read_text() == "5"


def test_a_full_disk_keeps_the_checkpoint(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    interrupted(run_dir, monkeypatch, 7)
    state = (run_dir / "ann" / "state.safetensors").read_bytes()

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        line = refuse(capsys, run_dir)
    assert "No space left" in line
    assert (run_dir / "ann" / "state.safetensors").read_bytes() == state
    assert not list(run_dir.rglob(".*.tmp"))
    run(run_dir)
    assert_same(results(uninterrupted), results(run_dir))


def test_a_second_process_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_directory.lock(tmp_path / "run"):
        assert "another process" in refuse(capsys, tmp_path / "run")
