"""Write the report of a run: report.md, its figures and returns.csv.

    python -m snn_rl.report env=CartPole-v1 seed=0
    python -m snn_rl.report env=CartPole-v1 run_dir=PATH
    python -m snn_rl.report paper=iir figure=3
    python -m snn_rl.report sweep=runs

Training writes it at its end; this command writes it anew from what lies in the run directory, at
any time, while a training is at work there too. Stages that are not there yet are left out.

With paper= it draws a figure of a paper instead, into runs/paper/<paper>-figure<n>/README.md, with
its printed numbers beside ours. Of [IIR], from the runs of all seeds of its games (CartPole and
Pong) in runs/<env>/seed<k>: the returns (figure=3) and the training (figure=5: CartPole, figure=6:
Pong). From the runs of snn_rl.classify, of [ULL] conversion without training (figure=2), time and
memory (figure=3), spikes and energy (figure=4), and of [STDB] spikes before and after training
(figure=3), time and memory (figure=5).
With paper= and table= it writes a table of classification accuracies instead, from the runs of
snn_rl.classify, into runs/paper/<paper>-table<n>/README.md.

With sweep= it puts the runs of a folder together, seeds of one task beside one another: the
interquartile mean of every stage's score with its 95 % interval, into sweep.md there, and every
run's score into sweep.csv. Unfinished runs count with the stages that they have. Of classifiers
that were scored at several T it draws accuracy against T.

The settings that matter:
  env=ID         environment of the run
  seed=0         seed of the run
  run_dir=PATH   instead of runs/<env>/seed<k>
  paper=iir      whose figure to draw, iir, stdb or ull, and
  figure=3       which of them: 3, 5 or 6 of iir, 3 or 5 of stdb, 2, 3 or 4 of ull
  table=1        or which table: 1, 3, 4 or 5 of iir, 1 of stdb, 1 of ull
  sweep=PATH     the folder whose runs to put together
  runs=PATH      the folder of all runs, instead of runs
"""

from pathlib import Path

from snn_rl.agents import plan
from snn_rl.configs.compose import agent_presets, run_command
from snn_rl.configs.schema import Config
from snn_rl.papers import choice as paper_choice
from snn_rl.reports import sweeps
from snn_rl.reports.run_report import write_report


def presets(config: Config) -> list[str]:
    """The preset files; what is of several games or nets (a paper's, a sweep's) has none.

    Raises:
        UserError: Unknown environment, preset, paper, figure or table, or none of them.
    """
    if config.sweep is not None:
        return []
    return [] if paper_choice.chosen(config) else agent_presets(config)


def main(config: Config) -> None:
    """Writes the report, a paper's figure or table, or that of a sweep, and says where it is."""
    if config.sweep is not None:
        print(sweeps.write_sweep(Path(config.sweep)))
        return
    make = paper_choice.chosen(config)
    if make is None:
        print(write_report(plan.directory_of(config)))
        return
    path, missing = make(Path(config.runs))
    for line in missing:
        print(f"left out: {line}")
    print(path)


if __name__ == "__main__":
    run_command(Config, main, __doc__, presets=presets)
