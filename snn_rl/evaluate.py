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

from snn_rl.agents import plan
from snn_rl.agents.checks import prepare
from snn_rl.agents.evaluation import compare_with_ann
from snn_rl.agents.loading import WHICH_AGENT, find_stage
from snn_rl.chain.run_directory import EVALUATION
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.reports.comparison import format_comparison


def main(config: Config) -> None:
    """Evaluates the ANN and the named stage."""
    prepare(config, "snn_rl.evaluate", (*WHICH_AGENT, "engine", "episodes", "eval"))
    stage = find_stage(config)
    comparison = compare_with_ann(stage, plan.trials(config), config.device, config.engine)
    print(f"\n{format_comparison(comparison)}\n\nwritten to {stage.output / EVALUATION}")


if __name__ == "__main__":
    run_command(Config, main, __doc__)
