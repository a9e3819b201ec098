"""Evaluation of finished stages and comparison with the ANN."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from snn_rl.agents.finding import FinishedStage
from snn_rl.agents.loading import Agent, load_agent
from snn_rl.agents.tracking import log_evaluation
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    Columns,
    Comparison,
    StageEvaluation,
    Trials,
    is_done,
    read_notes,
    unless_damaged,
)
from snn_rl.chain.stages import ANN, Stage
from snn_rl.core.energy import FLOAT32, INT32, energy, macs, skipping_energy
from snn_rl.core.networks import NetworkSpec, SpikingNetwork
from snn_rl.formats.event import EventDriven


def evaluate_agent(agent: Agent, trials: Trials, ann: Agent | None = None) -> Columns:
    """Evaluates an agent without and with sticky actions, see `Agent.evaluate`."""
    greedy, sticky = (
        agent.evaluate(trials.episodes, trials.seed, probability, trials.epsilon, ann)
        for probability in (0.0, trials.sticky)
    )
    return Columns(greedy=greedy, sticky=sticky)


def evaluate_stage(
    directory: Path, trials: Trials, device: str = "auto", track: str | None = None
) -> None:
    """Evaluates a finished stage, prints a summary, and writes the stage's metrics.json.

    Args:
        directory: Directory of the stage.
        trials: Episodes.
        device: Device of the network.
        track: Experiment tracker that also receives the results, see `tracking.TRACKERS`.
    """
    agent = load_agent(directory, device)
    ann = directory.parent / ANN
    is_spiking = not Stage.parse(directory.name).analog
    results = evaluate_agent(
        agent, trials, load_agent(ann, device) if is_spiking and is_done(ann) else None
    )
    notes = read_notes(directory / run_directory.NETWORK)
    metrics = StageEvaluation(
        evaluation=trials,
        greedy=results.greedy,
        sticky=results.sticky,
        steps=notes.steps,
        updates=notes.updates,
        wall_s=notes.wall_s,
    )
    metrics.write(directory / run_directory.METRICS)
    log_evaluation(directory, metrics, track)


def greedy_observations(agent: Agent, count: int, seed: int) -> torch.Tensor:
    """Returns uint8 observations [count, channels, height, width] of greedy episodes."""
    env = agent.make_env(1, seed)
    found: list[torch.Tensor] = []
    obs = np.asarray(env.reset())
    while len(found) < count:
        found.append(torch.as_tensor(obs.copy()))
        obs = np.asarray(env.step(agent.q_net.decide(found[-1]).actions)[0])
    env.close()
    return torch.cat(found)


def compare_with_ann(
    stage: FinishedStage, trials: Trials, device: str = "auto", engine: str = "dense"
) -> tuple[Comparison, StageEvaluation | None]:
    """Evaluates a spiking stage and its ANN.

    The ANN is not evaluated again if its files contain results on the same episodes.

    Returns:
        Results of both, and the ANN's results to write to its file, or None if they were read.
    """
    agent = load_agent(stage.directory, device, engine)
    ann_stage = stage.beside(ANN)
    teacher = load_agent(ann_stage.directory, device)
    hashed = run_directory.file_hash(ann_stage.directory / run_directory.NETWORK)
    stored = _stored_results(ann_stage, trials, hashed)
    ann = stored
    if ann is None:
        own = evaluate_agent(teacher, trials)
        ann = StageEvaluation(
            evaluation=trials, greedy=own.greedy, sticky=own.sticky, network=hashed
        )
    network = agent.q_net.network
    assert isinstance(network, SpikingNetwork)
    results = evaluate_agent(agent, trials, teacher)
    ratios = None
    if network.options.encoding == "direct":  # assumed by the energy model
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
    return comparison, None if stored else ann


def _stored_results(ann: FinishedStage, trials: Trials, network: str) -> StageEvaluation | None:
    """Returns the ANN's results on the same episodes from its files, if any."""
    for path in (ann.output / run_directory.EVALUATION, ann.directory / run_directory.METRICS):
        before = unless_damaged(partial(StageEvaluation.read, path)) if path.exists() else None
        # metrics.json has no checksum because the network of a finished stage does not change.
        if before and before.evaluation == trials and before.network in (None, network):
            print(f"the ANN has already been evaluated on these episodes: {path}")
            return before
    return None


def energy_ratios(
    spec: NetworkSpec, spike_rates: list[float], ann_rates: list[float]
) -> dict[str, float]:
    """Returns the ratios of the ANN's energy per decision to the spiking network's.

    Returns:
        "float32" and "int32" for a dense ANN, and "float32_skipping" for an ANN that skips
        multiplications by zero.
    """
    spiking = energy(spec, spike_rates)
    return {
        "float32": spiking.ratio,
        "int32": energy(spec, spike_rates, INT32).ratio,
        "float32_skipping": skipping_energy(spec, ann_rates) / spiking.spiking,
    }


def operations(network: EventDriven) -> dict[str, float]:
    """Returns the mean operations per decision and the resulting energy ratios.

    Returns:
        "macs" and "acs", the operations; "float32" and "int32", the ratios of the energy of the
        dense ANN's multiply-accumulates to the energy of these operations.
    """
    first, *others = (float(n) / network.decisions for n in network.operations)
    dense, acs = sum(macs(network.spec)), sum(others)
    costs = {"float32": FLOAT32, "int32": INT32}
    ratios = {name: dense * mac / (first * mac + acs * ac) for name, (mac, ac) in costs.items()}
    return {"macs": first, "acs": acs, **ratios}
