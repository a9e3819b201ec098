"""The publish command on a small run, and commands on the published agents."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snn_rl import evaluate, play, publish, train, zoo
from snn_rl.agents.evaluation import evaluate_agent
from snn_rl.agents.loading import load_agent
from snn_rl.chain import run_directory
from snn_rl.chain.records import Invocation, StageEvaluation, Trials
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
from snn_rl.files import hub
from snn_rl.files.atomic import read_json, write_json
from snn_rl.files.checkpoint import load_network, load_tensors

ENV = "CartPole-v1"
CAP = 12
STAGES = ("ann", "T3", "T1")
PUBLISH = ("env=CartPole-v1", "T_start=3", "threads=1", "episodes=2", "device=cpu")
FRESH = "eval.seed=3000000"


def command(module, *arguments):
    """Runs a command with command-line arguments in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__.replace(".", "/"), *arguments])
        run_command(Config, module.main, module.__doc__)


def refused(capsys, module, *arguments):
    """Returns the error line of the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(module, *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Trains ANN -> T3 -> T2 -> T1 with a low step limit; T3 and T1 are published."""
    directory = tmp_path_factory.mktemp("runs") / "cartpole"
    command(
        train,
        *("env=CartPole-v1", "T=1", "T_start=3", f"run_dir={directory}", "threads=1"),
        *("rollout.frame_stack=2", f"rollout.cap={CAP}", "rollout.n_envs=2", "episodes=1"),
        *("dqn.steps=60", "dqn.learning_starts=40", "iir.steps=20", "checkpoint_steps=100"),
        *("iir.t1_steps=0", "dqn.selection_games=2", "iir.batch_size=8", "dqn.batch_size=8"),
        *("video=false", "device=cpu"),
    )
    return directory


@pytest.fixture(scope="module")
def shipped(run_dir, tmp_path_factory):
    """Publishes the agents of the run."""
    root = tmp_path_factory.mktemp("zoo")
    command(publish, *PUBLISH, f"run_dir={run_dir}", f"zoo={root}", FRESH)
    return root


@pytest.fixture
def elsewhere(shipped, tmp_path, monkeypatch):
    """Returns an empty working directory; the zoo replaces the package's."""
    monkeypatch.setattr(zoo, "ROOT", shipped)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return tmp_path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_stage_is_stored_as_float16_with_its_settings(run_dir, shipped):
    for name in STAGES:
        source, target = run_dir / name, shipped / ENV / name
        tensors, notes = load_tensors(target / run_directory.NETWORK)
        before, own = load_tensors(source / run_directory.NETWORK)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        for key, tensor in before.items():
            torch.testing.assert_close(tensors[key], tensor.half(), rtol=0, atol=0)
        assert notes == own
        assert read_json(target / "settings.json") == read_json(source / "settings.json")


def test_the_published_files_were_evaluated(shipped):
    for name in STAGES:
        metrics = read_json(shipped / ENV / name / run_directory.METRICS)
        network, notes = load_network(shipped / ENV / name / run_directory.NETWORK)
        assert metrics["evaluation"] == {
            **{"episodes": 2, "seed": 3_000_000},
            **{"epsilon": 0.0, "sticky": 0.25},
        }
        assert metrics["steps"] == notes["steps"]
        assert len(metrics["greedy"]["spike_rates"]) == len(network.spec.layers)
    agent, ann = (load_agent(shipped / ENV / name, "cpu") for name in ("T1", "ann"))
    again = evaluate_agent(agent, Trials(2, 3_000_000, 0.0, 0.25), ann)
    metrics = StageEvaluation.read(shipped / ENV / "T1" / run_directory.METRICS)
    assert metrics.columns == again.columns


def test_the_recorded_episode_is_the_agent_s(shipped):
    record = read_json(shipped / ENV / "T1" / publish.GAME)
    game = play.Episode(load_agent(shipped / ENV / "T1", "cpu"), 3_000_000)
    moments = list(game)[:-1]
    assert (record["return"], record["decisions"]) == (game.score, game.steps)
    assert len(record["q_values"]) == len(moments) <= CAP
    np.testing.assert_allclose(record["q_values"], [m.q_values for m in moments], rtol=1e-6)


def test_the_card_agrees_with_the_files(shipped, monkeypatch):
    folder = shipped / ENV
    card = (folder / "MODEL_CARD.md").read_text()
    for name, label in zip(STAGES, ("ANN", "T3", "T1"), strict=True):
        metrics = read_json(folder / name / run_directory.METRICS)
        for column in ("greedy", "sticky"):
            outcome = metrics[column]
            assert f"{outcome['mean']:.1f} ± {outcome['std']:.1f}" in card
            returns = ", ".join(f"{r:g}" for r in outcome["returns"])
            assert f"| {label} | {column} | {returns} |" in card
        rates = " | ".join(f"{rate:.4f}" for rate in metrics["greedy"]["spike_rates"])
        assert f"| {label} | {rates} |" in card
        amount = f"{metrics['steps']:,} agent steps, {metrics['updates']:,} gradient steps"
        assert f"{label} {amount}" in card
    record = read_json(folder / "T1" / publish.GAME)
    assert not (folder / "T3" / publish.GAME).exists()
    assert f"{record['return']:g} points in {record['decisions']:,} decisions" in card
    assert "2 frames of 40x120 to 2 Q-values" in card
    assert "Episode seeds start at 3,000,000" in card
    assert f"torch {torch.__version__}" in card
    assert "`python -m snn_rl.train env=CartPole-v1 T=1 T_start=3 run_dir=cartpole" in card
    assert "`python -m snn_rl.publish env=CartPole-v1" in card
    assert "python -m snn_rl.play env=CartPole-v1 T=1 T_start=3 overlay=true" in card
    assert "(play.gif)" in card
    program = card.split("```python")[1].split("```")[0]
    names = {}
    monkeypatch.setattr(zoo, "ROOT", shipped)
    exec(program, names)
    assert names["agent"].stage == "T1"
    assert names["actions"].shape == (1,)
    with Image.open(folder / "play.gif") as gif:
        assert gif.width <= 640


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("T_start=3",), ["ann", "T3", "T1"]),
        (("T_start=3", "T=3"), ["ann", "T3"]),
        (("T_start=5",), ["ann", "T1"]),  # the run has no T5
        (("T_start=3", "carry_state=true"), ["ann", "T3", "T1", "T1-carried"]),
        (("T_start=3", "exact=true"), ["ann", "T3", "T1", "T1-exact"]),
        (("direct=true", "carry_state=true"), ["ann", "T1-direct", "T1-direct-carried"]),
        (("T=7", "stages=none"), ["ann", "T7-converted"]),
        (("T_start=3", "finetune.steps=60"), ["ann", "T3", "T1"]),
    ],
)
def test_which_stages_ship(run_dir, arguments, names):
    config = compose(Config, ["env=CartPole-v1", *arguments])
    assert [stage.name for stage in publish.stages_to_ship(config, run_dir)] == names


def test_no_file_contains_local_paths(run_dir, shipped):
    for name, data in contents(shipped / ENV).items():
        assert str(run_dir.parent).encode() not in data, name
        assert str(shipped).encode() not in data, name


def test_publishing_again_replaces_the_whole_folder(run_dir, tmp_path):
    arguments = (*PUBLISH, f"run_dir={run_dir}", f"zoo={tmp_path}", FRESH)
    (tmp_path / ENV / "T4").mkdir(parents=True)
    (tmp_path / f".{ENV}.abc.tmp").mkdir()  # left by a killed command
    command(publish, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ENV]
    names = {path.name for path in (tmp_path / ENV).iterdir()}
    assert names == {*STAGES, "MODEL_CARD.md", "play.gif", "run.json"}
    assert "privileged" not in (tmp_path / ENV / "MODEL_CARD.md").read_text()


def test_the_card_shows_the_privileged_teacher(run_dir, tmp_path):
    run, root = tmp_path / "run", tmp_path / "zoo"
    shutil.copytree(run_dir, run)
    metrics = read_json(run / "ann" / "metrics.json") | {"steps": 123_456}
    write_json(run / "teacher" / "metrics.json", metrics)
    for name in ("ann", "T3", "T2", "T1"):
        settings = read_json(run / name / "settings.json")
        taught = settings | {"teacher": "state", "iir.epsilon": 0.02}
        write_json(run / name / "settings.json", taught)
    command(publish, *PUBLISH, f"run_dir={run}", f"zoo={root}", FRESH)
    assert [path.name for path in (root / ENV / "teacher").iterdir()] == ["metrics.json"]
    card = (root / ENV / "MODEL_CARD.md").read_text()
    assert "## Teacher" in card and "123,456" in card
    (training,) = (line for line in card.splitlines() if line.startswith("| training |"))
    assert training.count("distilled from a privileged teacher") == len(STAGES)


def test_the_last_agent_is_uploaded(run_dir, tmp_path, capsys, monkeypatch):
    uploaded = {}

    def upload(folder, repository):
        uploaded[repository] = contents(folder)
        return "https://huggingface.co/user/cartpole"

    monkeypatch.setattr(hub, "upload", upload)
    monkeypatch.setattr(hub, "check_upload", lambda repository: uploaded.update({repository: None}))
    arguments = (*PUBLISH, f"run_dir={run_dir}", f"zoo={tmp_path}", FRESH)
    command(publish, *arguments, "repo=user/cartpole")
    assert "uploaded to https://huggingface.co/user/cartpole\n" in capsys.readouterr().out
    (files,) = uploaded.values()
    published = tmp_path / ENV / "T1" / run_directory.NETWORK
    assert files[hub.MODEL] == published.read_bytes()
    assert str(run_dir).encode() not in files[hub.CONFIG] + files[hub.CARD]


def test_a_failed_publication_keeps_the_folder(run_dir, shipped, tmp_path, monkeypatch):
    shutil.copytree(shipped / ENV, tmp_path / ENV)
    before = contents(tmp_path)

    def fail(*arguments):
        raise RuntimeError("the last step fails")

    monkeypatch.setattr(publish, "write_card", fail)
    with pytest.raises(RuntimeError, match="the last step fails"):
        command(publish, *PUBLISH, f"run_dir={run_dir}", f"zoo={tmp_path}", FRESH)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("path", "name"), [("/home/me/runs/b", "b"), ("runs/b", "runs/b"), ("../b", "../b")]
)
def test_absolute_paths_are_reduced_to_their_names(path, name):
    def entry(run_dir, ann):
        return Invocation(
            f"python -m snn_rl.train env=X run_dir={run_dir} ann={ann} iir.lr=1/2",
            *(None, ""),
            settings={"env": "X", "run_dir": run_dir, "ann": ann, "init": None, "zoo": None},
        )

    ann = "a" if path.startswith("/") else f"{path}/a"
    assert publish.portable(entry(path, f"{path}/a")) == entry(name, ann)


def test_a_gif_that_is_too_large_is_shortened(shipped, tmp_path, monkeypatch):
    tried = []

    def record(episode, path, fps):
        tried.append(episode.max_steps)
        path.write_bytes(bytes(20_000 * episode.max_steps))

    monkeypatch.setattr(publish, "record_video", record)
    agent = load_agent(shipped / ENV / "T1", "cpu")
    publish.record_gif(agent, tmp_path / "play.gif", Trials(2, 0, 0.0, 0.25))
    assert tried == [200, 100, 50]


@pytest.mark.parametrize("extra", [(), ("T=3",)])
def test_evaluate_uses_a_shipped_agent_without_changing_its_files(
    elsewhere, shipped, capsys, extra
):
    before = contents(shipped)
    arguments = (*PUBLISH, *extra)
    command(evaluate, *arguments)
    text = capsys.readouterr().out
    name = extra[0].replace("=", "") if extra else "T1"
    assert f"has no finished {name}: using the included agent" in text
    output = Path("runs") / ENV / "zoo" / name / run_directory.EVALUATION
    assert f"written to {output}" in text
    assert read_json(output)["run"] == str(shipped / ENV)
    assert contents(shipped) == before
    # the zoo's metrics.json already contains these episodes
    command(evaluate, *arguments, FRESH)
    text = capsys.readouterr().out
    assert f"has already been evaluated on these episodes: {shipped / ENV / 'ann'}" in text
    again = read_json(output)
    metrics = read_json(shipped / ENV / name / run_directory.METRICS)
    assert again["greedy"] == metrics["greedy"]
    assert again["sticky"] == metrics["sticky"]


def test_play_uses_a_shipped_agent(elsewhere, shipped, capsys):
    before = contents(shipped)
    command(play, "env=CartPole-v1", "T_start=3", FRESH, "threads=1", "device=cpu")
    text = capsys.readouterr().out
    assert "using the included agent" in text
    record = read_json(shipped / ENV / "T1" / publish.GAME)
    assert f"after {record['decisions']} steps, return {record['return']:g}" in text
    assert (elsewhere / "runs" / ENV / "zoo" / "T1" / "play.mp4").stat().st_size > 0
    assert contents(shipped) == before


def test_the_user_s_run_takes_precedence(elsewhere, run_dir, capsys):
    shutil.copytree(run_dir, Path("runs") / ENV / "seed0")
    command(evaluate, *PUBLISH)
    text = capsys.readouterr().out
    assert "included agent" not in text
    assert f"T1 of runs/{ENV}/seed0" in text


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "arguments", [("seed=1",), ("run_dir=nowhere",), ("direct=true",), ("T=2",)]
)
def test_a_named_run_is_not_replaced_by_a_shipped_agent(capsys, arguments):
    for module in (evaluate, play):
        message = refused(capsys, module, "env=CartPole-v1", "T_start=3", *arguments)
        assert "has no finished" in message
        assert "python -m snn_rl.train env=CartPole-v1" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["eval.seed=1000000", "1000000 to 1000000", "T1/metrics.json"]),
        (("eval.seed=999999",), ["eval.seed=999999", "use other seeds"]),
        (("eval.seed=2000000",), ["eval.seed=2000000", "checkpoint selection"]),
        ((FRESH, "T=2", "direct=true"), ["no finished T2-direct", "snn_rl.train env=CartPole-v1"]),
        ((FRESH, "dqn.steps=7"), ["snn_rl.publish does not accept dqn.steps"]),
        ((FRESH, "episodes=0"), ["episodes=0"]),
        ((FRESH, "repo=pong"), ["repo=pong: expected the form USER/NAME"]),
        ((FRESH, "env=CartPole-v0"), ["expected a run of CartPole-v0, got CartPole-v1"]),
    ],
)
def test_invalid_settings_give_one_line(run_dir, tmp_path, capsys, arguments, words):
    message = refused(
        capsys, publish, *PUBLISH, f"run_dir={run_dir}", f"zoo={tmp_path / 'zoo'}", *arguments
    )
    for word in words:
        assert word in message
    assert not (tmp_path / "zoo").exists()


def test_a_zoo_that_is_a_file_gives_one_line(run_dir, tmp_path, capsys):
    (tmp_path / "zoo").write_text("a file")
    message = refused(
        capsys, publish, *PUBLISH, f"run_dir={run_dir}", f"zoo={tmp_path / 'zoo'}", FRESH
    )
    assert "cannot write to zoo=" in message


@pytest.mark.parametrize("damage", ["network", "run"])
def test_a_damaged_run_gives_one_line_and_publishes_nothing(run_dir, tmp_path, capsys, damage):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    if damage == "network":
        (copy / "ann" / run_directory.NETWORK).write_bytes(b"no network")
    else:
        (copy / run_directory.RUN).unlink()
    message = refused(
        capsys, publish, *PUBLISH, f"run_dir={copy}", f"zoo={tmp_path / 'zoo'}", FRESH
    )
    assert str(copy) in message
    assert not list((tmp_path / "zoo").glob("*")) + list((tmp_path / "zoo").glob(".*"))


def test_seeds_of_the_evaluate_command_are_refused_too(run_dir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    before = {"evaluation": {"episodes": 20, "seed": 2_999_990, "epsilon": 0.0, "sticky": 0.25}}
    write_json(copy / "T2" / run_directory.EVALUATION, before)
    message = refused(capsys, publish, *PUBLISH, f"run_dir={copy}", f"zoo={tmp_path}", FRESH)
    assert "2999990 to 3000009" in message
