"""Evaluation of a Q-network over full episodes with separate seeds."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from tqdm import tqdm

from snn_rl.agents.policies import QNetwork
from snn_rl.chain.records import Evaluation
from snn_rl.core.conversion import spike_rates
from snn_rl.core.networks import clear

# Builds environments with unclipped rewards from their number and the first seed
MakeEnv = Callable[[int, int], VecEnv]
_RATE_EVERY = 10  # number of steps between two samples of the spike rates


@torch.random.fork_rng()  # keeps the state of torch's random generator
def evaluate(
    q_net: QNetwork,
    make_evaluation_env: MakeEnv,
    episodes: int,
    seed: int,
    epsilon: float = 0.0,
    side_by_side: int = 10,
    teacher: QNetwork | None = None,
) -> Evaluation:
    """Plays full episodes and returns their results.

    Each episode runs in its own environment, with seeds `seed`, `seed + 1`, ..., to avoid a bias
    toward short episodes. Environments whose episode has ended are left out of the next decisions,
    so rounding and Poisson noise can depend on `side_by_side`.

    Args:
        q_net: Q-network of the agent.
        make_evaluation_env: Builds environments with unclipped rewards from their number and the
            first seed.
        episodes: Number of episodes.
        seed: Seed of the first episode. Training must not use these seeds.
        epsilon: Probability of a random action.
        side_by_side: Number of episodes played in parallel.
        teacher: Q-network whose greedy actions are compared with the agent's.
    """
    returns: list[float] = []
    lengths: list[int] = []
    distinct: set[str] = set()
    capped = 0
    rates: list[list[float]] = []
    weights: list[int] = []
    agreed = 0
    for first in range(0, episodes, side_by_side):
        count = min(side_by_side, episodes - first)
        env = make_evaluation_env(count, seed + first)
        torch.manual_seed(seed + first)
        rng = [np.random.default_rng([seed + first + i, 1]) for i in range(count)]
        played = [hashlib.sha256() for _ in range(count)]  # actions of each episode
        ends: dict[int, dict[str, Any]] = {}
        running = list(range(count))
        with _playing_once(env):
            obs, state, step = np.asarray(env.reset()), None, 0
            while running:
                decided, _, layers, state = q_net.decide(obs[running], state)
                if step % _RATE_EVERY == 0:
                    rates.append(spike_rates(layers))
                    weights.append(len(running))
                    if teacher is not None:
                        agreed += int((decided == teacher.decide(obs[running]).actions).sum())
                for k, i in enumerate(running):
                    if epsilon > 0 and rng[i].random() < epsilon:
                        decided[k] = rng[i].integers(q_net.action_space.n)  # type: ignore[attr-defined]
                    played[i].update(bytes([int(decided[k])]))
                actions = np.zeros(count, decided.dtype)
                actions[running] = decided
                stepped, _, dones, infos = env.step(actions)
                obs = np.asarray(stepped)
                step += 1
                # Losing a life does not end the episode.
                ends |= {i: infos[i] for i in running if dones[i] and "episode" in infos[i]}
                state = clear(state, torch.as_tensor(dones[running], device=q_net.device))
                ended = [i in ends for i in running]
                if any(ended):
                    rows = _remaining_rows(ended)
                    state = [each[rows] for each in state]
                    running = [running[k] for k in rows]
        env.close()
        for i, info in sorted(ends.items()):
            returns.append(float(info["episode"]["r"]))
            lengths.append(int(info["episode"]["l"]))
            capped += bool(info.get("TimeLimit.truncated", False))
            distinct.add(played[i].hexdigest())
    mean_rates = [float(r) for r in np.average(rates, axis=0, weights=weights)]
    agreement = None if teacher is None else agreed / sum(weights)
    return Evaluation(returns, lengths, len(distinct), capped, mean_rates, agreement)


def summary(results: Evaluation) -> str:
    """Returns a one-line summary of evaluation results."""
    text = (
        f"{results.mean:.2f} ± {results.std:.2f} over {results.episodes} episodes, "
        f"{results.distinct} of them distinct"
    )
    if results.agreement is not None:
        text += f"; {results.agreement:.1%} of the actions match the ANN's"
    return text


def _remaining_rows(ended: list[bool]) -> list[int]:
    """Returns the rows of a batch without those of ended episodes, which the last rows replace.

    The other rows keep their place, because the event-driven engine compares the images of a row.
    """
    rows = list(range(len(ended)))
    for k in reversed(range(len(ended))):
        if ended[k]:
            rows[k] = rows[-1]
            rows.pop()
    return rows


@contextmanager
def _playing_once(env: VecEnv) -> Iterator[None]:
    """Makes the single environments ignore actions after their first episode."""
    inner = env.unwrapped
    if not isinstance(inner, DummyVecEnv):
        yield
        return
    envs = inner.envs
    inner.envs = [_OneEpisode(each) for each in envs]
    try:
        yield
    finally:
        inner.envs = envs


class _OneEpisode(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper that ignores actions after the first episode."""

    over = False
    obs: Any = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        self.obs, info = self.env.reset(**kwargs)
        return self.obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action if the first episode is not over."""
        if self.over:
            return self.obs, 0.0, False, False, {}
        step = self.env.step(action)
        self.over = (step[2] or step[3]) and "episode" in step[4]
        return step


@contextmanager
def progress_bar(title: str, episodes: int, make_evaluation_env: MakeEnv) -> Iterator[MakeEnv]:
    """Yields an environment factory whose environments advance a progress bar."""
    with tqdm(total=episodes, desc=title, unit="episode", dynamic_ncols=True) as bar:
        yield lambda n_envs, seed: _Watched(make_evaluation_env(n_envs, seed), bar)


class _Watched(VecEnvWrapper):
    """Wrapper that advances a progress bar when the first episode of an environment ends."""

    def __init__(self, venv: VecEnv, bar: "tqdm[Any]"):
        super().__init__(venv)
        self.bar = bar
        self.steps = 0
        self.playing = set(range(venv.num_envs))

    def reset(self) -> Any:
        """Resets all environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step and counts finished episodes."""
        result = self.venv.step_wait()
        self.steps += 1
        ended = {i for i in self.playing if "episode" in result[3][i]}
        self.playing -= ended
        self.bar.update(len(ended))
        if self.steps % 50 == 0:
            self.bar.set_postfix_str(f"{self.steps} steps into {self.num_envs} episodes")
        return result
