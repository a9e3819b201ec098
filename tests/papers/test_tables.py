"""Tables of the papers, from runs with made-up numbers."""

import sys
from pathlib import Path

import pytest

from snn_rl import report
from snn_rl.chain import run_directory
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.files.atomic import write_json
from snn_rl.papers.page import MAKERS, TABLE, write_page
from snn_rl.papers.tables import AccuracyTable, Cell

LAYERS = {"batch_norm": True, "pooling": "avg", "clip": False, "pixels": "standard"}
VGG6 = {"dataset": "cifar10", "net": "vgg6", **LAYERS}
DIRECT = {
    "iir.encoding": "direct",
    "iir.thresholds": "percentile",
    "iir.threshold_scale": 1.0,
    "iir.block_thresholds": "search",
    "iir.train_threshold": True,
}
VGG16 = {"net": "vgg16"}
POISSON = {
    **VGG16,
    **{"batch_norm": False, "pixels": "symmetric"},
    **{"iir.encoding": "poisson", "iir.thresholds": "percentile", "iir.percentile": 100.0},
    **{"iir.block_thresholds": "unity", "iir.threshold_scale": 0.7},
}
SPIKE_TIME = {**POISSON, "iir.surrogate": "stdb", "iir.train_threshold": False}
CLIPPED = {"batch_norm": False, "clip": True, "pooling": "max"}
SEARCHED = {**VGG16, **CLIPPED, **DIRECT, "iir.thresholds": "alpha_beta"}


def stage(folder: Path, seed: int, name: str, accuracy: float, **settings: object) -> None:
    stage_of(folder / "cifar10-vgg6" / f"seed{seed}", seed, name, accuracy, **settings)


def stage_of(run: Path, seed: int, name: str, accuracy: float, **settings: object) -> None:
    write_json(
        run / "run.json",
        [{"command": f"the command of {seed}", "revision": "abc", "time": "2026-01-01"}],
    )
    write_json(run / name / "settings.json", {**VGG6, "seed": seed, "limit": None, **settings})
    write_json(
        run / name / "metrics.json", {"accuracy": accuracy, "images": 10_000, "spike_rates": []}
    )


def chain(folder: Path, seed: int, *accuracies: tuple[int, float], **settings: object) -> None:
    """Spiking stages, each initialized from the one before."""
    source = "ann"
    for timesteps, accuracy in accuracies:
        stage(folder, seed, f"T{timesteps}", accuracy, source=source, **{**DIRECT, **settings})
        source = f"T{timesteps}"


GRADUAL = tuple((t, 0.8 + t / 100) for t in (5, 4, 3, 2))


def written(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before, sys.argv = sys.argv, ["report", *arguments]
    try:
        run_command(Config, report.main, presets=report.presets)
    finally:
        sys.argv = before
    return Path(capsys.readouterr().out.strip()).read_text()


def test_cells_are_means_over_the_runs_with_the_most_images(capsys, tmp_path):
    chain(tmp_path, 0, *GRADUAL, (1, 0.88), **{"iir.epochs": 6})
    chain(tmp_path, 1, *GRADUAL, (1, 0.86), **{"iir.epochs": 6})
    chain(tmp_path, 2, *GRADUAL, (1, 0.99), limit=500)
    chain(tmp_path, 3, *GRADUAL, (1, 0.98), **{"iir.encoding": "poisson"})
    for seed in (0, 1):
        stage(tmp_path, seed, "ann", 0.9 + seed / 100, **{"fit.epochs": 15})
    text = written(capsys, "paper=iir", "table=1", f"runs={tmp_path}")
    row = next(line for line in text.splitlines() if line.startswith("| vgg6"))
    assert "| 91.59 / **90.50** [1, 2] |" in row
    assert "| 90.61 / **85.00** [3, 4] | 90.52 / **84.00** [5, 6] |" in row
    assert "| 89.10 / **87.00** [11, 12] |" in row
    assert "†" not in text
    assert "the command of 1" in text
    assert "the command of 2" not in text


def test_direct_training_has_its_own_column(capsys, tmp_path):
    stage(tmp_path, 0, "T1-direct", 0.8, source="ann", **DIRECT)
    text = written(capsys, "paper=iir", "table=4", f"runs={tmp_path}")
    assert "| 1 | 89.10 / – | 88.64 / **80.00** [1] |" in text
    assert "| T1-direct | ann | 80.00 |" in text
    assert "†" not in text


@pytest.mark.parametrize(
    ("timesteps", "marked", "lineage"),
    [
        ((5, 3, 1), (3, 1), "ann, T5, T3"),
        # its own source is that of the paper's T1, but not what lies before
        ((3, 2, 1), (3, 2, 1), "ann, T3, T2"),
        ((1,), (1,), "ann"),
        ((6, 5, 4, 3, 2, 1), (5, 4, 3, 2, 1), "ann, T6, T5, T4, T3, T2"),
    ],
)
def test_other_chains_fill_empty_cells_and_are_marked(capsys, tmp_path, timesteps, marked, lineage):
    chain(tmp_path, 0, *((t, t / 10) for t in timesteps))
    text = written(capsys, "paper=iir", "table=4", f"runs={tmp_path}")
    for t in {*timesteps} - {6}:
        line = next(line for line in text.splitlines() if line.startswith(f"| {t} |"))
        mark = "†" if t in marked else ""
        assert f" / **{10 * t:.2f}**{mark} [" in line
    assert "†: not from the paper's chain" in text
    assert f"| T1 | {lineage} | 10.00 |" in text


def test_the_paper_s_chain_comes_first(capsys, tmp_path):
    chain(tmp_path, 0, (5, 0.9), (3, 0.9), (1, 0.9))
    chain(tmp_path, 1, *GRADUAL, (1, 0.5))
    text = written(capsys, "paper=iir", "table=4", f"runs={tmp_path}")
    assert "| 5 | 90.61 / **87.50** [" in text, "both are T5 from the ANN"
    assert "| 3 | 90.40 / **83.00** [" in text
    assert "| 1 | 89.10 / **50.00** [" in text
    assert "| T1 | ann, T5, T4, T3, T2 | 50.00 |" in text
    assert "†" not in text


def test_more_training_images_come_before_the_paper_s_chain(capsys, tmp_path):
    chain(tmp_path, 0, (5, 0.9), (3, 0.9), (1, 0.9))
    chain(tmp_path, 1, *GRADUAL, (1, 0.5), limit=500)
    text = written(capsys, "paper=iir", "table=4", f"runs={tmp_path}")
    assert "| 1 | 89.10 / **90.00**† [" in text


def test_runs_are_found_at_two_depths(capsys, tmp_path):
    stage(tmp_path, 0, "ann", 0.9)
    stage_of(tmp_path / "mine", 1, "ann", 0.8)
    stage_of(tmp_path / "too" / "deep" / "down", 2, "ann", 0.1)
    text = written(capsys, "paper=iir", "table=1", f"runs={tmp_path}")
    assert "| 91.59 / **85.00** [1, 2] |" in text
    assert "[2: seed 1](../../mine)" in text
    assert f"Runs are searched for in `{tmp_path}/*` and `{tmp_path}/*/*`." in text


@pytest.mark.parametrize(
    ("key", "name", "method", "other"),
    [
        (("iir", 1), "T5", {**VGG16, **DIRECT}, {"pixels": "symmetric"}),
        (("iir", 3), "T1", {**VGG16, **DIRECT}, {"clip": True}),
        (("iir", 3), "T1", {**VGG16, **DIRECT}, {"batch_norm": False}),
        (("iir", 3), "T1-scratch", {**VGG16, **DIRECT}, {"pooling": "max"}),
        (("iir", 4), "T2-direct", DIRECT, {"iir.threshold_scale": 0.7}),
        (("iir", 5), "T5", {**VGG16, **DIRECT}, {"pooling": "max"}),
        (("iir", 5), "T5", {**VGG16, **DIRECT}, {"iir.thresholds": "alpha_beta"}),
        (("iir", 5), "T5", {**VGG16, **DIRECT}, {"iir.train_threshold": False}),
        (("iir", 5), "T1", {**VGG16, **DIRECT}, {"iir.thresholds_from": "0123"}),
        (("stdb", 1), "ann", POISSON, {"pooling": "max"}),
        (("stdb", 1), "T100-direct", SPIKE_TIME, {"iir.surrogate": "linear"}),
        (("stdb", 1), "T100-direct", SPIKE_TIME, {"iir.train_threshold": True}),
        (("stdb", 1), "T100-converted", POISSON, {"iir.percentile": 99.0}),
        (("stdb", 1), "T100-converted", POISSON, {"iir.block_thresholds": "search"}),
        (("stdb", 1), "T2500-converted", {**POISSON, "iir.threshold_scale": 1.0}, POISSON),
        (("ull", 1), "T2-converted", SEARCHED, {"iir.thresholds": "clip"}),
        (("ull", 1), "T2-direct", SEARCHED, {"iir.train_threshold": False}),
    ],
)
def test_runs_of_another_method_do_not_fill_a_cell(tmp_path, key, name, method, other):
    paper, number = key
    for settings in ({**method, **other}, method):
        stage(tmp_path, 0, name, 0.5, **settings)
        text = write_page((paper, TABLE, number), tmp_path)[0].read_text()
        assert ("/ **50.00**" in text) == (settings == method)


def test_settings_that_differ_from_the_paper_are_listed_by_run(tmp_path):
    chain(tmp_path, 0, (5, 0.8), **{"iir.epochs": 300, "iir.distill": 0.0})
    stage(tmp_path, 0, "T4", 0.7, source="T5", limit=500, **DIRECT, **{"iir.distill": 1.0})
    stage(tmp_path, 0, "ann", 0.9, **{"fit.epochs": 15, "fit.lr": 0.01})
    text = write_page(("iir", TABLE, 4), tmp_path)[0].read_text()
    section = text.split("\n## Differences from the paper\n")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("|")][2:] == [
        "| all | `fit.epochs` | 500 | 15 |",
        "| 2 | `limit` | null | 500 |",
        "| 2 | `iir.distill` | 0.0 | 1.0 |",
    ]


def test_the_settings_of_a_cell_are_the_paper_s(tmp_path):
    settings = {**VGG16, "batch_norm": False, "iir.lr": 0.1}
    stage(tmp_path, 0, "T5", 0.8, source="ann", **{**DIRECT, **settings})
    text = write_page(("iir", TABLE, 5), tmp_path)[0].read_text()
    assert "| 1 | `iir.lr` | 0.0001 | 0.1 |" in text
    assert "batch_norm" not in text


def test_the_training_of_an_imported_ann_is_compared(tmp_path):
    stage(tmp_path, 0, "ann", 0.9, **{"fit.epochs": 15})
    file = tmp_path / "cifar10-vgg6/seed0/ann/network.safetensors"
    file.write_bytes(b"the network")
    for run, ann in (("known", run_directory.file_hash(file)), ("unknown", "0123")):
        stage_of(tmp_path / run, 1, "ann", 0.9, ann=ann)
        stage_of(tmp_path / run, 1, "T5", 0.8, source="ann", ann=ann, **DIRECT)
    text = write_page(("iir", TABLE, 4), tmp_path)[0].read_text()
    assert "| 1 | `fit.epochs` | 500 | 15 |" in text
    assert "| 2 | `ann` | – | 0123 |" in text


def test_the_anns_of_two_papers_are_distinguished(capsys, tmp_path):
    shared = {"net": "vgg16", "batch_norm": False}
    clipped = {"clip": True, "pooling": "max", "pixels": "standard"}
    stage(tmp_path, 0, "ann", 0.8, **shared, clip=False, pixels="symmetric")
    stage(tmp_path, 1, "ann", 0.9, **shared, **clipped)
    text = written(capsys, "paper=stdb", "table=1", f"runs={tmp_path}")
    assert "| vgg16 | cifar10 | 100 | 92.81 / **80.00** [1] |" in text
    text = written(capsys, "paper=ull", "table=1", f"runs={tmp_path}")
    assert "| vgg16 | cifar10 | 2 | 93.26 / **90.00** [1] |" in text


@pytest.mark.parametrize("key", [key for key in MAKERS if key[1] == TABLE])
def test_every_table_is_complete_and_can_be_written_without_runs(tmp_path, key):
    table = MAKERS[key]
    assert isinstance(table, AccuracyTable)
    names = sum(isinstance(cell, str) for cell in table.rows[0])
    for row in table.rows:
        assert len(row) == len(table.head)
        assert all(isinstance(cell, Cell) != (i < names) for i, cell in enumerate(row))
    assert "There are no runs." in write_page(key, tmp_path)[0].read_text()
