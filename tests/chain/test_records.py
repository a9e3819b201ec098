"""Records: the JSON of every file, and malformed files."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import snn_rl
from snn_rl import zoo
from snn_rl.chain import records
from snn_rl.chain.records import (
    AgentNotes,
    Columns,
    Comparison,
    Counters,
    Evaluation,
    ImageNotes,
    Invocation,
    Score,
    SelectionGames,
    StageEvaluation,
    Trials,
    flat,
    read_invocations,
    read_metrics,
    read_settings,
    read_stages,
    record_invocation,
    section,
    stages_in,
    write_invocations,
)
from snn_rl.configs.schema import Config, RolloutConfig
from snn_rl.core.conversion import LayerReport
from snn_rl.files.atomic import read_json, write_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.utils.errors import UserError

SHIPPED = sorted(path.parent for path in zoo.ROOT.glob("*/*/metrics.json"))
COLUMNS = {
    "greedy": Evaluation([1.0, 2.0], [3, 4], 2, 0, [0.5], 0.75),
    "sticky": Evaluation([1.0, 1.0], [3, 3], 1, 1, [0.25]),
}
TRIALS = Trials(2, 7, 0.0, 0.25)


def test_statistics_of_known_returns() -> None:
    returns = [1.0, 2.0, 4.0, 9.0]
    result = Evaluation(returns, [1] * 4, distinct=4, capped=0, spike_rates=[])
    assert result.mean == 4.0
    assert result.std == pytest.approx((38 / 3) ** 0.5)
    low, high = result.interval
    assert min(returns) <= low < result.mean < high <= max(returns)
    again = Evaluation(returns, [1] * 4, distinct=4, capped=0, spike_rates=[])
    assert again.interval == (low, high), "the draws have a fixed seed"
    assert result.to_json()["episodes"] == 4
    single = Evaluation([7.0], [1], distinct=1, capped=0, spike_rates=[])
    assert (single.std, single.interval) == (0.0, (7.0, 7.0))


def test_the_interval_of_many_episodes_matches_the_normal_approximation() -> None:
    returns = list(np.random.default_rng(0).normal(size=400))
    result = Evaluation(returns, [1] * 400, distinct=400, capped=0, spike_rates=[])
    half = 1.96 * result.std / 20
    expected = (result.mean - half, result.mean + half)
    assert result.interval == pytest.approx(expected, abs=0.1 * half)


@pytest.mark.parametrize("directory", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_shipped_files_survive_reading_and_writing(directory: Path, tmp_path: Path) -> None:
    metrics = read_metrics(directory)
    assert isinstance(metrics, StageEvaluation)
    metrics.write(tmp_path / "metrics.json")
    before, after = read_json(directory / "metrics.json"), read_json(tmp_path / "metrics.json")
    for column in ("greedy", "sticky"):  # computed by other versions of NumPy
        for key in ("mean", "std", "interval"):
            assert after[column].pop(key) == pytest.approx(before[column].pop(key))
        before[column].setdefault("agreement", None)
    assert after == before
    if directory.name == "teacher":  # its network is not included
        return
    path = directory / "network.safetensors"
    notes = load_tensors(path)[1]
    own = AgentNotes.from_json(notes, path).to_json()
    assert json.dumps({**own, "network": notes["network"]}) == json.dumps(
        {key: value for key, value in notes.items() if key != "schema"}
    )


@pytest.mark.parametrize("folder", sorted({path.parent for path in SHIPPED}), ids=lambda p: p.name)
def test_shipped_commands_survive_reading_and_writing(folder: Path, tmp_path: Path) -> None:
    write_invocations(tmp_path, read_invocations(folder))
    assert (tmp_path / "run.json").read_bytes() == (folder / "run.json").read_bytes()
    assert [stage.name for stage in read_stages(folder)] == ["ann", "T5", "T1"]


def test_finished_stages_without_a_network_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(SHIPPED[0].parent, run)
    (run / "T5" / "network.safetensors").unlink()
    assert [stage.name for stage in read_stages(run)] == ["ann", "T1"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{run / 'T5' / 'network.safetensors'} is missing, but")


def test_a_comparison_contains_both_networks() -> None:
    comparison = Comparison(
        env="Pole",
        run="here",
        stage="T1",
        cap=9,
        layers=["conv1"],
        ann=Columns(**COLUMNS),
        energy=None,
        evaluation=TRIALS,
        **COLUMNS,
    )
    data = comparison.to_json()
    assert set(data) == {
        *("env", "run", "stage", "cap", "layers", "ann", "energy", "evaluation"),
        *("greedy", "sticky"),
    }
    assert data["energy"] is None and set(data["ann"]) == {"greedy", "sticky"}
    assert (
        data["greedy"]
        == data["ann"]["greedy"]
        == {
            **{"returns": [1.0, 2.0], "lengths": [3, 4], "distinct": 2, "capped": 0},
            **{
                "spike_rates": [0.5],
                "agreement": 0.75,
                "mean": 1.5,
                "std": pytest.approx(0.5**0.5),
            },
            **{"interval": [1.0, 2.0], "episodes": 2},
        }
    )
    assert Comparison.from_json(json.loads(json.dumps(data)), Path()) == comparison


def test_notes_list_known_values_in_the_order_of_their_fields() -> None:
    layer = LayerReport("conv1", 0.5, 0.1, 0.0)
    agent = AgentNotes(
        **{"env": "Pole", "seed": 0, "stage": "T1", "layers": [layer], "steps": 1, "updates": 2},
        **{"wall_s": 3.0, "scores": [[1, 2.0]], "selection": [SelectionGames(5, 0.25)]},
    )
    assert json.dumps(agent.to_json()) == (
        '{"env": "Pole", "seed": 0, "stage": "T1", "layers": [{"name": "conv1", '
        '"v_threshold": 0.5, "spike_rate": 0.1, "dead": 0.0}], "steps": 1, "updates": 2, '
        '"wall_s": 3.0, "scores": [[1, 2.0]], "selection": [{"games": 5, "sticky": 0.25}]}'
    )
    assert AgentNotes.from_json(agent.to_json(), Path()) == agent
    image = ImageNotes(dataset="cifar10", net="vgg5", stage="T6-converted", seed=0, epochs=0)
    assert list(image.to_json()) == ["dataset", "net", "stage", "seed", "epochs"]


def test_a_score_writes_unknown_values_as_null() -> None:
    score = Score(0.5, 10, [0.25])
    assert score.to_json() == {
        **{"accuracy": 0.5, "images": 10, "spike_rates": [0.25], "input_rate": None},
        **{"seconds": None, "memory": None, "test_is_train": False, "test_images": None},
    }


def test_a_section_of_the_settings_is_rebuilt() -> None:
    rollout = RolloutConfig(frame_stack=3, cap=9)
    settings = {"env": "Pole", **flat("rollout", rollout), "rollout.unknown": 1}
    assert section(settings, "rollout", RolloutConfig) == rollout


def test_stages_with_a_file_are_found_and_sorted(tmp_path: Path) -> None:
    for name in ("T1", "ann", "T5", "T1-exact", "notes", "T1 copy"):
        write_json(tmp_path / name / "settings.json", {})
    write_json(tmp_path / "T4" / "done.json", {})
    names = [stage.name for stage in stages_in(tmp_path, "settings.json")]
    assert names == ["ann", "T5", "T1", "T1-exact"]
    names = [stage.name for stage in stages_in(tmp_path)]
    assert names == ["ann", "T5", "T4", "T1", "T1-exact"]


@pytest.mark.parametrize(
    ("record", "data", "words"),
    [
        (Trials, [], "JSON object"),
        (Trials, {"episodes": 1}, "missing key 'seed'"),
        (Trials, {**vars(TRIALS), "seed": "7"}, "seed: expected int, got 7"),
        (Trials, {**vars(TRIALS), "seed": True}, "seed: expected int, got True"),
        (
            Score,
            {"accuracy": 1, "images": 2, "spike_rates": ["x"]},
            "spike_rates: expected float, got x",
        ),
        (Counters, {"episodes": [3]}, "episodes: expected list, got 3"),
        (Counters, None, "JSON object"),
        (StageEvaluation, {"greedy": {}, "sticky": {}}, "greedy: missing key 'returns'"),
        (Invocation, {"command": "x", "revision": 1, "time": ""}, "revision: expected str, got 1"),
    ],
)
def test_a_malformed_file_gives_one_line(record, data, words, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, data)
    with pytest.raises(UserError, match=words) as caught:
        record.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [[], {}, ["x"], [{}]])
def test_damaged_commands_give_one_line(data, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", data)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        read_invocations(tmp_path)


def test_damaged_settings_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("[1]")
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        read_settings(tmp_path)


def test_reading_records_imports_neither_matplotlib_nor_the_rl_libraries() -> None:
    program = (
        "import sys; from pathlib import Path; from snn_rl.chain.records import read_stages\n"
        f"read_stages(Path({str(SHIPPED[0].parent)!r}))\n"
        "print({'matplotlib', 'stable_baselines3', 'gymnasium', 'hydra'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_another_version_of_a_package_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_invocation(tmp_path, Config())
    record_invocation(tmp_path, Config())
    assert capsys.readouterr().out == ""
    (first, second) = read_invocations(tmp_path)
    older = replace(
        second, versions=second.versions | {"torch": "2.0.0\x1b[31m", "snn_rl": "0.0.9"}
    )
    write_invocations(tmp_path, [first, older])
    record_invocation(tmp_path, Config())
    assert capsys.readouterr().out == (
        f"note: {tmp_path} was made with snn_rl 0.0.9, now {snn_rl.__version__}; torch "
        f"2.0.0\\x1b[31m, now {version('torch')}. Results may differ\n"
    )
    write_invocations(tmp_path, [replace(older, versions={})])  # an old run
    record_invocation(tmp_path, Config())
    assert capsys.readouterr().out == ""


def test_damaged_commands_are_kept_in_another_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text("5")
    record_invocation(tmp_path, Config())
    ignored, renamed = capsys.readouterr().out.splitlines()
    assert ignored.startswith(f"{path} is damaged: ") and ignored.endswith(": ignoring the file")
    assert renamed == f"{path} was renamed to run.damaged.json"
    assert (tmp_path / "run.damaged.json").read_text() == "5"
    before = path.read_bytes()

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", deny)
        with pytest.raises(UserError, match=f"cannot read {path}"):
            record_invocation(tmp_path, Config())
    assert path.read_bytes() == before


def test_the_revision_is_that_of_the_package_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # installed in an environment inside another repository, which ignores the environment
    module = tmp_path / ".venv" / "snn_rl" / "records.py"
    module.parent.mkdir(parents=True)
    module.touch()
    (tmp_path / ".gitignore").write_text(".venv")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], ["add", ".gitignore"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(records, "__file__", str(module))
    assert records._revision() is None
    subprocess.run([*git, "add", "-f", str(module)], check=True)
    revision = records._revision()
    assert revision is not None and revision.endswith("-dirty")
