"""Selection of recorded runs, and the settings in their commands."""

from dataclasses import replace

import pytest

from snn_rl.chain.records import mark_done
from snn_rl.chain.stages import Stage
from snn_rl.files.atomic import read_json, write_json
from snn_rl.papers.runs import best, decisive, given_settings, networks_of, read_images
from snn_rl.utils.errors import UserError

CLASSIFY = "python -m snn_rl.classify"


def names(stages):
    return [(stage.run.parent.name, stage.name) for stage in stages]


def test_stages_belong_to_the_ann_that_they_began_with(image_stage, tmp_path):
    first = image_stage("first/seed0", "ann", **{"fit.epochs": 6})
    second = image_stage("second/seed0", "ann", notes={"other": 1}, **{"fit.epochs": 9})
    for run, ann, name in (("a", first, "T2-direct"), ("b", second, "T3-direct")):
        again = image_stage(f"{run}/seed0", "ann", ann=ann, notes={"run": run})
        image_stage(f"{run}/seed0", name)
    # an ANN that was imported from a run which had imported it itself
    image_stage("c/seed0", "ann", ann=again)
    image_stage("c/seed0", "T4-direct", limit=100)
    found = networks_of(read_images(tmp_path))
    assert [(names(network.analogs), names(network.stages)) for network in found] == [
        ([("first", "ann")], [("a", "T2-direct")]),
        ([("second", "ann")], [("b", "T3-direct"), ("c", "T4-direct")]),
    ]


def test_an_imported_ann_without_a_run_is_its_own_network(image_stage, tmp_path):
    image_stage("a/seed0", "ann", ann="0123")
    image_stage("a/seed0", "T2-direct")
    (network,) = networks_of(read_images(tmp_path))
    assert names(network.analogs) == [("a", "ann")]


def test_seeds_share_a_network_and_other_settings_do_not(image_stage, tmp_path):
    for seed in (0, 1):
        image_stage(f"a/seed{seed}", "ann", threads=seed, **{"fit.epochs": 6})
    image_stage("b/seed0", "ann", **{"fit.epochs": 7})
    networks = networks_of(read_images(tmp_path))
    assert [len(network.analogs) for network in networks] == [2, 1]


def test_a_stage_from_scratch_belongs_to_the_same_layers_and_images(image_stage, tmp_path):
    image_stage("a/seed0", "ann")
    image_stage("b/seed0", "ann", pixels="symmetric")
    image_stage("scratch/seed0", "T2-scratch", pixels="symmetric")
    image_stage("more/seed0", "T2-scratch", pixels="symmetric", limit=5000)
    networks = networks_of(read_images(tmp_path))
    assert [names(network.stages) for network in networks] == [[], [("scratch", "T2-scratch")]]


def test_more_training_images_come_first(image_stage, tmp_path):
    image_stage("a/seed0", "ann", limit=100)
    image_stage("a/seed1", "ann", limit=500)
    image_stage("a/seed2", "ann", limit=500)
    assert [entry.settings["seed"] for entry in best(read_images(tmp_path))] == [1, 2]
    image_stage("a/seed3", "ann", limit=None)
    assert [entry.settings["seed"] for entry in best(read_images(tmp_path))] == [3]
    assert best([]) == []


def test_the_newest_settings_are_selected(image_stage, tmp_path):
    for seed in (0, 1):
        image_stage(f"new/seed{seed}", "T1", time=f"2026-01-0{2 + seed}", **{"iir.lr": 1e-4})
    image_stage("old/seed2", "T1", time="2026-01-01", **{"iir.lr": 1e-3})
    assert [entry.settings["seed"] for entry in best(read_images(tmp_path))] == [0, 1]


def test_scores_on_training_images_do_not_count(image_stage, tmp_path):
    image_stage("a/seed0", "ann", metrics={"test_is_train": True})
    assert read_images(tmp_path) == []


def test_costs_are_per_image(image_stage, tmp_path):
    image_stage("a/seed0", "ann", notes={"wall_s": 30.0, "images": 600, "memory": 7})
    (entry,) = read_images(tmp_path)
    assert entry.notes.seconds == pytest.approx(0.05)
    assert replace(entry.notes, images=None).seconds is None


def test_a_damaged_file_is_named(image_stage, tmp_path):
    image_stage("a/seed0", "ann")
    path = tmp_path / "a/seed0/ann/metrics.json"
    metrics = read_json(path)
    path.write_text("{")
    with pytest.raises(UserError, match=str(path)):
        read_images(tmp_path)
    write_json(path, metrics)
    (entry,) = read_images(tmp_path)
    entry.network.unlink()
    with pytest.raises(UserError, match="no such file"):
        _ = entry.notes


def test_one_lost_network_leaves_out_its_stage_only(image_stage, tmp_path, capsys):
    for seed in (0, 1):
        image_stage(f"a/seed{seed}", "ann")
        mark_done(tmp_path / f"a/seed{seed}/ann")
    lost = tmp_path / "a/seed0/ann/network.safetensors"
    lost.unlink()
    assert [entry.settings["seed"] for entry in read_images(tmp_path)] == [1]
    assert f"{lost} is missing" in capsys.readouterr().out


def test_training_does_not_affect_a_conversion():
    settings = {"fit.lr": 1, "iir.lr": 2, "iir.percentile": 3, "iir.encoding": 4}
    assert decisive(Stage.parse("T2"), settings) == settings
    del settings["iir.lr"]
    assert decisive(Stage.parse("T2-converted"), {**settings, "iir.lr": 2}) == settings


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("net=vgg5 'data=my images'", {"net": "vgg5", "data": "my images"}),
        ("-m --multirun hydra/launcher=joblib hydra.launcher.n_jobs=2 T=1", {"T": "1"}),
        ("++iir.lr=0.1 iir.lr=0.2", {"iir.lr": "0.2"}),
        ("'iir.milestones=[0.5,0.9]'", {"iir.milestones": "[0.5,0.9]"}),
        ("'iir.milestones=[0.5],[0.9]'", {"iir.milestones": "[0.5, 0.75]"}),
        ("limit=null,500 'iir.lr=choice(1e-3,1e-4)'", {"limit": "null", "iir.lr": "0.001"}),
        ("test_limit=100,200", {}),
        ("data=/a,/b iir.thresholds_from=a,b", {"data": "/a,/b", "iir.thresholds_from": "a,b"}),
    ],
)
def test_swept_settings_have_the_values_of_the_run(words, given):
    own = {"iir.milestones": [0.5, 0.75], "limit": None, "iir.lr": 1e-3}
    own |= {"data": "0123", "iir.thresholds_from": "4567"}
    assert given_settings(f"{CLASSIFY} {words}", own) == given


def test_options_of_a_launcher_are_not_settings():
    command = "torchrun --nnodes 2 --nproc-per-node=4 -m snn_rl.classify net=vgg5"
    assert given_settings(command, {}) == {"net": "vgg5"}
