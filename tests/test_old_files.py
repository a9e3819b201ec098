"""Backward compatibility: resumes, evaluates and reports runs written by an earlier revision.

The fixtures in data/ are two runs that were stopped in the middle of their T=1 stage, and a
published zoo folder. The tests use only commands, as `python -m` would run them. On a machine with
the same package versions and the same float rounding as the one that wrote the fixtures (`probe`),
results must be bit-identical. On other machines a rounding error can flip a spike and then an
action, so the tests compare the weights with a tolerance: the largest change that training makes.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"
CARTPOLE = [
    *("env=CartPole-v1", "T=1", "T_start=2", "seed=0", "network=4c8s8-8", "precision=float32"),
    *("device=cpu", "threads=1", "video=false", "episodes=2", "checkpoint_steps=40"),
    *("rollout.n_envs=2", "rollout.cap=100", "dqn.steps=120", "dqn.learning_starts=40"),
    *("dqn.batch_size=8", "dqn.buffer_size=100", "dqn.target_update_interval=50"),
    *("dqn.epsilon_steps=60", "dqn.selection_games=2", "iir.steps=80", "iir.t1_steps=0"),
    *("iir.batch_size=8", "iir.conversion_samples=32"),
]
IMAGES = [
    *("dataset=imagenet", "image_size=4", "net=vgg5", "T=1", "T_start=2", "seed=0"),
    *("precision=float32", "device=cpu", "threads=1", "iir.epochs=2", "iir.t1_epochs=0"),
    *("iir.batch_size=6", "iir.conversion_samples=12"),
]
AGENT = ["env=CartPole-v1", "T=1", "T_start=2", "device=cpu", "threads=1"]
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "opencv-python", "pillow")


@pytest.fixture
def succeed(command: Callable[..., Any]) -> Callable[..., None]:
    """Runs `python -m snn_rl.<name>`, which must succeed."""

    def run(name: str, *arguments: str) -> None:
        done = command(f"snn_rl.{name}", *arguments)
        assert done.returncode == 0, done.stderr

    return run


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all tensors: names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@cache
def probe() -> str:
    """Hash of the package versions and of a few training steps in plain PyTorch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            *(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Conv2d(4, 64, 3, padding=1), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 2 * 7, 8), nn.ReLU(), nn.Linear(8, 2)),
        ).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(layers.parameters(), 1e-3, fused=True)
        for _ in range(5):
            images = torch.rand(8, 3, 40, 120).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            (layers(images).log_softmax(1) * torch.rand(8, 2)).mean().backward()
            optimizer.step()
    versions = " ".join(f"{name} {version(name)}" for name in PACKAGES)
    return hashlib.sha256((versions + digest(layers.state_dict())).encode()).hexdigest()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def check(run_dir: Path, source: Path, measured: dict[str, Any]) -> None:
    """Compares the T=1 stage of a resumed run with what the earlier revision made of it."""
    expected = read(source / "expected.json")
    tensors = load_file(run_dir / "T1" / "network.safetensors")
    if probe() == expected["probe"]:
        assert digest(tensors) == expected["weights"]
        assert measured == expected["metrics"]
    reference = load_file(source / "expected_T1.safetensors")
    before = load_file(run_dir / "T2" / "network.safetensors")
    assert tensors.keys() == reference.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == reference[name].dtype
        torch.testing.assert_close(tensor, reference[name], rtol=0, atol=expected["tolerance"])
    assert any(not torch.equal(tensor, before[name]) for name, tensor in tensors.items())


def returns(metrics: dict[str, Any]) -> dict[str, Any]:
    return {column: metrics[column]["returns"] for column in ("greedy", "sticky")}


def accuracy(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: metrics[key] for key in ("accuracy", "images", "spike_rates")}


def test_old_run_resumes_and_is_evaluated(tmp_path: Path, succeed: Callable[..., None]) -> None:
    source = DATA / "old_run"
    run_dir = tmp_path / "old_run"
    shutil.copytree(source, run_dir)
    stages = [run_dir / stage / "network.safetensors" for stage in ("ann", "T2")]
    stamps = [path.stat().st_mtime_ns for path in stages]
    succeed("train", *CARTPOLE, f"run_dir={run_dir}")
    assert [path.stat().st_mtime_ns for path in stages] == stamps
    check(run_dir, source, returns(read(run_dir / "T1" / "metrics.json")))
    succeed("evaluate", *AGENT, f"run_dir={run_dir}", "episodes=3")
    evaluation = read(run_dir / "T1" / "evaluation.json")
    first_two = {column: games[:2] for column, games in returns(evaluation).items()}
    assert first_two == returns(read(run_dir / "T1" / "metrics.json"))
    (run_dir / "report.md").unlink()
    succeed("report", "env=CartPole-v1", f"run_dir={run_dir}")
    report = (run_dir / "report.md").read_text()
    assert all(f"| {stage} |" in report for stage in ("ANN", "T2", "T1"))


def test_old_image_run_resumes(tmp_path: Path, succeed: Callable[..., None]) -> None:
    with zipfile.ZipFile(DATA / "old_image_run" / "old_image_run.zip") as archive:
        archive.extractall(tmp_path)
    run_dir = tmp_path / "old_image_run"
    words = [f"ann={tmp_path / 'ann.safetensors'}", f"data={tmp_path / 'images'}"]
    succeed("classify", *IMAGES, *words, f"run_dir={run_dir}")
    check(run_dir, tmp_path, accuracy(read(run_dir / "T1" / "metrics.json")))
    report = (run_dir / "report.md").read_text()
    assert all(f"| {stage} |" in report for stage in ("ANN", "T2", "T1"))


@pytest.mark.parametrize("timesteps", [1, 2])
def test_old_published_agent_scores_as_before(
    timesteps: int, tmp_path: Path, succeed: Callable[..., None]
) -> None:
    folder = tmp_path / "CartPole-v1"
    shutil.copytree(DATA / "old_zoo" / "CartPole-v1", folder)
    published = read(folder / f"T{timesteps}" / "metrics.json")
    (folder / "ann" / "metrics.json").unlink()  # so that the ANN plays, too
    trials = ["episodes=2", "eval.seed=3000000", f"run_dir={folder}"]
    succeed("evaluate", *AGENT, f"T={timesteps}", *trials)
    evaluation = read(folder / f"T{timesteps}" / "evaluation.json")
    assert evaluation["evaluation"] == published["evaluation"]
    assert [len(games) for games in returns(evaluation).values()] == [2, 2]
    if probe() == read(DATA / "old_zoo" / "expected.json")["probe"]:
        assert returns(evaluation) == returns(published)
