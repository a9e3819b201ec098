"""Tests of the settings of [ULL]: preset, trained clips, and rejected combinations."""

import re

import pytest

from snn_rl.classify import main
from snn_rl.configs.compose import compose
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    AnalogNetwork,
    Conv,
    Dense,
    MaxPool,
    NetworkSpec,
    SpikingNetwork,
)
from snn_rl.core.networks.analog import INITIAL_CLIP
from snn_rl.files.checkpoint import load_network
from snn_rl.images.checks import check_values
from snn_rl.images.fitting import steps


def settings(*overrides: str) -> ClassifyConfig:
    return compose(ClassifyConfig, overrides)


@pytest.mark.parametrize(("dataset", "epochs"), [("cifar10", 200), ("cifar100", 300)])
def test_the_preset_has_the_published_settings(dataset, epochs):
    config = settings(f"dataset={dataset}", "preset=ull")
    assert (config.T, config.direct, config.clip) == (2, True, True)
    assert (config.batch_norm, config.pooling) == (False, "max")
    assert (config.fit.epochs, config.fit.lr) == (300, 0.01)
    assert (config.iir.epochs, config.iir.lr) == (epochs, 1e-4)
    assert (config.iir.thresholds, config.iir.surrogate) == ("alpha_beta", "boxcar")
    for fit in (config.fit, config.iir):
        assert (fit.schedule, fit.milestones, fit.decay) == ("steps", [0.6, 0.8, 0.9], 0.1)


def test_settings_replace_those_of_the_preset():
    assert settings("dataset=cifar10", "preset=ull", "T=3").T == 3


def test_the_default_does_not_clip():
    config = settings("dataset=cifar10")
    assert (config.clip, config.iir.thresholds) == (False, "percentile")
    assert (config.fit.decay, config.iir.decay) == (0.2, 0.2)


@pytest.mark.parametrize(
    ("dataset", "preset", "message"),
    [
        ("cifar10", "ul", "preset=ul: must be one of default, .*ull; did you mean ull"),
        ("imagenet", "ull", "preset=ull: must be one of default, paper, stdb$"),
        ("cifar01", "ull", "dataset=cifar01: must be one of .*; did you mean cifar10"),
        ("cifar100", "paper_cifar", "preset=paper_cifar: must be one of default, paper"),
    ],
)
def test_an_unknown_preset_lists_the_available_presets(refused, dataset, preset, message):
    assert re.search(message, refused(settings, f"dataset={dataset}", f"preset={preset}"))


def test_steps_multiply_by_the_decay():
    rates = [steps(progress, (0.6, 0.8, 0.9), 0.1) for progress in (0.0, 0.59, 0.6, 0.8, 0.95)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("iir.thresholds=alpha_beta", "iir.thresholds=alpha_beta requires clip=true"),
        ("iir.thresholds=clip", "iir.thresholds=clip requires clip=true"),
        ("iir.thresholds=alpha-beta", "did you mean alpha_beta"),
        ("fit.decay=0", "fit.decay=0.0: must be above 0 and at most 1"),
        ("iir.decay=1.5", "iir.decay=1.5: must be above 0 and at most 1"),
    ],
)
def test_contradictory_settings_are_rejected(refused, setting, message):
    assert re.search(message, refused(check_values, settings("dataset=cifar10", setting)))


@pytest.mark.usefixtures("without_figures")
def test_the_chain_trains_clips_and_converts_with_them(tiny, tmp_path, monkeypatch):
    """The converted thresholds are below the clips, and the amplitudes above the thresholds."""

    def small(shape, classes, batch_norm, pooling):
        assert not batch_norm and pooling is MaxPool
        layers = (Conv(16, 3, 2, 1), pooling(2), Conv(32, 3, 1, 1), pooling(2), Dense(64))
        return NetworkSpec(shape, layers, classes)

    monkeypatch.setitem(IMAGE_NETWORKS, "small", small)
    common = (
        *("dataset=cifar10", "preset=ull", "net=small", "threads=1", "precision=float32"),
        *("fit.epochs=2", "fit.batch_size=16", "iir.epochs=1", "iir.batch_size=16"),
        "iir.conversion_samples=4",
        *(f"data={tiny('cifar10').write('bin', tmp_path / 'data')}", f"run_dir={tmp_path}"),
    )
    main(settings(*common))
    main(settings(*common, "stages=none", "T=3"))
    ann, direct, converted = (
        load_network(tmp_path / stage / "network.safetensors")[0]
        for stage in ("ann", "T2-direct", "T3-converted")
    )
    assert isinstance(ann, AnalogNetwork) and ann.mu is not None
    assert isinstance(direct, SpikingNetwork) and isinstance(converted, SpikingNetwork)
    assert (ann.mu != INITIAL_CLIP).all()
    assert (direct.options.surrogate, direct.timesteps, converted.timesteps) == ("boxcar", 2, 3)
    thresholds = [neuron.v_threshold.item() for neuron in converted.neurons]
    assert all(v <= mu for v, mu in zip(thresholds, ann.mu.tolist(), strict=True))
    ratio = (converted.synapses[1].weight / ann.synapses[1].weight).detach()
    assert float(ratio.std()) < 1e-3 * float(ratio.mean())
    assert float(ratio.mean()) > 1.01 * thresholds[0]
