"""Published scores on Atari games."""

import ale_py  # noqa: F401  (registers the games)
import pytest

from snn_rl.envs import ATARI_IDS
from snn_rl.reports.atari_scores import DQN, HUMAN, RANDOM, human_normalized, published_scores

PONG = "PongNoFrameskip-v4"


def test_the_scores_of_random_players_and_humans() -> None:
    games = {env_id.removesuffix("NoFrameskip-v4") for env_id in ATARI_IDS}
    scores = published_scores()
    assert len(scores) == 56 and set(scores) <= games
    assert list(scores["Pong"]) == [RANDOM, HUMAN, *DQN]
    for known in scores.values():
        random, human = known[RANDOM], known[HUMAN]
        assert random is not None and human is not None and human > random
    random, human = scores["Pong"][RANDOM], scores["Pong"][HUMAN]
    assert random is not None and human is not None
    assert human_normalized(PONG, random) == 0.0
    assert human_normalized(PONG, (random + human) / 2) == pytest.approx(0.5)
    assert human_normalized("CartPole-v1", 500.0) is None
    assert human_normalized("PacmanNoFrameskip-v4", 500.0) is None
