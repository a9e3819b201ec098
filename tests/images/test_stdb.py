"""Tests of the method of [STDB]: truncated backpropagation, scoring, and the preset's chain."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from snn_rl import classify as command
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    WINDOW,
    AnalogNetwork,
    AvgPool,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.core.networks.spec import ImageShape
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_network
from snn_rl.images.data.splits import Dataset, MemorySplit, first_balanced, symmetric
from snn_rl.images.fitting import Recipe, backward
from snn_rl.images.scoring import score
from snn_rl.reports import figures

SPEC = NetworkSpec((3, 8, 8), (Conv(6, 3, 1, 1), AvgPool(2), Dense(16)), 10)
HALF = torch.full((3,), 0.5)


def split(count: int, side: int = 8) -> MemorySplit:
    """Returns random images."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    return MemorySplit(images, torch.arange(count) % 10, torch.full((3,), 0.4), HALF / 2)


def dataset(train: int, test: int, side: int = 8) -> Dataset:
    halves = (split(train, side), split(test, side))
    return Dataset("cifar10", 10, (3, side, side), torch.full((3,), 0.4), HALF / 2, *halves)


def spiking(timesteps: int, **options: str) -> SpikingNetwork:
    torch.manual_seed(0)
    network = SpikingNetwork(SPEC, SpikingOptions(timesteps, **options))  # type: ignore[arg-type]
    with torch.no_grad():
        for neuron in network.neurons:
            neuron.v_threshold.fill_(0.3)
    return network


def recipe(window: int) -> Recipe:
    return Recipe(1, lambda progress: 0.1, 10, window=window)


def gradients(network: SpikingNetwork, window: int) -> tuple[float, dict[str, Tensor], list[float]]:
    network.zero_grad()
    images, labels = next(split(20).batches(20))
    loss, _, rates = backward(network, network.activity, images, labels, recipe(window))
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    return float(loss), found, rates.tolist()


@pytest.mark.parametrize("surrogate", ["linear", "stdb"])
def test_a_window_of_all_timesteps_does_not_truncate(surrogate):
    network = spiking(6, surrogate=surrogate)
    loss, whole, rates = gradients(network, 0)
    images, labels = next(split(20).batches(20))
    outputs, layers = network.activity(images)
    assert loss == pytest.approx(F.cross_entropy(outputs, labels).item())
    assert rates == pytest.approx([layer.sum(0).mean().item() for layer in layers])
    for window in (6, 50):
        same = gradients(network, window)
        assert same[0] == loss
        assert all(torch.equal(same[1][name], grad) for name, grad in whole.items())


def test_the_gradient_is_the_mean_over_the_windows():
    network = spiking(6, surrogate="stdb")
    loss, found, rates = gradients(network, 4)
    whole_loss, whole, whole_rates = gradients(network, 0)
    assert loss == pytest.approx(whole_loss)
    assert rates == pytest.approx(whole_rates)
    images, labels = next(split(20).batches(20))
    losses = [F.cross_entropy(out, labels) for out, _ in network.windows(images, 4)]
    assert len(losses) == 2
    names, parameters = zip(*network.named_parameters(), strict=True)
    expected = torch.autograd.grad((losses[0] + losses[1]) / 2, parameters)
    for name, grad in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], grad)
    assert not torch.allclose(found["synapses.0.weight"], whole["synapses.0.weight"])


@torch.no_grad()
def test_scoring_in_windows_matches_scoring_all_timesteps_at_once():
    network, images = spiking(2 * WINDOW + 5), split(40)
    result = score(network, images, 16, "test")
    x, labels = next(images.batches(40))
    outputs, layers = network.activity(x)
    assert result.accuracy == (outputs.argmax(1) == labels).double().mean().item()
    assert result.spike_rates == pytest.approx([layer.sum(0).mean().item() for layer in layers])
    assert result.input_rate is None
    assert result.seconds is not None and result.seconds > 0


def test_the_input_rate_of_poisson_encoding_is_the_expected_rate():
    opened = symmetric(dataset(20, 40))
    result = score(spiking(30, encoding="poisson"), opened.test, 16, "test", limit=20)
    assert result.images == 20
    kept = opened.test.images[first_balanced(opened.test.labels, 20)]
    expected = (2 * kept.double() / 255 - 1).abs().mean().item() * 30
    assert result.input_rate == pytest.approx(expected, rel=1e-5)


def test_symmetric_pixels_are_in_minus_one_to_one():
    opened = symmetric(dataset(30, 20))
    for half in (opened.train, opened.test):
        x, _ = next(half.batches(len(half)))
        raw = half.images.permute(0, 3, 1, 2).float()
        torch.testing.assert_close(x, raw / 127.5 - 1, atol=1e-5, rtol=0)
    assert torch.equal(opened.mean, HALF) and torch.equal(opened.std, HALF)


def test_a_limit_selects_balanced_images_in_order():
    half = split(40)
    labels = torch.cat([labels for _, labels in half.batches(8, limit=20)])
    assert labels.tolist() == half.labels[first_balanced(half.labels, 20)].tolist()
    with pytest.raises(ValueError, match="generator"):
        half.batches(8, limit=20, generator=torch.Generator())


def test_the_preset_has_the_published_settings():
    config = compose(ClassifyConfig, ["dataset=cifar10", "preset=stdb"])
    assert (config.T, config.direct, config.batch_norm) == (75, True, False)
    assert (config.iir.surrogate, config.iir.encoding) == ("stdb", "poisson")
    assert (config.iir.percentile, config.iir.train_threshold) == (100.0, False)
    assert config.iir.epochs <= 20


def small(shape: ImageShape, classes: int, batch_norm: bool, pooling: type[AvgPool]) -> NetworkSpec:
    layers = (Conv(16, 3, 1, 1), pooling(2), Conv(32, 3, 1, 1), Dense(64))
    return NetworkSpec(shape, layers, classes, batch_norm=batch_norm)


def run(monkeypatch: pytest.MonkeyPatch, run_dir: Path, *extra: str) -> None:
    settings = [
        *("dataset=cifar10", "preset=stdb", "T=30", "net=small", "threads=1", f"run_dir={run_dir}"),
        *("fit.epochs=1", "fit.batch_size=10", "iir.epochs=1", "iir.batch_size=10"),
        *("iir.conversion_samples=10", "iir.window=15", "precision=float32", "test_limit=10"),
    ]
    monkeypatch.setitem(IMAGE_NETWORKS, "small", small)
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    monkeypatch.setattr(command, "open_dataset", lambda *_: dataset(20, 30, side=8))
    monkeypatch.setattr(sys, "argv", ["classify", *settings, *extra])
    run_command(ClassifyConfig, command.main)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "original"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, directory)
    return directory


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "run")


def test_the_chain_keeps_the_balanced_thresholds_and_reports_energy(finished, monkeypatch):
    stage = finished / "T30-direct"
    network, notes = load_network(stage / "network.safetensors")
    assert isinstance(network, SpikingNetwork)
    run(
        monkeypatch,
        finished.parent / "converted",
        "stages=none",
        f"ann={finished}/ann/network.safetensors",
    )
    converted, _ = load_network(finished.parent / "converted/T30-converted/network.safetensors")
    assert isinstance(converted, SpikingNetwork)
    for a, b in zip(network.neurons, converted.neurons, strict=True):
        assert a.v_threshold == b.v_threshold
        assert a.leak == 1.0
    assert not torch.equal(network.head.weight, converted.head.weight)

    metrics = read_json(stage / "metrics.json")
    assert metrics["images"] == 10
    sizes = [torch.Size(shape).numel() for shape in network.spec.shapes()]
    spikes = sum(n * rate for n, rate in zip(sizes, metrics["spike_rates"], strict=True))
    report = (finished / "report.md").read_text()
    assert "on 10 test images" in report
    row = next(r for r in report.splitlines() if re.match(r"\| *T30-direct *\| *30 *\|", r))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:4] == [f"{spikes:.0f}", f"{30 * spikes:.3g}"]
    assert all(float(cell) > 0 for cell in cells[4:] if cell != "-")
    assert notes["images"] == 20


def test_more_test_images_are_scored_again_and_other_settings_rejected(
    finished, monkeypatch, capsys
):
    run(monkeypatch, finished, "test_limit=20")
    assert read_json(finished / "ann/metrics.json")["images"] == 20
    capsys.readouterr()
    for change in ("iir.window=1", "iir.threshold_scale=0.5", "iir.train_threshold=true"):
        with pytest.raises(SystemExit):
            run(monkeypatch, finished, change)
        assert change.split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("iir.block_thresholds=unit", "did you mean unity"),
        ("iir.threshold_scale=0", "above 0"),
        ("iir.window=-1", "0 or more"),
        ("iir.conversion_timesteps=-1", "0 or more"),
        ("pixels=symetric", "did you mean symmetric"),
        ("test_limit=0", "1 or more"),
        ("test_limit=31", "exceeds the 30 available test images"),
        ("preset=sdtb", "must be one of default, paper, stdb, ull; did you mean stdb"),
    ],
)
def test_contradictory_settings_are_a_one_line_error(
    setting, message, monkeypatch, tmp_path, capsys
):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tmp_path / "run", setting)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]


def test_analog_networks_are_scored():
    torch.manual_seed(0)
    result = score(AnalogNetwork(SPEC), split(20), 8, "test")
    assert result.images == 20
    assert result.input_rate is None
