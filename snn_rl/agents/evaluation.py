"""Evaluation: whole games, each from a seed of its own."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents.policies import SpikingQNetwork
from snn_rl.core.conversion import spike_rates
from snn_rl.core.networks import clear

_RATE_EVERY = 10  # steps between two looks at the spikes


@dataclass(frozen=True)
class Evaluation:
    """What the trials showed.

    Attributes:
        returns: Unclipped return of every trial.
        lengths: Steps of every trial as the game's Monitor counts them (emulator frames on Atari).
        distinct: Number of different games among them (action by action).
        capped: Trials that the step cap ended.
        spike_rates: Spikes per neuron and decision of every hidden layer, over the trials.
        agreement: In how many of the agent's situations another network would do the same; None
            without one. Looked at, as the spikes are, at every tenth step.
    """

    returns: list[float]
    lengths: list[int]
    distinct: int
    capped: int
    spike_rates: list[float]
    agreement: float | None = None

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over the trials (n - 1)."""
        return float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, by bootstrap over the trials (10,000 draws, fixed seed)."""
        rng = np.random.default_rng(0)
        draws = rng.choice(self.returns, (10_000, len(self.returns))).mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types."""
        return {
            **asdict(self),
            "mean": self.mean,
            "std": self.std,
            "interval": list(self.interval),
            "episodes": len(self.returns),
        }


@torch.random.fork_rng()  # Poisson input draws: looking must not change training
def evaluate(
    q_net: SpikingQNetwork,
    make_evaluation_env: Callable[[int, int], VecEnv],
    episodes: int,
    seed: int,
    epsilon: float = 0.0,
    side_by_side: int = 10,
    teacher: SpikingQNetwork | None = None,
) -> Evaluation:
    """Plays whole games and counts every one of them.

    Trial i has an environment of its own, seeded seed + i, and plays exactly one game in it; no
    game is favoured for being short.

    Args:
        q_net: The agent.
        make_evaluation_env: Makes (n environments, first seed), unclipped whole games.
        episodes: Number of trials.
        seed: First seed; not one that training uses.
        epsilon: Probability of a random action.
        side_by_side: Trials played at the same time.
        teacher: The network whose greedy actions are compared with the agent's; it sees the newest
            frames of an observation, as many as it was built for.
    """
    returns: list[float] = []
    lengths: list[int] = []
    games: set[str] = set()
    capped = 0
    rates: list[list[float]] = []
    weights: list[int] = []
    same = 0
    for first in range(0, episodes, side_by_side):
        count = min(side_by_side, episodes - first)
        env = make_evaluation_env(count, seed + first)
        torch.manual_seed(seed + first)
        rng = [np.random.default_rng([seed + first + i, 1]) for i in range(count)]
        courses = [hashlib.sha256() for _ in range(count)]
        ends: list[dict[str, Any] | None] = [None] * count
        obs = np.asarray(env.reset())
        state = None
        step = 0
        while None in ends:
            actions, _, layers, state = q_net.decide(obs, state)
            if step % _RATE_EVERY == 0:
                alive = [i for i in range(count) if ends[i] is None]
                rates.append(spike_rates([layer[:, alive] for layer in layers]))
                weights.append(len(alive))
                if teacher is not None:
                    same += int((actions == teacher.decide(obs).actions)[alive].sum())
            for i in range(count):
                if epsilon > 0 and rng[i].random() < epsilon:
                    actions[i] = rng[i].integers(q_net.action_space.n)  # type: ignore[attr-defined]
            stepped, _, dones, infos = env.step(actions)
            obs = np.asarray(stepped)
            state = clear(state, torch.as_tensor(dones, device=q_net.device))
            step += 1
            for i in range(count):
                if ends[i] is None:
                    courses[i].update(bytes([int(actions[i])]))
                    if dones[i] and "episode" in infos[i]:
                        truncated = infos[i].get("TimeLimit.truncated", False)
                        ends[i] = {**infos[i]["episode"], "capped": truncated}
        env.close()
        for end, course in zip(ends, courses, strict=True):
            assert end is not None
            returns.append(float(end["r"]))
            lengths.append(int(end["l"]))
            capped += bool(end["capped"])
            games.add(course.hexdigest())
    mean_rates = [float(r) for r in np.average(rates, axis=0, weights=weights)]
    agreement = None if teacher is None else same / sum(weights)
    return Evaluation(returns, lengths, len(games), capped, mean_rates, agreement)
