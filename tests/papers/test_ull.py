"""Figures 3 and 4 of [ULL], compared with numbers by hand; figure 2 is in test_image_page.py."""

import shutil

import pytest

from snn_rl.papers.page import FIGURE, write_page

SEARCH = {"iir.thresholds": "alpha_beta"}
HYBRID = {"iir.thresholds": "percentile", "iir.percentile": 90.0, "iir.percentile_over": "positive"}
CLIP = {"iir.thresholds": "clip"}


def notes(seconds: float, mebibytes: float) -> dict[str, float]:
    return {"wall_s": seconds, "images": 1000, "memory": mebibytes * 2**20}


def metrics(milliseconds: float, mebibytes: float) -> dict[str, float]:
    return {"seconds": milliseconds / 1000, "memory": mebibytes * 2**20}


@pytest.fixture
def whole(image_stage):
    image_stage("net/seed0", "ann", notes=notes(10, 100), metrics=metrics(1, 50))
    image_stage("net/seed0", "T2-direct", (0.5, 0.25), metrics(3, 80), notes(30, 200), **SEARCH)
    image_stage("net/seed0", "T3-direct", (0.6, 0.5), metrics(4, 82), notes(40, 260), **SEARCH)
    image_stage("net/seed0", "T5", (1.0, 0.75), metrics(6, 84), notes(75, 300), **HYBRID)
    image_stage("net/seed0", "T16-converted", (3.0, 1.0), metrics(9, 90), **CLIP)


def test_resources_and_the_papers(whole, tmp_path):
    path, missing = write_page(("ull", FIGURE, 3), tmp_path)
    text = path.read_text()
    assert missing == []
    both = "(mean of CIFAR-10 and CIFAR-100)"
    assert f"| training time, T5, hybrid / T2, [ULL] | 2.38 {both} | 2.5 |" in text
    assert f"| inference time, T5, hybrid / T2, [ULL] | 2.33 {both} | 2 |" in text
    assert "| training memory, T5, hybrid / T2, [ULL] | 1.44 | 1.5 |" in text
    assert '| inference memory, T5, hybrid / T2, [ULL] | "almost identical" | 1.05 |' in text
    assert "| ANN | – | [1] | – | – | 10 | 1 | 100 | 50 | 0.1667 |" in text
    assert "![(a) time: vgg5 on cifar10 | (b) memory: vgg5 on cifar10](figure.png)" in text


def test_energy_and_spikes_and_the_papers(whole, tmp_path):
    path, missing = write_page(("ull", FIGURE, 4), tmp_path)
    text = path.read_text()
    assert missing == []
    rates = {
        "T2, [ULL]": (0.5, 0.25),
        "T3, [ULL]": (0.6, 0.5),
        "T5, hybrid": (1.0, 0.75),
        "T16, converted": (3.0, 1.0),
    }
    # 72, 24 and 12 multiply-accumulates; 8 and 3 neurons
    spikes = {name: (8 * a + 3 * b) / 11 for name, (a, b) in rates.items()}
    accumulated = {name: 24 * a + 12 * b for name, (a, b) in rates.items()}
    energy = {name: 72 * 3.2 + 0.1 * count for name, count in accumulated.items()}
    for i, (name, (first, second)) in enumerate(rates.items(), start=2):
        head = f"| {name} | {name[1:].split(',')[0]} | [{i}] | "
        cells = [spikes[name], first, second, (72 + accumulated[name]) / 1e6, energy[name] / 1e6]
        assert head + " | ".join(f"{cell:.4g}" for cell in cells) + " |" in text
    assert f"| ANN | – | [1] | – | – | – | 0.000108 | {108 * 3.2 / 1e6:.4g} |" in text
    two = "T2, [ULL]"
    ratios = {
        ("spikes", "T5, hybrid", "1.53 (mean of CIFAR-10 and CIFAR-100)"): spikes,
        ("spikes", "T16, converted", "4.22 (mean of CIFAR-10 and CIFAR-100)"): spikes,
        ("energy", "T5, hybrid", "1.27 (CIFAR-10), 1.52 (CIFAR-100)"): energy,
        ("energy", "T16, converted", "5.18 (CIFAR-10), 4.72 (CIFAR-100)"): energy,
    }
    for (what, over, published), values in ratios.items():
        ours = values[over] / values[two]
        assert f"| {what}, {over} / {two} | {published} | {ours:.4g} |" in text
    ours = 108 * 3.2 / energy[two]
    assert f"| energy, ANN / {two} | 103.5 (CIFAR-10), 159.2 (CIFAR-100) | {ours:.4g} |" in text


def test_commands_of_missing_runs(whole, tmp_path):
    for stage in ("T3-direct", "T5", "T16-converted"):
        shutil.rmtree(tmp_path / "net/seed0" / stage)
    path, missing = write_page(("ull", FIGURE, 4), tmp_path)
    begin = "python -m snn_rl.classify dataset=cifar10 net=vgg5 preset=ull"
    ann = f"ann={tmp_path}/net/seed0/ann/network.safetensors limit=500"
    assert [line.split("Command: ")[1] for line in missing] == [
        f"{begin} direct=true T=3 {ann} run_dir={tmp_path}/net-alpha-beta/seed0",
        f"{begin} direct=true T=5 iir.thresholds=percentile iir.percentile=90.0 "
        f"iir.percentile_over=positive {ann} run_dir={tmp_path}/net-hybrid/seed0",
        f"{begin} stages=none T=16 iir.thresholds=clip {ann} run_dir={tmp_path}/net-clip/seed0",
    ]
    assert "| energy, T5, hybrid / T2, [ULL] | 1.27 (CIFAR-10), 1.52 (CIFAR-100) | – |" in (
        path.read_text()
    )


def test_a_gradual_t5_is_not_a_hybrid(whole, image_stage, tmp_path):
    shutil.rmtree(tmp_path / "net/seed0/T5")
    image_stage("net/seed0", "T5", source="T6", **HYBRID)
    _, missing = write_page(("ull", FIGURE, 4), tmp_path)
    assert ["T5, hybrid" in line for line in missing] == [True]


def test_numbers_that_were_not_recorded(image_stage, tmp_path):
    image_stage("net/seed0", "ann", ann="0123", metrics={"seconds": 0.1})
    image_stage("net/seed0", "T2-direct", metrics={"seconds": 0.2}, **SEARCH)
    path, missing = write_page(("ull", FIGURE, 3), tmp_path)
    assert "![(a) time: vgg5 on cifar10](figure.png)" in path.read_text()
    assert "vgg5 on cifar10: the numbers of panel (b) memory are missing" in missing
    for label in ("ANN", "T2, [ULL]"):
        assert any(f"training costs of {label} are unknown" in line for line in missing)


def test_anns_of_other_kinds_are_not_shown(image_stage, tmp_path, whole):
    image_stage("unclipped/seed0", "ann", clip=False)
    image_stage("unclipped/seed0", "T5", clip=False, **HYBRID)
    text = write_page(("ull", FIGURE, 3), tmp_path)[0].read_text()
    assert "unclipped" not in text
