"""Which stages of classification runs belong together."""

from dataclasses import replace

import pytest

from snn_rl.chain.records import Score, costs
from snn_rl.files.atomic import read_json, write_json
from snn_rl.papers.image_results import best, networks_of, read_measured
from snn_rl.utils.errors import UserError


def names(stages):
    return [(stage.directory.parent.name, stage.stage) for stage in stages]


def test_stages_belong_to_the_ann_that_they_began_with(image_stage, tmp_path):
    first = image_stage("first/seed0", "ann", **{"fit.epochs": 6})
    second = image_stage("second/seed0", "ann", notes={"other": 1}, **{"fit.epochs": 9})
    for run, ann, name in (("a", first, "T2-direct"), ("b", second, "T3-direct")):
        again = image_stage(f"{run}/seed0", "ann", ann=ann, notes={"run": run})
        image_stage(f"{run}/seed0", name)
    # an ANN that was taken from a run which had taken it itself
    image_stage("c/seed0", "ann", ann=again)
    image_stage("c/seed0", "T4-direct", limit=100)
    found = networks_of(read_measured(tmp_path))
    assert [(names(network.analogs), names(network.stages)) for network in found] == [
        ([("first", "ann")], [("a", "T2-direct")]),
        ([("second", "ann")], [("b", "T3-direct"), ("c", "T4-direct")]),
    ]


def test_an_ann_from_elsewhere_stands_for_itself(image_stage, tmp_path):
    image_stage("a/seed0", "ann", ann="0123")
    image_stage("a/seed0", "T2-direct")
    (network,) = networks_of(read_measured(tmp_path))
    assert names(network.analogs) == [("a", "ann")]


def test_seeds_are_one_network_and_other_settings_another(image_stage, tmp_path):
    for seed in (0, 1):
        image_stage(f"a/seed{seed}", "ann", threads=seed, **{"fit.epochs": 6})
    image_stage("b/seed0", "ann", **{"fit.epochs": 7})
    networks = networks_of(read_measured(tmp_path))
    assert [len(network.analogs) for network in networks] == [2, 1]


def test_what_has_no_ann_belongs_to_the_same_layers_and_images(image_stage, tmp_path):
    image_stage("a/seed0", "ann")
    image_stage("b/seed0", "ann", pixels="symmetric")
    image_stage("scratch/seed0", "T2-scratch", pixels="symmetric")
    image_stage("more/seed0", "T2-scratch", pixels="symmetric", limit=5000)
    networks = networks_of(read_measured(tmp_path))
    assert [names(network.stages) for network in networks] == [[], [("scratch", "T2-scratch")]]


def test_most_images_come_first(image_stage, tmp_path):
    image_stage("a/seed0", "ann", limit=100)
    image_stage("a/seed1", "ann", limit=500)
    image_stage("a/seed2", "ann", limit=500)
    assert [entry.settings["seed"] for entry in best(read_measured(tmp_path))] == [1, 2]
    image_stage("a/seed3", "ann", limit=None)
    assert [entry.settings["seed"] for entry in best(read_measured(tmp_path))] == [3]
    assert best([]) == []


def test_other_settings_are_no_other_seeds_and_the_newest_count(image_stage, tmp_path):
    for seed in (0, 1):
        image_stage(f"new/seed{seed}", "T1", time=f"2026-01-0{2 + seed}", **{"iir.lr": 1e-4})
    image_stage("old/seed2", "T1", time="2026-01-01", **{"iir.lr": 1e-3})
    assert [entry.settings["seed"] for entry in best(read_measured(tmp_path))] == [0, 1]


def test_scores_on_training_images_do_not_count(image_stage, tmp_path):
    image_stage("a/seed0", "ann", metrics={"test_is_train": True})
    assert read_measured(tmp_path) == []


def test_costs_are_per_image(image_stage, tmp_path):
    image_stage("a/seed0", "ann", notes={"wall_s": 30.0, "images": 600, "memory": 7})
    (entry,) = read_measured(tmp_path)
    took = costs(entry.notes, Score(0.5, 10, [], seconds=0.01, memory=9))
    assert (took.training, took.training_memory) == (pytest.approx(0.05), 7)
    assert (took.inference, took.inference_memory) == (0.01, 9)
    untrained = replace(entry.notes, images=None, wall_s=None)
    assert costs(untrained, Score(0.5, 10, [])).training is None


def test_a_damaged_file_is_named(image_stage, tmp_path):
    image_stage("a/seed0", "ann")
    path = tmp_path / "a/seed0/ann/metrics.json"
    metrics = read_json(path)
    path.write_text("{")
    with pytest.raises(UserError, match=str(path)):
        read_measured(tmp_path)
    write_json(path, metrics)
    (entry,) = read_measured(tmp_path)
    entry.network.unlink()
    with pytest.raises(UserError, match="no such file"):
        _ = entry.notes
