"""Pages of figures of image classification, by the example of figure 2 of [ULL]."""

import csv

import numpy as np
import pytest
from PIL import Image

from snn_rl.papers.page import FIGURE, write_page
from snn_rl.utils.errors import UserError

CLIP = {"iir.thresholds": "clip"}
SEARCH = {"iir.thresholds": "alpha_beta"}


def figure(folder):
    return write_page(("ull", FIGURE, 2), folder)


def rows(text: str, head: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {head}")]


@pytest.fixture
def two_seeds(image_stage):
    for seed, accuracy in ((0, 0.4), (1, 0.6)):
        run = f"net/seed{seed}"
        image_stage(run, "ann", metrics={"accuracy": accuracy + 0.2})
        image_stage(run, "T2-converted", metrics={"accuracy": accuracy}, **CLIP)
        image_stage(run, "T8-converted", metrics={"accuracy": accuracy + 0.1}, **CLIP)


def test_numbers_are_means_over_seeds(two_seeds, tmp_path):
    path, _ = figure(tmp_path)
    text = path.read_text()
    assert path == tmp_path / "paper/ull-figure2/README.md"
    assert "| ANN | – | [1, 2] | 70 | 200 |" in text
    assert "| trained clip µ | 2 | [3, 4] | 50 | 200 |" in text
    assert "| trained clip µ | 8 | [5, 6] | 60 | 200 |" in text
    printed = "90.76 and 91.10 (VGG11), 93.26 (VGG16), 93.07 (ResNet20)"
    assert f"| accuracy, ANN (%) | {printed} | 70 |" in text
    assert [line.split(" | ")[1] for line in rows(text, "[")] == [
        *("ann", "ann"),
        *("T2-converted", "T2-converted"),
        *("T8-converted", "T8-converted"),
    ]
    assert "`python -m snn_rl.classify dataset=cifar10 net=vgg5 limit=500` | abc |" in text


def test_every_run_is_in_the_csv(two_seeds, tmp_path):
    path, _ = figure(tmp_path)
    with (path.parent / "values.csv").open() as file:
        entries = [e for e in csv.DictReader(file) if e["quantity"] == "accuracy (%)"]
    assert [(e["label"], e["run"], e["T"], round(float(e["value"]))) for e in entries] == [
        ("ANN", "net/seed0", "", 60),
        ("ANN", "net/seed1", "", 80),
        ("trained clip µ", "net/seed0", "2", 40),
        ("trained clip µ", "net/seed1", "2", 60),
        ("trained clip µ", "net/seed0", "8", 50),
        ("trained clip µ", "net/seed1", "8", 70),
    ]


def test_a_picture_is_drawn(two_seeds, tmp_path):
    path, _ = figure(tmp_path)
    with Image.open(path.parent / "figure.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 500
    assert 0.01 < (pixels < 250).mean() < 0.6


def test_missing_runs_are_listed_with_their_commands(image_stage, tmp_path):
    command = (
        "python -m snn_rl.classify -m dataset=cifar10 net=vgg5 preset=ull T=2,3 stages=none "
        "limit=100,500 fit.epochs=6 iir.epochs=3 'iir.milestones=[0.5,0.9]' run_dir=elsewhere "
        "iir.lr=1e-3,1e-4 test_limit=100,200 data=/a,/b hydra/launcher=joblib "
        "hydra.launcher.n_jobs=2"
    )
    image_stage("net/seed3", "ann", command=command, data="0123")
    image_stage("net/seed3", "T2-converted", command=command, **CLIP)
    _, missing = figure(tmp_path)
    assert missing == [
        'vgg5 on cifar10: no run for "maximum pre-activation". Command: python -m '
        "snn_rl.classify -m dataset=cifar10 net=vgg5 preset=ull stages=none T=1,2,3,4,5,8,16 "
        "iir.thresholds=percentile iir.percentile=100.0 iir.conversion_timesteps=16 "
        f"ann={tmp_path}/net/seed3/ann/network.safetensors limit=500 iir.epochs=3 "
        f"'iir.milestones=[0.5,0.9]' data=/a,/b seed=3 run_dir={tmp_path}/net-maximum/seed3",
        'vgg5 on cifar10: no run for "alpha-beta search". Command: python -m '
        "snn_rl.classify -m dataset=cifar10 net=vgg5 preset=ull stages=none T=1,2,3,4,5,8,16 "
        "iir.thresholds=alpha_beta "
        f"ann={tmp_path}/net/seed3/ann/network.safetensors limit=500 iir.epochs=3 "
        f"'iir.milestones=[0.5,0.9]' data=/a,/b seed=3 run_dir={tmp_path}/net-alpha-beta/seed3",
    ]
    text = (tmp_path / "paper/ull-figure2/README.md").read_text()
    assert text.endswith("## Missing runs\n\n" + "".join(f"- {line}\n" for line in missing))


def test_new_runs_are_put_into_the_folder(image_stage, tmp_path):
    """For an ANN whose run lies in the folder itself, and for one in a subfolder."""
    image_stage("vgg5seed7", "ann")
    image_stage("vgg5seed7", "T2-converted", **CLIP)
    image_stage("deep/again-seed8", "ann", **{"fit.epochs": 6})
    image_stage("deep/again-seed8", "T2-converted", **CLIP)
    _, missing = figure(tmp_path)
    assert [line.split("run_dir=")[1] for line in missing] == [
        f"{tmp_path}/deep-maximum/seed8",
        f"{tmp_path}/deep-alpha-beta/seed8",
        f"{tmp_path}/vgg5seed7-maximum/seed7",
        f"{tmp_path}/vgg5seed7-alpha-beta/seed7",
    ]


def test_a_directory_with_the_same_stage_is_not_used_again(image_stage, tmp_path):
    image_stage("net/seed0", "ann")
    image_stage("net/seed0", "T2-converted", **CLIP)
    for run in ("net-maximum/seed0", "net-maximum-2/seed0"):
        image_stage(run, "T2-converted", **SEARCH)
    image_stage("net-alpha-beta/seed0", "T2-direct", **SEARCH)  # another stage does not matter
    _, missing = figure(tmp_path)
    assert [line.split("run_dir=")[1] for line in missing] == [
        f"{tmp_path}/net-maximum-3/seed0",
        f"{tmp_path}/net-alpha-beta/seed0",
    ]


def test_other_settings_do_not_fill_a_line(image_stage, tmp_path):
    image_stage("net/seed0", "ann")
    image_stage("net/seed0", "T2-converted", **CLIP)
    image_stage("scaled/seed0", "ann", notes={"a": 1})
    image_stage("scaled/seed0", "T4-converted", **{**CLIP, "iir.threshold_scale": 0.5})
    image_stage("low/seed0", "ann", notes={"a": 2})
    percentile = {"iir.thresholds": "percentile", "iir.percentile": 90.0}
    image_stage("low/seed0", "T4-converted", **percentile)
    path, missing = figure(tmp_path)
    assert "T4-converted" not in path.read_text()
    assert len(missing) == 2


def test_networks_of_one_name_are_numbered(image_stage, tmp_path):
    for run, epochs in (("a", 5), ("b", 6), ("c", 7)):
        image_stage(f"{run}/seed0", "ann", **{"fit.epochs": epochs})
    image_stage("b/seed0", "T2-converted", **CLIP)
    image_stage("c/seed0", "T2-converted", metrics={"accuracy": 0.9}, **CLIP)
    text = figure(tmp_path)[0].read_text()
    assert "![conversion: vgg5 on cifar10 | conversion: vgg5 on cifar10 (2)]" in text
    first, second = text.split("\n### ")[1:3]
    assert "| trained clip µ | 2 | [2] | 50 |" in first
    assert "| trained clip µ | 2 | [4] | 90 |" in second


def test_without_runs_a_first_run_is_suggested(image_stage, tmp_path):
    image_stage("net/seed0", "ann")
    with pytest.raises(UserError, match=r"^no run in .* fits this figure. "):
        figure(tmp_path)
    assert not (tmp_path / "paper").exists()


def test_the_same_runs_give_the_same_files(two_seeds, tmp_path):
    path, _ = figure(tmp_path)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    figure(tmp_path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
