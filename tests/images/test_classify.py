"""Tests of the classify command on a few images in folders."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from snn_rl import classify as command
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    AnalogNetwork,
    AvgPool,
    Block,
    Conv,
    Dropout,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.core.networks.spec import ImageShape
from snn_rl.files.checkpoint import load_network, load_tensors
from snn_rl.images.chain import AT_ONE
from snn_rl.images.data.datasets import open_dataset

pytestmark = pytest.mark.usefixtures("without_figures")

SMALL = [
    "dataset=imagenet",
    "image_size=16",
    "net=small",
    "limit=40",
    "threads=1",
    "T_start=2",
    "fit.epochs=2",
    "fit.batch_size=20",
    "iir.batch_size=20",
    "iir.t1_epochs=0",
    "iir.conversion_samples=20",
    "precision=float32",
]
STAGES = ("ann", "T2", "T1")


def small(shape: ImageShape, classes: int, batch_norm: bool, pooling: type[AvgPool]) -> NetworkSpec:
    """Returns a residual network with the blocks of resnet8, but fewer channels."""
    layers = (Conv(32, 3, 1, 1), Dropout(), pooling(2), Block(32, 1), Block(64, 2))
    return NetworkSpec(shape, layers, classes, batch_norm=batch_norm)


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(IMAGE_NETWORKS, "small", small)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("images"), seed=0)


def pictures(folder: Path, seed: int) -> Path:
    """Writes noise images of four classes that differ in brightness."""
    rng = np.random.default_rng(seed)
    for half, count in (("train", 12), ("val", 5)):
        for label in range(4):
            directory = folder / half / f"n{label}"
            directory.mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(50 * label, 50 * label + 40, (36, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(directory / f"{n}.png")
    return folder


def run(data: Path, run_dir: Path, *extra: str) -> None:
    arguments, sys.argv = (
        sys.argv,
        ["classify", *SMALL, f"data={data}", f"run_dir={run_dir}", *extra],
    )
    try:
        run_command(ClassifyConfig, command.main)
    finally:
        sys.argv = arguments


def refuse(capsys: pytest.CaptureFixture[str], data: Path, run_dir: Path, *extra: str) -> str:
    """Returns the one-line error message of the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(data, run_dir, *extra)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def finished(
    data: Path, tmp_path_factory: pytest.TempPathFactory, fork: Callable[..., Any]
) -> Path:
    run_dir: Path = tmp_path_factory.mktemp("runs") / "finished"
    assert fork(partial(run, data, run_dir)).wait().returncode == 0
    return run_dir


def test_the_chain_trains_scores_and_reports_every_stage(finished):
    ann, t2, t1 = (load_network(finished / name / "network.safetensors")[0] for name in STAGES)
    assert isinstance(ann, AnalogNetwork) and ann.spec.batch_norm
    assert isinstance(t2, SpikingNetwork) and isinstance(t1, SpikingNetwork)
    assert (t2.timesteps, t1.timesteps) == (2, 1)
    assert not torch.equal(t2.synapses[0].weight, t1.synapses[0].weight)
    report = (finished / "report.md").read_text()
    for name in ("| ANN |", "| T2 |", "| T1 |"):
        assert name in report
    for name in STAGES:
        metrics = json.loads((finished / name / "metrics.json").read_text())
        assert f"{metrics['accuracy']:.2%}" in report
        assert metrics["images"] == 20
    entry = json.loads((finished / "run.json").read_text())[0]
    assert entry["versions"]["torch"] == torch.__version__


def test_weights_of_every_stage_are_scored_at_one_timestep(data, finished):
    trained, _ = load_network(finished / "T2" / "network.safetensors")
    at_one = SpikingNetwork(trained.spec, SpikingOptions(1))
    at_one.load_state_dict(trained.state_dict())
    images, labels = next(open_dataset("imagenet", data, 16).test.batches(20))
    with torch.no_grad():
        outputs, layers = at_one.eval().activity(images)
    found = json.loads((finished / "T2" / AT_ONE).read_text())
    assert found["accuracy"] == float((outputs.argmax(1) == labels).double().mean())
    expected = [float(layer.mean()) for layer in layers]
    np.testing.assert_allclose(found["spike_rates"], expected, rtol=1e-5)
    own = json.loads((finished / "T2" / "metrics.json").read_text())["spike_rates"]
    assert sum(found["spike_rates"]) < sum(own)
    assert not (finished / "T1" / AT_ONE).exists() and not (finished / "ann" / AT_ONE).exists()
    report = (finished / "report.md").read_text()
    section = report.split("## Vanishing spikes")[1].split("\n## ")[0]
    for name, rate in (("T2", own[0]), ("T1 of T2", expected[0])):
        (row,) = [line for line in section.splitlines() if line.startswith(f"| {name} |")]
        assert f"{rate:.4f}" in row
    assert "| T1 |" in section
    with Image.open(finished / "figures" / "vanishing.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.parametrize(("count", "moment"), [(5, "after"), (9, "before")])
def test_a_killed_run_resumes_to_the_same_bits(
    data, finished, tmp_path, fork_killed_at, count, moment
):
    fork_killed_at(moment, count, partial(run, data, tmp_path))
    assert not (tmp_path / "T1" / "done.json").exists()
    run(data, tmp_path)
    for name in STAGES:
        one, other = (
            load_tensors(d / name / "network.safetensors")[0] for d in (finished, tmp_path)
        )
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_conversion_only_and_direct_retraining_share_the_ann(data, finished, tmp_path):
    file = finished / "ann" / "network.safetensors"
    run(data, tmp_path, f"ann={file}", "stages=none", "T=6")
    run(data, tmp_path, f"ann={file}", "direct=true", "prune=0.9")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        *("ann", "T6-converted", "T1-direct", "T1-direct-pruned")
    }
    assert "T6-converted" in (tmp_path / "report.md").read_text()
    pruned, _ = load_network(tmp_path / "T1-direct-pruned" / "network.safetensors")
    assert float((pruned.synapses[0].weight == 0).float().mean()) == pytest.approx(0.9, abs=0.01)


def test_training_from_scratch_needs_no_ann(data, tmp_path):
    run(data, tmp_path, "scratch=true", "iir.distill=0", "iir.epochs=2")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["T1-scratch"]
    network, notes = load_network(tmp_path / "T1-scratch" / "network.safetensors")
    assert isinstance(network, SpikingNetwork)
    assert notes["updates"] == 2 * 2
    assert "| T1-scratch |" in (tmp_path / "report.md").read_text()


def test_a_finished_stage_rejects_other_training_images(capsys, data, finished, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    others = pictures(tmp_path / "others", seed=1)
    line = refuse(capsys, others, run_dir)
    counted = "40 images of 4 classes, [0-9a-f]{16}"
    assert re.search(
        f"ann was started with other settings: training_images was {counted}, now {counted}", line
    )

    # the same images in another folder
    run(shutil.copytree(data, tmp_path / "moved"), run_dir)

    # settings without a fingerprint of the images, from older versions, are accepted
    for name in STAGES:
        path = run_dir / name / "settings.json"
        settings = json.loads(path.read_text())
        del settings["training_images"]
        path.write_text(json.dumps(settings))
    run(others, run_dir)


def test_other_test_images_are_scored_again(data, finished, tmp_path):
    run_dir = shutil.copytree(finished, tmp_path / "run")
    metrics = run_dir / "T1" / "metrics.json"
    before = metrics.read_bytes()
    run(shutil.copytree(data, tmp_path / "moved"), run_dir)
    assert metrics.read_bytes() == before
    other = tmp_path / "other"
    shutil.copytree(data / "train", other / "train")
    shutil.copytree(pictures(tmp_path / "noise", seed=1) / "val", other / "val")
    run(other, run_dir)
    kept, measured = json.loads(before), json.loads(metrics.read_text())
    assert kept["test_images"] != measured["test_images"]
    assert kept["images"] == measured["images"] == 20

    # scores without a fingerprint, from older versions, are kept
    del kept["test_images"]
    metrics.write_text(json.dumps(kept))
    run(other, run_dir)
    assert json.loads(metrics.read_text()) == kept


def test_a_finished_stage_rejects_other_settings(capsys, data, finished):
    line = refuse(capsys, data, finished, "fit.lr=0.01")
    assert "fit.lr was 0.05, now 0.01" in line


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dataset=cifar10 image_size=null data=/nowhere/at/all", "/nowhere/at/all"),
        ("dataset=cifar11", "dataset=cifar11: must be one of .* did you mean cifar10"),
        ("net=vgg7", "did you mean vgg"),
        ("net=atari", "net=atari"),
        ("T=0", "T=0"),
        ("T=9", "T=9 must not exceed T_start=2"),
        ("pooling=median", "pooling=median: must be one of avg, max"),
        ("fit.schedule=step", "did you mean steps"),
        ("fit.lr=0", "fit.lr=0.0: must be above 0"),
        ("fit.epochs=0", "fit.epochs=0: must be 1 or more"),
        ("fit.dropout=1", "fit.dropout=1.0: must be at least 0 and below 1"),
        ("iir.distill=1.5", "iir.distill=1.5: must be between 0 and 1"),
        ("iir.percentile=101", "iir.percentile=101.0: must be above 0 and at most 100"),
        ("limit=0", "limit"),
        ("scratch=true", "requires iir.distill=0"),
        ("scratch=true iir.distill=0 prune=0.5", "scratch=true trains a single stage"),
        ("test_limit=99", "test_limit=99 exceeds the 20 available test images"),
        ("iir.batch_size=99", "iir.batch_size=99 exceeds the 40 available training images"),
        ("image_size=2 net=vgg16", "net=vgg16: images of .* are too small"),
        ("iir.thresholds_from=nothing.safetensors", "file not found"),
        ("prune=1", "prune=1.0: must be at least 0 and below 1"),
        ("prune=0.5 stages=none", "prune requires stages=iir"),
        ("ann=nothing.safetensors", "file not found"),
        ("preset=fast", "preset=fast"),
        ("fit.epoch=3", "did you mean fit.epochs"),
        ("fit.epochs=many", "fit.epochs"),
        ("data=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_bad_settings_are_a_one_line_error(capsys, data, tmp_path, setting, message):
    run_dir = tmp_path / "run"
    line = refuse(capsys, data, run_dir, *setting.split())
    assert re.search(message, line)
    assert not list(run_dir.glob("*/state.safetensors"))


def test_an_imported_ann_must_match_the_settings(capsys, data, finished, tmp_path):
    spiking, file = (finished / name / "network.safetensors" for name in ("T1", "ann"))
    for setting in (f"ann={spiking}", f"ann={file} batch_norm=false"):
        run_dir = tmp_path / setting[-5:]
        line = refuse(capsys, data, run_dir, *setting.split())
        assert "is not the analog network" in line


def test_the_paper_preset_has_the_published_settings():
    config = compose(ClassifyConfig, ["dataset=cifar10", "preset=paper"])
    assert (config.fit.epochs, config.fit.lr, config.fit.dropout) == (500, 0.01, 0.5)
    assert (config.iir.epochs, config.iir.lr, config.iir.dropout) == (300, 1e-4, 0.2)
    assert (config.iir.distill, config.iir.percentile) == (0, 90)
    assert config.iir.surrogate == "linear"


@pytest.mark.parametrize(
    ("settings", "lr"),
    [
        ("net=vgg6", 1e-3),
        ("net=vgg16", 1e-4),
        ("net=resnet20", 1e-4),
        ("net=resnet34", 1e-4),
        ("net=vgg16 iir.lr=0.5", 0.5),
    ],
)
def test_deep_networks_have_a_lower_learning_rate(settings, lr):
    overrides = ["dataset=cifar10", *settings.split()]
    assert compose(ClassifyConfig, overrides).iir.lr == lr


def test_a_sweep_does_not_overwrite_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dataset=cifar10", "net=vgg5", "test_limit=100,200"]
    monkeypatch.setattr(sys, "argv", ["classify", "-m", *words])
    with pytest.raises(SystemExit) as stop:
        run_command(ClassifyConfig, pytest.fail, results=command.results)
    assert stop.value.code == 2
    assert "would both write to runs/cifar10-vgg5/seed0/ann" in capsys.readouterr().err
