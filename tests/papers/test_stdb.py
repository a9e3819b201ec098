"""Figures 3 and 5 of [STDB], compared with numbers by hand."""

import shutil

import pytest

from snn_rl.configs.compose import compose
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.papers.page import FIGURE, MAKERS, TABLE, write_page

ANALOG = {"clip": False, "pixels": "symmetric", "pooling": "avg"}
POISSON = {
    **ANALOG,
    "iir.encoding": "poisson",
    "iir.surrogate": "stdb",
    "iir.thresholds": "percentile",
    "iir.percentile": 100.0,
    "iir.block_thresholds": "unity",
    "iir.train_threshold": False,
}


def costs(training: float, inference: float, memories: tuple[int, int]) -> dict[str, dict]:
    """Seconds of training 1000 images, milliseconds of one in inference, mebibytes."""
    return {
        "notes": {"wall_s": training, "images": 1000, "memory": memories[0] * 2**20},
        "metrics": {"seconds": inference / 1000, "memory": memories[1] * 2**20},
    }


@pytest.fixture
def whole(image_stage):
    image_stage("net/seed0", "ann", **costs(10, 2, (100, 50)), **ANALOG)
    image_stage("net/seed0", "T7-direct", (1.0, 0.5), **costs(250, 30, (400, 60)), **POISSON)
    image_stage("net/seed0", "T7-converted", (2.0, 1.5), {"accuracy": 0.25}, **POISSON)
    image_stage("scratch/seed0", "T7-scratch", **costs(500, 32, (420, 70)), **POISSON)


def test_spikes_before_and_after_training(whole, tmp_path):
    path, missing = write_page(("stdb", FIGURE, 3), tmp_path)
    text = path.read_text()
    assert missing == []
    before, after = (8 * 2 + 3 * 1.5) / 11, (8 * 1 + 3 * 0.5) / 11
    title = "spikes (25.00 %, 50.00 %): vgg5 on cifar10, T = 7"
    assert f"![{title}](figure.png)" in text
    assert "| accuracy, converted (%) | 89.20 | 25 |" in text
    assert "| accuracy, converted and trained (%) | 91.87 | 50 |" in text
    ratio = f"{before / after:.4g}"
    assert f"| spikes over all layers, converted / converted and trained | 1.5 | {ratio} |" in text
    assert f"| converted | 7 | [2] | 25 | 200 | {before:.4g} | 2 | 1.5 |" in text
    assert f"| converted and trained | 7 | [3] | 50 | 200 | {after:.4g} | 1 | 0.5 |" in text


def test_a_pair_has_one_conversion(whole, image_stage, tmp_path):
    """Iso conditions: other thresholds are another pair, whose first half is missing."""
    lower = {**POISSON, "iir.threshold_scale": 0.4}
    shutil.copytree(tmp_path / "net/seed0/ann", tmp_path / "scaled/seed0/ann")
    command = "python -m snn_rl.classify net=vgg5 preset=stdb iir.threshold_scale=0.4 direct=true"
    image_stage("scaled/seed0", "T7-direct", command=command, **lower)
    path, missing = write_page(("stdb", FIGURE, 3), tmp_path)
    name = "vgg5 on cifar10, T = 7 (2)"
    analog = f"{tmp_path}/net/seed0/ann/network.safetensors"
    assert missing[0].startswith(f'{name}: no run for "converted". Command: ')
    assert "preset=stdb T=7 stages=none" in missing[0]
    assert missing[0].endswith(
        f"ann={analog} iir.threshold_scale=0.4 run_dir={tmp_path}/net-converted/seed0"
    )
    assert missing[1:] == [f"{name}: the numbers of panel spikes are missing"]
    assert f"### {name}" in path.read_text()


def test_commands_of_two_conversions_have_directories_of_their_own(whole, image_stage, tmp_path):
    shutil.rmtree(tmp_path / "net/seed0/T7-converted")
    shutil.copytree(tmp_path / "net/seed0/ann", tmp_path / "scaled/seed0/ann")
    command = "python -m snn_rl.classify preset=stdb iir.threshold_scale=0.4"
    lower = {**POISSON, "iir.threshold_scale": 0.4}
    image_stage("scaled/seed0", "T7-direct", command=command, **lower)
    _, missing = write_page(("stdb", FIGURE, 3), tmp_path)
    commands = [line.split("Command: ")[1] for line in missing if "no run" in line]
    assert ["iir.threshold_scale=0.4" in command for command in commands] == [False, True]
    assert [command.split("run_dir=")[1] for command in commands] == [
        f"{tmp_path}/net-converted/seed0",
        f"{tmp_path}/net-converted-2/seed0",
    ]
    # made, one does not take the place of the other
    image_stage("net/seed0", "T7-converted", **POISSON)
    shutil.move(tmp_path / "net/seed0/T7-converted", tmp_path / "net-converted/seed0/T7-converted")
    shutil.copytree(tmp_path / "net/seed0/ann", tmp_path / "net-converted/seed0/ann")
    shutil.copy(tmp_path / "net/seed0/run.json", tmp_path / "net-converted/seed0")
    _, missing = write_page(("stdb", FIGURE, 3), tmp_path)
    assert [line.split("run_dir=")[1] for line in missing if "no run" in line] == [
        f"{tmp_path}/net-converted-2/seed0"
    ]


@pytest.mark.parametrize("other", [{"iir.percentile_over": "all"}, {"limit": 100}])
def test_thresholds_of_other_currents_are_another_conversion(whole, image_stage, tmp_path, other):
    image_stage("net/seed0", "T7-converted", **{**POISSON, **other})
    _, missing = write_page(("stdb", FIGURE, 3), tmp_path)
    assert missing[0].startswith('vgg5 on cifar10, T = 7: no run for "converted"')


@pytest.mark.parametrize("number", [3, 5])
def test_a_hybrid_has_the_thresholds_of_the_conversion(whole, image_stage, tmp_path, number):
    image_stage("net/seed0", "T7-direct", **{**POISSON, "iir.train_threshold": True})
    _, missing = write_page(("stdb", FIGURE, number), tmp_path)
    assert missing[0].startswith('vgg5 on cifar10, T = 7: no run for "converted and trained"')


def test_other_surrogates_and_encodings_do_not_count(whole, image_stage, tmp_path):
    image_stage("net/seed0", "T7-direct", **{**POISSON, "iir.surrogate": "linear"})
    image_stage("net/seed0", "T9-direct", **ANALOG)
    _, missing = write_page(("stdb", FIGURE, 3), tmp_path)
    assert len(missing) == 2
    assert 'T = 7: no run for "converted and trained"' in missing[0]


def test_resources_divided_by_the_ann_s(whole, tmp_path):
    path, missing = write_page(("stdb", FIGURE, 5), tmp_path)
    text = path.read_text()
    assert missing == []
    hybrid, scratch = "converted and trained", "from scratch"
    rows = {
        f"one epoch of training, {scratch} / ANN": ("136.8 (78 / 0.57 min)", 50),
        f"one epoch of training, {hybrid} / ANN": ("136.8 (78 / 0.57 min)", 25),
        f"one epoch of inference, {scratch} / ANN": ("227.8 (11.39 / 0.05 min)", 16),
        f"one epoch of inference, {hybrid} / ANN": ("227.8 (11.39 / 0.05 min)", 15),
        f"memory of training, {scratch} / ANN": ("6.367 (9.36 / 1.47 GB)", 4.2),
        f"memory of training, {hybrid} / ANN": ("6.367 (9.36 / 1.47 GB)", 4),
        f"memory of inference, {scratch} / ANN": ("1.191 (1.37 / 1.15 GB)", 1.4),
        f"memory of inference, {hybrid} / ANN": ("1.191 (1.37 / 1.15 GB)", 1.2),
        f"training as run, {scratch} / {hybrid}": ("–", 500 / (10 + 250)),
        # 250 epochs of 500 s against 250 of 10 s and 20 of 250 s
        f"training with the paper's epochs, {scratch} / {hybrid}": (
            '"one order of magnitude"',
            250 * 500 / (250 * 10 + 20 * 250),
        ),
    }
    for what, (published, ours) in rows.items():
        assert f"| {what} | {published} | {ours:.4g} |" in text


def test_a_missing_run_has_the_settings_of_its_counterpart(whole, image_stage, tmp_path):
    shutil.rmtree(tmp_path / "scratch")
    command = "python -m snn_rl.classify preset=stdb T=7 iir.window=5 direct=true fit.epochs=3"
    image_stage("net/seed0", "T7-direct", command=command, **costs(250, 30, (400, 60)), **POISSON)
    path, missing = write_page(("stdb", FIGURE, 5), tmp_path)
    assert missing == [
        'vgg5 on cifar10, T = 7: no run for "from scratch". Command: python -m snn_rl.classify '
        "dataset=cifar10 net=vgg5 preset=stdb T=7 scratch=true iir.distill=0 iir.window=5 "
        f"run_dir={tmp_path}/net-scratch/seed0"
    ]
    assert "| one epoch of training, from scratch / ANN | 136.8 (78 / 0.57 min) | – |" in (
        path.read_text()
    )


@pytest.mark.parametrize("row", MAKERS["stdb", TABLE, 1].rows, ids=lambda row: "-".join(row[:3]))
def test_the_preset_has_the_timesteps_of_every_row(row):
    net, dataset, timesteps, *_ = row
    config = compose(ClassifyConfig, ["preset=stdb", f"net={net}", f"dataset={dataset}"])
    assert config.T == int(timesteps)
    assert (config.batch_norm, config.pixels) == (False, "symmetric")
