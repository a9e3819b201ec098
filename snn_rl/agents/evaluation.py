"""Evaluation of agents: whole episodes, each with its own seed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from tqdm import tqdm

from snn_rl.agents.loading import Agent, FinishedStage, load_agent
from snn_rl.agents.policies import SpikingQNetwork
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    Columns,
    Comparison,
    Evaluation,
    StageEvaluation,
    Trials,
    is_done,
    read_notes,
)
from snn_rl.chain.stages import ANN, Stage
from snn_rl.core.conversion import spike_rates
from snn_rl.core.energy import FLOAT32, INT32, energy, macs, skipping_energy
from snn_rl.core.networks import NetworkSpec, SpikingNetwork, clear
from snn_rl.formats.event import EventDriven

_RATE_EVERY = 10  # steps between two samples of the spike rates


@torch.random.fork_rng()  # keeps the random numbers of training
def evaluate(
    q_net: SpikingQNetwork,
    make_evaluation_env: Callable[[int, int], VecEnv],
    episodes: int,
    seed: int,
    epsilon: float = 0.0,
    side_by_side: int = 10,
    teacher: SpikingQNetwork | None = None,
) -> Evaluation:
    """Plays whole episodes and returns the results of all of them.

    Each episode has its own environment, with the seeds `seed`, `seed + 1`, ..., so that short
    episodes are not favored.

    Args:
        q_net: Q-network of the agent.
        make_evaluation_env: Makes n environments from a first seed, with unclipped rewards.
        episodes: Number of episodes.
        seed: Seed of the first episode. Training must not use these seeds.
        epsilon: Probability of a random action.
        side_by_side: Number of episodes that are played in parallel.
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
        obs, state, step = np.asarray(env.reset()), None, 0
        while len(ends) < count:
            running = [i for i in range(count) if i not in ends]
            actions, _, layers, state = q_net.decide(obs, state)
            if step % _RATE_EVERY == 0:
                rates.append(spike_rates([layer[:, running] for layer in layers]))
                weights.append(len(running))
                if teacher is not None:
                    agreed += int((actions == teacher.decide(obs).actions)[running].sum())
            for i in range(count):
                if epsilon > 0 and rng[i].random() < epsilon:
                    actions[i] = rng[i].integers(q_net.action_space.n)  # type: ignore[attr-defined]
            stepped, _, dones, infos = env.step(actions)
            obs = np.asarray(stepped)
            state = clear(state, torch.as_tensor(dones, device=q_net.device))
            step += 1
            for i in running:
                played[i].update(bytes([int(actions[i])]))
                if dones[i] and "episode" in infos[i]:  # a lost life is not the end
                    ends[i] = infos[i]
        env.close()
        for i, info in sorted(ends.items()):
            returns.append(float(info["episode"]["r"]))
            lengths.append(int(info["episode"]["l"]))
            capped += bool(info.get("TimeLimit.truncated", False))
            distinct.add(played[i].hexdigest())
    mean_rates = [float(r) for r in np.average(rates, axis=0, weights=weights)]
    agreement = None if teacher is None else agreed / sum(weights)
    return Evaluation(returns, lengths, len(distinct), capped, mean_rates, agreement)


def evaluate_agent(agent: Agent, trials: Trials, ann: Agent | None = None) -> Columns:
    """Evaluates an agent greedily and with sticky actions, with a progress bar.

    Args:
        agent: The agent.
        trials: Episodes of the evaluation.
        ann: ANN whose actions are compared with the agent's, see `Evaluation.agreement`.
    """

    def column(name: str, sticky: float) -> Evaluation:
        title = f"{agent.stage} {name}"
        with tqdm(total=trials.episodes, desc=title, unit="game", dynamic_ncols=True) as bar:
            return evaluate(
                agent.q_net,
                lambda n_envs, seed: _Watched(agent.make_env(n_envs, seed, sticky), bar),
                trials.episodes,
                trials.seed,
                trials.epsilon,
                teacher=ann.q_net if ann else None,
            )

    return Columns(greedy=column("greedy", 0.0), sticky=column("sticky", trials.sticky))


class _Watched(VecEnvWrapper):
    """Vectorized environment that advances a progress bar at the end of each first episode."""

    def __init__(self, venv: VecEnv, bar: "tqdm[Any]"):
        super().__init__(venv)
        self.bar = bar
        self.steps = 0
        self.playing = set(range(venv.num_envs))

    def reset(self) -> Any:
        """Resets all environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step and counts the episodes that it ended."""
        result = self.venv.step_wait()
        self.steps += 1
        ended = {i for i in self.playing if "episode" in result[3][i]}
        self.playing -= ended
        self.bar.update(len(ended))
        if self.steps % 50 == 0:
            self.bar.set_postfix_str(f"{self.steps} steps into {self.num_envs} games")
        return result


def evaluate_stage(directory: Path, trials: Trials, device: str = "auto") -> None:
    """Evaluates a finished stage, prints a summary and writes the stage's metrics.json.

    Args:
        directory: Directory of the stage.
        trials: Episodes of the evaluation.
        device: See `load_agent`.

    Raises:
        UserError: See `load_agent`.
    """
    agent = load_agent(directory, device)
    ann = directory.parent / ANN
    is_spiking = not Stage.parse(directory.name).analog
    results = evaluate_agent(
        agent, trials, load_agent(ann, device) if is_spiking and is_done(ann) else None
    )
    for name, column in results.columns.items():
        print(f"{agent.stage} {name}: {summary(column)}", flush=True)
    notes = read_notes(directory / run_directory.NETWORK)
    StageEvaluation(
        evaluation=trials,
        greedy=results.greedy,
        sticky=results.sticky,
        steps=notes.steps,
        updates=notes.updates,
        wall_s=notes.wall_s,
    ).write(directory / run_directory.METRICS)


def greedy_observations(agent: Agent, count: int, seed: int) -> torch.Tensor:
    """Returns observations of greedy episodes, uint8 [count, channels, height, width].

    Args:
        agent: Agent that acts.
        count: Number of observations, over as many episodes as needed.
        seed: Seed of the first episode.
    """
    env = agent.make_env(1, seed)
    found: list[torch.Tensor] = []
    obs = np.asarray(env.reset())
    while len(found) < count:
        found.append(torch.as_tensor(obs.copy()))
        obs = np.asarray(env.step(agent.q_net.decide(found[-1]).actions)[0])
    env.close()
    return torch.cat(found)


def summary(results: Evaluation) -> str:
    """Returns one line on the results of a column."""
    text = (
        f"{results.mean:.2f} ± {results.std:.2f} over {results.episodes} episodes, "
        f"{results.distinct} of them distinct"
    )
    if results.agreement is not None:
        text += f"; {results.agreement:.1%} of the actions equal the ANN's"
    return text


def compare_with_ann(
    stage: FinishedStage, trials: Trials, device: str = "auto", engine: str = "dense"
) -> Comparison:
    """Evaluates a spiking stage and its ANN, and writes the results to evaluation.json.

    The ANN's results are read from its files if it was evaluated on the same episodes before.

    Args:
        stage: The spiking stage.
        trials: Episodes of the evaluation.
        device: See `load_agent`.
        engine: See `load_agent`.

    Raises:
        UserError: See `load_agent`.
    """
    agent = load_agent(stage.directory, device, engine)
    ann_stage = stage.beside(ANN)
    teacher = load_agent(ann_stage.directory, device)
    ann = _ann_results(ann_stage, teacher, trials)
    network = agent.q_net.network
    assert isinstance(network, SpikingNetwork)
    results = evaluate_agent(agent, trials, teacher)
    ratios = None
    if network.options.encoding == "direct":  # the energy model assumes direct encoding
        ratios = energy_ratios(network.spec, results.greedy.spike_rates, ann.greedy.spike_rates)
    comparison = Comparison(
        env=agent.env,
        run=str(stage.directory.parent),
        stage=agent.stage,
        cap=agent.cap,
        layers=network.spec.names()[:-1],
        ann=Columns(**ann.columns),
        energy=ratios,
        work=operations(network) if isinstance(network, EventDriven) else None,
        evaluation=trials,
        greedy=results.greedy,
        sticky=results.sticky,
    )
    comparison.write(stage.output / run_directory.EVALUATION)
    return comparison


def _ann_results(ann: FinishedStage, agent: Agent, trials: Trials) -> StageEvaluation:
    """Returns the ANN's results, from its files if these episodes were evaluated before."""
    network = run_directory.file_hash(ann.directory / run_directory.NETWORK)
    for path in (ann.output / run_directory.EVALUATION, ann.directory / run_directory.METRICS):
        if path.exists():
            before = StageEvaluation.read(path)
            # metrics.json has no checksum: the network of a finished stage does not change
            if before.evaluation == trials and before.network in (None, network):
                print(f"the ANN was evaluated on these episodes before: {path}")
                return before
    columns = evaluate_agent(agent, trials)
    results = StageEvaluation(
        evaluation=trials, greedy=columns.greedy, sticky=columns.sticky, network=network
    )
    results.write(ann.output / run_directory.EVALUATION)
    return results


def energy_ratios(
    spec: NetworkSpec, spike_rates: list[float], ann_rates: list[float]
) -> dict[str, float]:
    """Returns the energy of the ANN's decision over that of the spiking network's.

    Args:
        spec: Description of the network.
        spike_rates: Spikes per neuron and decision of every hidden layer.
        ann_rates: Non-zero activations per neuron and decision of the ANN.

    Returns:
        "float32" and "int32" for a dense ANN, and "float32_skipping" for an ANN engine that skips
        multiplications by zero.
    """
    spiking = energy(spec, spike_rates)
    return {
        "float32": spiking.ratio,
        "int32": energy(spec, spike_rates, INT32).ratio,
        "float32_skipping": skipping_energy(spec, ann_rates) / spiking.spiking,
    }


def operations(network: EventDriven) -> dict[str, float]:
    """Returns the operations of a decision, averaged over all decisions of the network.

    Returns:
        "macs" and "acs", the operations; "float32" and "int32", the energy of the dense ANN's
        multiply-accumulates over theirs.
    """
    first, *others = (float(n) / network.decisions for n in network.operations)
    dense, acs = sum(macs(network.spec)), sum(others)
    costs = {"float32": FLOAT32, "int32": INT32}
    ratios = {name: dense * mac / (first * mac + acs * ac) for name, (mac, ac) in costs.items()}
    return {"macs": first, "acs": acs, **ratios}
