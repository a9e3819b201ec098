"""The trained agents that ship, each held to its card."""

import numpy as np
import pytest

from snn_rl import zoo
from snn_rl.agents.loading import load_agent
from snn_rl.chain.run_directory import METRICS, NETWORK
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_tensors
from snn_rl.reports.gameplay import Episode
from snn_rl.reports.model_card import GAME

MIB = 2**20
GAMES = sorted(zoo.ROOT.glob(f"*/*/{GAME}"))  # of every agent with the fewest timesteps
NONE_YET = pytest.param(None, marks=pytest.mark.skip(reason="snn_rl/zoo holds no agents"))


@pytest.mark.parametrize(
    "record", GAMES or [NONE_YET], ids=lambda path: path and "-".join(path.parts[-3:-1])
)
def test_a_shipped_agent_plays_as_its_card_says(record):
    stage = record.parent
    expected, metrics = read_json(record), read_json(stage / METRICS)
    card = (stage.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    points = f"{expected['return']:g} points in {expected['decisions']:,} decisions"
    assert points in card

    agent = load_agent(stage, "cpu")
    game = Episode(agent, expected["seed"], expected["epsilon"], max_steps=agent.cap)
    rows = len(expected["q_values"])
    q_values = [moment.q_values for moment in game if moment.step < rows]
    assert game.over
    # Another processor rounds sums otherwise, which now and then moves a current across a
    # threshold: the Q-values of that one decision are others, seldom the action too.
    same = np.isclose(q_values, expected["q_values"], rtol=1e-4, atol=1e-5).all(1)
    assert same.mean() >= 0.75
    # A single other action leads to another game. The sticky column forces other actions all the
    # time, so that game should not be worse than its worst one.
    lowest = min(metrics["greedy"]["returns"] + metrics["sticky"]["returns"])
    assert game.score == expected["return"] or game.score >= lowest


@pytest.mark.skipif(not GAMES, reason="snn_rl/zoo holds no agents")
def test_what_ships_is_small_float16_and_whole():
    weights = sorted(zoo.ROOT.rglob(NETWORK))
    assert sum(path.stat().st_size for path in weights) < 40 * MIB
    for path in zoo.ROOT.rglob("*"):
        assert path.stat().st_size < 10 * MIB, path
    for path in weights:
        tensors, _ = load_tensors(path)
        assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float16"}
    for record in GAMES:
        folder = record.parents[1]
        assert {path.name for path in folder.iterdir() if path.is_file()} == {
            *("MODEL_CARD.md", "play.gif", "run.json")
        }
