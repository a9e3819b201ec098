"""Write the report of a run or a sweep, or a figure or table of a paper.

    python -m snn_rl.report env=CartPole-v1 seed=0
    python -m snn_rl.report sweep=runs
    python -m snn_rl.report paper=iir figure=3
    python -m snn_rl.report paper=iir table=1

env=ID writes report.md, its figures, and returns.csv for the finished stages to
the run directory. snn_rl.train does the same at the end of training.

sweep=PATH aggregates the runs in a folder over their seeds: the interquartile
mean of every stage's score with its 95% confidence interval in sweep.md, and
the score of every run in sweep.csv. For classifiers scored at several T, it
also plots accuracy against T.

paper=NAME writes a figure or table of a paper to runs/paper/, with the paper's
results beside the results of the runs in runs=PATH:
  iir   figure=3 (returns), figure=5 and 6 (training); table=1, 3, 4, 5
  stdb  figure=3 (spikes), figure=5 (time and memory); table=1
  ull   figure=2 (conversion), figure=3 (time and memory), figure=4 (energy);
        table=1
"""

from pathlib import Path

from snn_rl.agents import plan
from snn_rl.configs.compose import agent_presets, run_command
from snn_rl.configs.schema import Config
from snn_rl.papers import page
from snn_rl.reports import sweeps
from snn_rl.reports.run_report import write_report
from snn_rl.utils.errors import one_line

_ACCEPTED = ("env", "seed", "run_dir", "runs", "paper", "figure", "table", "sweep")


def presets(config: Config) -> list[str]:
    """Returns the presets of a run; papers and sweeps have none."""
    several = config.sweep is not None or page.requested(config) is not None
    return [] if several else agent_presets(config)


def main(config: Config) -> None:
    """Writes the report and prints its path."""
    if config.sweep is not None:
        print(sweeps.write_sweep(Path(config.sweep)))
    elif (key := page.requested(config)) is not None:
        path, missing = page.write_page(key, Path(config.runs))
        for line in missing:
            print(one_line(f"missing: {line}"))
        print(path)
    else:
        print(write_report(plan.directory_of(config)))


if __name__ == "__main__":
    run_command(Config, main, __doc__, _ACCEPTED, presets)
