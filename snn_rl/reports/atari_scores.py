"""Published scores on Atari games."""

import csv
from functools import cache
from importlib import resources

_SUFFIX = "NoFrameskip-v4"
RANDOM, HUMAN = "random", "human"
DQN = {  # columns: titles in reports
    "dqn_2015": "DQN (2015)",
    "dqn_sticky_1.5M": "sticky DQN, 1.5 M",
    "dqn_sticky_3M": "sticky DQN, 3 M",
    "dqn_sticky_50M": "sticky DQN, 50 M",
}


@cache
def published_scores() -> dict[str, dict[str, float | None]]:
    """Returns the scores of a random player, a human, and DQN on 56 Atari games.

    Episodes are unclipped. The columns are:

    - `random`, `human`: averages listed by DQN Zoo (https://github.com/google-deepmind/dqn_zoo,
      dqn_zoo/atari_data.py), without Surround, which has no NoFrameskip-v4 id. Episodes start with
      up to 30 no-ops, and last at most 108,000 frames.
    - `dqn_2015`: DQN after 50 M agent steps (Mnih et al., 2015, extended data table 2), with up to
      30 no-ops, without sticky actions, at epsilon 0.05.
    - `dqn_sticky_1.5M`, `dqn_sticky_3M`, `dqn_sticky_50M`: DQN of Dopamine with sticky actions at
      epsilon 0.01, mean of five runs in the 250,000 training steps before that number of agent
      steps (https://github.com/google/dopamine, baselines/atari/data).

    Unknown scores are None.
    """
    text = (resources.files("snn_rl.reports") / "atari_scores.csv").read_text()
    return {
        row.pop("game"): {name: float(score) if score else None for name, score in row.items()}
        for row in csv.DictReader(text.splitlines())
    }


def scores_of(env_id: str) -> dict[str, float | None] | None:
    """Returns the published scores of an environment; None for other environments."""
    game, suffix, _ = env_id.partition(_SUFFIX)
    return published_scores().get(game) if suffix else None


def human_normalized(env_id: str, score: float) -> float | None:
    """Returns the score scaled to 0 for a random player and 1 for a human.

    Args:
        env_id: Id of the environment.
        score: Mean return of unclipped episodes.

    Returns:
        Normalized score; None if the scores of the game are unknown.
    """
    known = scores_of(env_id)
    if known is None:
        return None
    random, human = known[RANDOM], known[HUMAN]
    assert random is not None and human is not None
    return (score - random) / (human - random)
