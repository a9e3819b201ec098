"""Evaluate an agent that `snn_rl.train` has trained.

    python -m snn_rl.evaluate env=CartPole-v1 T=1
    python -m snn_rl.evaluate env=PongNoFrameskip-v4 T=1 episodes=40 eval.epsilon=0.01

The spiking agent of a finished stage and the ANN it came from play whole games, side by side, each
twice: as they are (greedy), and with sticky actions, where the game sometimes repeats the action
before (a greedy agent in a deterministic game plays the same few games again and again; the
sticky column shows what it can do off that path). Printed are every return, mean and standard
deviation, the 95 % interval of the mean, the number of different games, how many ended at a
time limit (the step cap or the game's own), the spike rate of every layer, and the energy of a
decision. The same numbers go to evaluation.json in the stage's directory.

Which agent (say what you said to snn_rl.train; without a run of your own, one that ships with
snn_rl is taken, where there is one, and what is written goes to runs/<env>/zoo/<stage>):
  env=ID  T=1  seed=0           its environment, timesteps and seed
  run_dir=PATH                  instead of runs/<env>/seed<k>
  direct=true, stages=none, carry_state=true, exact=true
                                the agent of that kind of chain
How it is evaluated:
  engine=dense                  or event, with T=1 exact=true: the same decisions, by the pixels and
                                spikes that change; what that really took is printed
                                (pip install 'snn_rl[fast]')
  episodes=20                   games of each column
  eval.epsilon=0                probability of a random action
  eval.sticky=0.25              sticky-action probability of the sticky column
  eval.seed=1000000             seed of the first game; game i has seed + i
  device=auto  threads=0        auto, cpu or cuda; processor threads (0: all cores; Pong: 1)

What the agent was trained with (frames it sees, step cap, network) is read from its run.
"""

import hashlib
from typing import Any

from snn_rl.agents.checks import prepare
from snn_rl.agents.loading import (
    EVALUATION,
    WHICH_AGENT,
    Agent,
    FinishedStage,
    Trials,
    evaluate_agent,
    find_stage,
    load_agent,
)
from snn_rl.chain import run_directory
from snn_rl.chain.stages import ANN
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.core.energy import FLOAT32, INT32, energy, macs, skipping_energy
from snn_rl.core.networks import NetworkSpec, SpikingNetwork
from snn_rl.files.atomic import read_json, write_json
from snn_rl.formats.event import EventDriven


def energy_ratios(
    spec: NetworkSpec, spike_rates: list[float], ann_rates: list[float]
) -> dict[str, float]:
    """How many times less energy a decision of the spiking network takes than the ANN's.

    Args:
        spec: The network.
        spike_rates: Spikes per neuron and decision of every hidden layer.
        ann_rates: The ANN's non-zero activations per neuron and decision.

    Returns:
        "float32" and "int32" against a dense ANN, and "float32_skipping" against an ANN engine
        that leaves out multiplications by zero.
    """
    spiking = energy(spec, spike_rates)
    return {
        "float32": spiking.ratio,
        "int32": energy(spec, spike_rates, INT32).ratio,
        "float32_skipping": skipping_energy(spec, ann_rates) / spiking.spiking,
    }


def work(network: EventDriven) -> dict[str, float]:
    """What a decision took, on average over all that the network has made.

    Returns:
        "macs" and "acs", operations; "float32" and "int32", how many times more energy the
        multiply-accumulates of the dense ANN take.
    """
    first, *others = (float(n) / network.decisions for n in network.operations)
    dense, acs = sum(macs(network.spec)), sum(others)
    costs = {"float32": FLOAT32, "int32": INT32}
    ratios = {name: dense * mac / (first * mac + acs * ac) for name, (mac, ac) in costs.items()}
    return {"macs": first, "acs": acs, **ratios}


def format_report(results: dict[str, Any]) -> str:
    """The results as text.

    Args:
        results: What `main` writes to evaluation.json.
    """
    stage, trials = results["stage"], results["evaluation"]
    columns = [
        (f"{name} {kind}", numbers[kind])
        for name, numbers in (("ANN", results[ANN]), (stage, results))
        for kind in ("greedy", "sticky")
    ]
    width = max(18, *(len(title) + 2 for title, _ in columns))

    def row(title: str, cells: list[str]) -> str:
        return f"{title:<22}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = [
        f"{results['env']}, {stage} of {results['run']}: {trials['episodes']} games a column, "
        f"epsilon {trials['epsilon']:g}, sticky {trials['sticky']:g}",
        "",
        row("", [title for title, _ in columns]),
        row("mean return", [f"{c['mean']:.2f}" for _, c in columns]),
        row("standard deviation", [f"{c['std']:.2f}" for _, c in columns]),
        row("95 % interval", ["{:.2f} to {:.2f}".format(*c["interval"]) for _, c in columns]),
        row("different games", [str(c["distinct"]) for _, c in columns]),
        row("at the time limit", [str(c["capped"]) for _, c in columns]),
        row("actions of the ANN's", [_percent(c.get("agreement")) for _, c in columns]),
    ]
    for i, layer in enumerate(results["layers"]):
        lines.append(row(f"spike rate {layer}", [f"{c['spike_rates'][i]:.4f}" for _, c in columns]))
    lines += [
        "",
        "Spike rate: spikes per neuron and decision; of the ANN, the fraction of its neurons that",
        "are not zero.",
        "",
    ]
    if results["energy"] is not None:
        ratios = results["energy"]
        lines += [
            f"Energy of a decision, ANN / {stage} (greedy games, operations alone):",
            f"  {ratios['float32']:.2f}  float32",
            f"  {ratios['int32']:.2f}  int32",
            f"  {ratios['float32_skipping']:.2f}  float32, against an ANN that skips its zeros",
            "",
        ]
    if done := results.get("work"):
        lines += [
            f"Done by events, all games: {done['macs']:,.0f} multiply-accumulates and "
            f"{done['acs']:,.0f} accumulations a",
            f"decision; dense ANN / that: {done['float32']:.2f} float32, {done['int32']:.2f} int32",
            "",
        ]
    for title, column in columns:
        lines.append(f"{title}: " + " ".join(f"{r:g}" for r in column["returns"]))
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def ann_results(ann: FinishedStage, agent: Agent, trials: Trials) -> dict[str, Any]:
    """The ANN's results: read, if it has played these same trials before, otherwise played.

    Args:
        ann: The ANN stage.
        agent: Its agent.
        trials: The games.
    """
    network = hashlib.sha256((ann.directory / run_directory.NETWORK).read_bytes()).hexdigest()
    for path in (ann.output / EVALUATION, ann.directory / run_directory.METRICS):
        if path.exists():
            before: dict[str, Any] = read_json(path)
            known = before.get("network", network)  # a run's own network does not change
            if before.get("evaluation") == vars(trials) and known == network:
                print(f"the ANN has played these games before: {path}")
                return before
    results = evaluate_agent(agent, trials)
    results["network"] = network
    write_json(ann.output / EVALUATION, results)
    return results


def main(config: Config) -> None:
    """Evaluates the ANN and the stage that is asked for."""
    prepare(config, "snn_rl.evaluate", (*WHICH_AGENT, "engine", "episodes", "eval"))
    stage = find_stage(config)
    trials = Trials.chosen(config)
    agent = load_agent(stage.directory, config.device, config.engine)
    ann_stage = stage.beside(ANN)
    teacher = load_agent(ann_stage.directory, config.device)
    ann = ann_results(ann_stage, teacher, trials)
    network = agent.q_net.network
    assert isinstance(network, SpikingNetwork)
    results = {
        "env": agent.env,
        "run": str(stage.directory.parent),
        "stage": agent.stage,
        "cap": agent.cap,
        "layers": network.spec.names()[:-1],
        "energy": None,
        ANN: {key: ann[key] for key in ("greedy", "sticky")},
        **evaluate_agent(agent, trials, teacher),
    }
    if network.encoding == "direct":  # what the energy model assumes
        results["energy"] = energy_ratios(
            network.spec, results["greedy"]["spike_rates"], ann["greedy"]["spike_rates"]
        )
    if isinstance(network, EventDriven):
        results["work"] = work(network)
    write_json(stage.output / EVALUATION, results)
    print(f"\n{format_report(results)}\n\nwritten to {stage.output / EVALUATION}")


if __name__ == "__main__":
    run_command(Config, main, __doc__)
