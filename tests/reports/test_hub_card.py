"""Folders for the Hugging Face Hub, written from an included agent and loaded again."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

import snn_rl
from snn_rl import zoo
from snn_rl.chain.records import StageEvaluation, read_stages
from snn_rl.files import hub
from snn_rl.files.checkpoint import load_tensors, save_tensors
from snn_rl.reports.hub_card import write_repository
from snn_rl.utils.errors import UserError

ENV = "CartPole-v1"
PUBLISHED = zoo.ROOT / ENV


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_repository(PUBLISHED, tmp_path, "user/cartpole", "play.gif")
    return tmp_path


def test_the_agent_scores_what_its_card_says(repository: Path) -> None:
    assert {path.name for path in repository.iterdir()} == {
        *(hub.CARD, hub.CONFIG, hub.MODEL),
        "play.gif",
    }
    agent = snn_rl.load(repository, T=1, env=ENV)
    assert agent.stage == "T1"
    recorded = StageEvaluation.read(PUBLISHED / "T1" / "metrics.json")
    trials = recorded.evaluation
    card = (repository / hub.CARD).read_text()
    assert f"agent.evaluate(episodes=20, seed={trials.seed}, sticky=0.25)" in card
    for sticky, column in ((0.0, recorded.greedy), (trials.sticky, recorded.sticky)):
        again = agent.evaluate(episodes=20, seed=trials.seed, sticky=sticky)
        assert again.returns == column.returns


def test_the_metadata_follow_the_hub(repository: Path) -> None:
    _, front, body = (repository / hub.CARD).read_text().split("---\n", 2)
    meta = yaml.safe_load(front)
    assert meta["library_name"] == "snn_rl" and ENV in meta["tags"]
    greedy, sticky = meta["model-index"][0]["results"]
    evaluation = read_stages(PUBLISHED)[-1].evaluation
    assert greedy["dataset"] == {"name": ENV, "type": ENV}
    for result, column in ((greedy, evaluation.greedy), (sticky, evaluation.sticky)):
        assert result["task"]["type"] == "reinforcement-learning"
        (metric,) = result["metrics"]
        assert metric["type"] == "mean_reward"
        assert metric["value"] == f"{column.mean:.2f} +/- {column.std:.2f}"
    card = pytest.importorskip("huggingface_hub").ModelCard.load(repository / hub.CARD)
    assert card.data.eval_results[0].metric_type == "mean_reward"
    assert "drawn as 40x120 grayscale pixels" in body and "3,000,000 to 3,000,019" in body


def test_repositories_are_loaded_by_name(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "download", lambda name: asked.append(name) or repository)
    agent = snn_rl.load("user/cartpole")
    assert asked == ["user/cartpole"]
    frames = agent.make_env(2, seed=0).reset()
    own = snn_rl.load(ENV, T=1)
    torch.testing.assert_close(agent.predict(frames)[0], own.predict(frames)[0], rtol=0, atol=0)


def test_a_repository_without_an_agent_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "download", lambda name: tmp_path)
    with pytest.raises(
        UserError, match=r"user/other holds no agent of snn_rl: config.json is miss"
    ):
        snn_rl.load("user/other")


def test_a_mistyped_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str) -> Path:
        raise UserError(f"cannot download {name}: it does not exist")

    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(UserError, match=r"^there is no file or directory models/a.zip, and cannot"):
        snn_rl.load("models/a.zip")


def test_modules_that_a_repository_names_are_not_imported(repository: Path) -> None:
    path = repository / hub.CONFIG
    config = json.loads(path.read_text())
    config["settings"]["env"] = "antigravity:Game-v0"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="needs your module antigravity: pass env='antigravity:Ga"):
        snn_rl.load(repository)
    config["settings"]["env"] = ENV
    path.write_text(json.dumps(config))
    tensors, meta = load_tensors(repository / hub.MODEL)
    meta["network"]["surrogate"] = "antigravity:fly"
    save_tensors(repository / hub.MODEL, tensors, meta)
    with pytest.raises(UserError, match="names a module: surrogate=antigravity:fly"):
        snn_rl.load(repository)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": "CartPole-v0"}, "was trained in CartPole-v1, not in env=CartPole-v0"),
        ({"T": 2}, "is an agent with T=1, not an agent with T=2"),
    ],
)
def test_other_environments_and_timesteps_are_refused(
    repository: Path, options: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        snn_rl.load(repository, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config | {"library_name": "stable-baselines3"}, "does not describe an"),
        (lambda config: config | {"settings": None}, "is damaged"),
        (lambda config: {key: config[key] for key in ("library_name", "stage")}, "is damaged"),
        (lambda config: [config], "does not describe an agent"),
    ],
)
def test_foreign_and_damaged_settings_are_refused(repository: Path, change, message: str) -> None:
    path = repository / hub.CONFIG
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message):
        snn_rl.load(repository)
