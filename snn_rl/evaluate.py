"""Evaluate a trained agent.

    python -m snn_rl.evaluate env=CartPole-v1 T=1
    python -m snn_rl.evaluate env=PongNoFrameskip-v4 T=1 episodes=40

Evaluates the spiking agent of a finished stage and its ANN on the same seeds,
each with greedy actions and with sticky actions. Prints all returns, their
mean, standard deviation and 95 % confidence interval, the number of distinct
episodes, the spike rate of every layer, and the energy per decision. Writes the
same numbers to evaluation.json in the stage's directory.

T, seed, run_dir, direct, stages, carry_state and exact select the agent, as in
snn_rl.train. Without a run of yours, the agent that ships with snn_rl is
evaluated, and the output goes to runs/<env>/zoo/<stage>. Settings of the
training are read from the run.

engine=event makes the same decisions with the event-driven engine and prints
the operations it counted (pip install 'snn_rl[fast]').
"""

from snn_rl.agents import plan
from snn_rl.agents.checks import prepare
from snn_rl.agents.evaluation import compare_with_ann
from snn_rl.agents.finding import WHICH_AGENT, find_stage
from snn_rl.chain.run_directory import EVALUATION
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.reports.comparison import format_comparison

_ACCEPTED = (*WHICH_AGENT, "engine", "episodes", "eval")


def main(config: Config) -> None:
    """Evaluates the ANN and the named stage."""
    prepare(config, "snn_rl.evaluate", _ACCEPTED)
    stage = find_stage(config)
    comparison = compare_with_ann(stage, plan.trials(config), config.device, config.engine)
    print(f"\n{format_comparison(comparison)}\n\nwritten to {stage.output / EVALUATION}")


if __name__ == "__main__":
    run_command(Config, main, __doc__, _ACCEPTED)
