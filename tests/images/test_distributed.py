"""Tests that two workers train like one worker with the same batch."""

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from snn_rl import classify as command
from snn_rl.configs.compose import run_command
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.core.conversion import convert, fuse_batch_norm
from snn_rl.core.networks import (
    AnalogNetwork,
    AvgPool,
    Block,
    Conv,
    Dense,
    NetworkSpec,
    SpikingOptions,
)
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_network, load_tensors
from snn_rl.images import distributed
from snn_rl.images.chain import AT_ONE, initialize
from snn_rl.images.checks import check_values
from snn_rl.images.data.splits import MemorySplit
from snn_rl.images.fitting import STATE, Recipe, fit
from snn_rl.images.sync_batch_norm import synchronize_batch_norm
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec(
    (3, 8, 8), (Conv(8, 3, 1, 1), AvgPool(2), Block(12, 2), Dense(16)), 4, batch_norm=True
)
BATCH = 16
TINY = [
    *("dataset=imagenet", "image_size=8", "net=vgg5", "T=1", "direct=true", "precision=float32"),
    *("threads=1", "fit.epochs=2", "fit.batch_size=4", "iir.t1_epochs=1", "iir.batch_size=4"),
]


class Interrupted(Exception):
    """Replaces a kill."""


class Pictures(MemorySplit):
    """Split of 48 random images that raises `Interrupted` after a number of passes."""

    def __init__(self, passes: int = 1_000_000):
        generator = torch.Generator().manual_seed(3)
        pixels = torch.randint(256, (48, 8, 8, 3), generator=generator, dtype=torch.uint8)
        labels = torch.randint(4, (48,), generator=generator)
        super().__init__(pixels, labels, torch.full((3,), 0.5), torch.full((3,), 0.3))
        self.passes = passes

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[tuple[Tensor, Tensor]]:
        if self.passes == 0:
            raise Interrupted
        self.passes -= 1
        return super().batches(*args, **kwargs)


def train(directory: Path, spiking: bool, split: MemorySplit, dropout: float = 0.0) -> None:
    """Trains an ANN, or a spiking network distilled from an ANN, for a few steps in float64."""
    torch.manual_seed(7)
    analog = AnalogNetwork(SPEC)
    initialize(analog)
    network: Any = analog.double()
    recipe = Recipe(3, lambda progress: 0.05, BATCH, dropout, label_smoothing=0.1)
    if spiking:
        images = next(Pictures().batches(48))[0]
        teacher = fuse_batch_norm(analog).eval()
        network = convert(analog.float(), images, SpikingOptions(2)).double()
        teacher = teacher.double()
        taught = {"distill": 0.5, "temperature": 2.0, "teacher": teacher}
        recipe = Recipe(3, lambda progress: 0.002, BATCH, dropout, **taught)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9)
    if spiking:
        optimizer = torch.optim.Adam(trained, 0.1)
    fit(network, optimizer, split, recipe, directory, (0,))


def normalized(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Returns outputs, gradients, and state of batch norm after two passes with a summed loss."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        out = layer(x)
        (out * out.sigmoid()).sum().backward()
    (norm,) = (m for m in layer.modules() if isinstance(m, nn.BatchNorm2d))
    state = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    assert x.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    found = {"out": out, "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    return state | {
        f"{name}.result": tensor.detach().contiguous() for name, tensor in found.items()
    }


def batch_norm_case() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64)
    # the two halves have different statistics
    x[3:] = 5 + 3 * x[3:]
    return nn.Sequential(norm), x


@pytest.fixture(scope="session")
def workers(fork: Callable[..., Any]) -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """Runs a function in two workers, as torchrun does, but in forked processes."""

    def run(function: Callable[[], object]) -> list[subprocess.CompletedProcess[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])

        def worker(rank: int) -> None:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            function()

        processes = [fork(partial(worker, rank)) for rank in range(2)]
        return [process.wait() for process in processes]

    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, workers: Callable[..., Any]) -> Path:
    """Returns the directory with the results of two workers."""
    directory: Path = tmp_path_factory.mktemp("two")

    def function() -> None:
        with distributed.workers():
            work(directory)

    for done in workers(function):
        assert done.returncode == 0, done.stderr
    return directory


def test_batch_norm_uses_the_whole_batch(two: Path) -> None:
    expected = normalized(*batch_norm_case())
    halves = [load_file(two / f"norm{k}.safetensors") for k in range(2)]
    for name, value in expected.items():
        got = [half[name] for half in halves]
        if name in ("out.result", "x.result"):
            whole = torch.cat(got)
        elif name.endswith(".result"):  # gradients of parameters cover only the own images
            whole = got[0] + got[1]
        else:
            torch.testing.assert_close(got[0], got[1], rtol=0, atol=0)
            whole = got[0]
        torch.testing.assert_close(whole, value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spiking", [False, True])
def test_two_workers_match_one_worker(two: Path, tmp_path: Path, spiking: bool) -> None:
    name = "spiking" if spiking else "analog"
    train(tmp_path, spiking, Pictures())
    one, notes = load_tensors(tmp_path / STATE)
    both, their_notes = load_tensors(two / name / STATE)
    assert one.keys() == both.keys()
    floats = [key for key, tensor in one.items() if tensor.dtype == torch.float64]
    assert "network.head.weight" in floats and "optimizer.0." in " ".join(floats)
    for key, tensor in one.items():
        torch.testing.assert_close(both[key], tensor, rtol=0, atol=1e-6)
    ours, theirs = notes["counters"]["history"], their_notes["counters"]["history"]
    assert len(ours) == len(theirs) == 3
    assert ours[0]["loss"] != ours[-1]["loss"]
    for mine, other in zip(ours, theirs, strict=True):
        assert other["loss"] == pytest.approx(mine["loss"], abs=1e-6)
        assert other["accuracy"] == mine["accuracy"]


@pytest.mark.parametrize("batch_size", [16, 20])
def test_shards_form_the_batch(batch_size: int) -> None:
    def read(shard: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(5)
        split = Pictures()
        return list(split.batches(batch_size, generator=generator, augment=True, shard=shard))

    whole, shards = read((0, 1)), [read((k, 2)) for k in range(2)]
    assert [len(labels) for _, labels in whole] == [
        min(batch_size, 48 - k * batch_size) for k in range(3)
    ]
    for (images, labels), *parts in zip(whole, *shards, strict=True):
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
        assert len(parts[0][1]) == len(parts[1][1])


def test_an_empty_shard_of_the_last_batch_is_skipped() -> None:
    sizes = [[len(labels) for _, labels in Pictures().batches(47, shard=(k, 2))] for k in (0, 1)]
    assert sizes == [[24, 1], [23]]


def test_interrupted_workers_resume_to_the_same_bits(two: Path) -> None:
    whole = load_tensors(two / "dropout" / STATE)[0]
    resumed = load_tensors(two / "resumed" / STATE)[0]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_workers_have_different_dropout_masks(two: Path) -> None:
    masks = [load_file(two / f"random{k}.safetensors")["draw"] for k in range(2)]
    assert not torch.equal(*masks)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of images in ImageNet's layout."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for half, count in (("train", 8), ("val", 3)):
        for name in ("cat", "dog"):
            (folder / half / name).mkdir(parents=True)
            for k in range(count):
                pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / half / name / f"{k}.png")
    return folder


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: Any, *arguments: str) -> str:
    """Runs the command in this process and returns its one-line error message."""
    monkeypatch.setattr(sys, "argv", ["classify", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(ClassifyConfig, command.main)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_torchrun_sets_the_variables_of_forked_workers() -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    shown = (
        "echo " + " ".join(f"${name}" for name in names) + " ${MASTER_ADDR:+a} ${MASTER_PORT:+p}"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*run, "--no-python", "sh", "-c", shown], capture_output=True, text=True)
    assert sorted(done.stdout.splitlines()) == ["0 0 2 2 a p", "1 1 2 2 a p"], done.stderr


def test_the_command_with_two_workers(
    pictures: Path,
    tmp_path: Path,
    workers: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    settings = [*TINY, "direct=false", "T_start=2"]
    settings += [f"data={pictures}", f"run_dir={tmp_path / 'run'}"]

    def function() -> None:
        sys.argv = ["classify", *settings]
        runpy.run_module("snn_rl.classify", run_name="__main__")

    done = workers(function)
    assert all(each.returncode == 0 for each in done), done
    assert "".join(each.stdout for each in done).count("report: ") == 1
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "torchrun --nnodes 1 --nproc-per-node 2 -m snn_rl.classify dataset=imagenet" in report
    network, notes = load_network(tmp_path / "run" / "T1" / "network.safetensors")
    assert network.spec.outputs == 2 and notes["updates"] == 4
    for file in ("T1/metrics.json", f"T2/{AT_ONE}"):
        score = read_json(tmp_path / "run" / file)
        assert score["images"] == 6 and (score["accuracy"] * 6) % 1 == pytest.approx(0)

    line = refused(capsys, monkeypatch, *settings)
    assert "was started with other settings: workers was 2, now absent" in line


def test_an_error_of_one_worker_is_one_line(
    pictures: Path, tmp_path: Path, workers: Callable[..., Any]
) -> None:
    (pictures / "val" / "dog" / "2.png").write_bytes(b"no picture")  # read by the second worker

    def function() -> None:
        sys.argv = ["classify", *TINY, f"data={pictures}", f"run_dir={tmp_path}"]
        runpy.run_module("snn_rl.classify", run_name="__main__")

    done = workers(function)
    assert all(each.returncode != 0 for each in done)
    stderr = "".join(each.stderr for each in done)
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "2.png is damaged" in lines[0]
    assert "Traceback" not in stderr


def test_a_batch_must_be_divisible_by_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClassifyConfig(dataset="cifar10")
    check_values(config)
    monkeypatch.setattr(distributed, "size", lambda: 3)
    with pytest.raises(UserError, match="batch_size=128 must be a multiple of 3"):
        check_values(config)


def test_every_worker_needs_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.own_device(torch.device("cuda")) == torch.device("cuda")  # one worker
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.own_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(UserError, match="worker 2 of this machine has no GPU: there are 1"):
        distributed.own_device(torch.device("cuda"))


def work(directory: Path) -> None:
    """Runs the trainings of the fixture `two` in one worker."""
    rank, size = distributed.rank(), distributed.size()
    layer, x = batch_norm_case()
    synchronize_batch_norm(layer)
    save_file(normalized(layer, x.chunk(size)[rank]), directory / f"norm{rank}.safetensors")
    train(directory / "analog", False, Pictures())
    train(directory / "spiking", True, Pictures())
    train(directory / "dropout", False, Pictures(), dropout=0.5)
    save_file({"draw": torch.rand(9)}, directory / f"random{rank}.safetensors")
    try:
        train(directory / "resumed", False, Pictures(passes=2), dropout=0.5)
    except Interrupted:
        distributed.barrier()  # the first worker has saved the state
        train(directory / "resumed", False, Pictures(), dropout=0.5)
