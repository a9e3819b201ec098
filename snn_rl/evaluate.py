"""Evaluate a trained agent.

    python -m snn_rl.evaluate env=CartPole-v1 T=1
    python -m snn_rl.evaluate env=PongNoFrameskip-v4 T=1 episodes=40

Evaluates the spiking agent of a finished stage and its ANN on the same seeds,
with and without sticky actions. Prints all returns, their mean, standard
deviation, and 95% confidence interval, the number of distinct episodes, the
spike rate of every layer, and the energy per decision. Writes the same numbers
to evaluation.json in the stage's directory, or to output=PATH.

T, seed, run_dir, direct, stages, carry_state, exact and bits select the agent,
as in snn_rl.train. If the run does not exist, the included agent is evaluated,
and the output goes to runs/<env>/zoo/<stage>. Training settings are read from
the run.

engine=event runs the agent on the event-driven engine, which makes the same
decisions, and prints the number of operations (pip install 'snn_rl[fast]').
"""

from snn_rl.agents import plan
from snn_rl.agents.checks import output_file, prepare
from snn_rl.agents.evaluation import compare_with_ann
from snn_rl.agents.finding import WHICH_AGENT, find_stage
from snn_rl.chain.records import Comparison
from snn_rl.chain.run_directory import EVALUATION
from snn_rl.chain.stages import ANN
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.reports.markdown import number
from snn_rl.utils.errors import UserError

_ACCEPTED = (*WHICH_AGENT, "engine", "episodes", "eval", "output")


def main(config: Config) -> None:
    """Evaluates the selected stage and its ANN."""
    prepare(config, "snn_rl.evaluate", _ACCEPTED)
    stage = find_stage(config)
    path = output_file(config, stage.output / EVALUATION)
    comparison, ann = compare_with_ann(stage, plan.trials(config), config.device, config.engine)
    print(f"\n{format_comparison(comparison)}\n", flush=True)
    try:
        comparison.write(path)
    except UserError as error:
        raise UserError(f"{error}, for example with output=PATH") from error
    if ann is not None and config.output is None:
        ann.write(stage.beside(ANN).output / EVALUATION)
    print(f"written to {path}")


def format_comparison(comparison: Comparison) -> str:
    """Returns the results of an evaluation as text."""
    stage, trials = comparison.stage, comparison.evaluation
    columns = [
        (f"{name} {column}", results)
        for name, both in (("ANN", comparison.ann), (stage, comparison))
        for column, results in both.columns.items()
    ]
    width = max(18, *(len(title) + 2 for title, _ in columns))

    def row(title: str, cells: list[str]) -> str:
        return f"{title:<22}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = [
        f"{comparison.env}, {stage} of {comparison.run}: {trials.episodes} episodes per column, "
        f"epsilon {trials.epsilon:g}, sticky {trials.sticky:g}",
        "",
        row("", [title for title, _ in columns]),
        row("mean return", [f"{c.mean:.2f}" for _, c in columns]),
        row("standard deviation", [f"{c.std:.2f}" for _, c in columns]),
        row("95% interval", ["{:.2f} to {:.2f}".format(*c.interval) for _, c in columns]),
        row("distinct episodes", [str(c.distinct) for _, c in columns]),
        row("at the time limit", [str(c.capped) for _, c in columns]),
        row("same action as the ANN", [number(c.agreement, ".1%", "-") for _, c in columns]),
    ]
    for i, layer in enumerate(comparison.layers):
        lines.append(row(f"spike rate {layer}", [f"{c.spike_rates[i]:.4f}" for _, c in columns]))
    lines += [
        "",
        "Spike rate: spikes per neuron and decision; for the ANN, the fraction of non-zero",
    ]
    lines += ["activations.", ""]
    if ratios := comparison.energy:
        lines += [
            f"Energy of a decision, ANN / {stage} (greedy episodes, operations only):",
            f"  {ratios['float32']:.2f}  float32",
            f"  {ratios['int32']:.2f}  int32",
            f"  {ratios['float32_skipping']:.2f}  float32, for an ANN engine that skips zeros",
            "",
        ]
    if work := comparison.work:
        lines += [
            f"Event-driven engine, all episodes: {work['macs']:,.0f} multiply-accumulates and "
            f"{work['acs']:,.0f} accumulates per",
            f"decision; energy of the dense ANN / engine: {work['float32']:.2f} float32, "
            f"{work['int32']:.2f} int32",
            "",
        ]
    for title, results in columns:
        lines.append(f"{title}: " + " ".join(f"{r:g}" for r in results.returns))
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(Config, main, __doc__, _ACCEPTED)
