"""Measures the time and the steps until the ANN and the T=1 agent reach a return.

    python benchmarks/time_to_reward.py [--target 19] [--json FILE] env=PongNoFrameskip-v4 seed=0

Runs `snn_rl.train` with the given settings; an interrupted run resumes, and a completed run is only
read. Prints for every stage the steps and minutes since the start of the chain and the returns of
its evaluation. The ANN reaches the target at its first checkpoint whose mean return over the
selection episodes is at least the target; its time is interpolated within the stage. Times include
training and checkpoint selection, but not the evaluation, reports, and videos.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from snn_rl.agents import plan
from snn_rl.chain import run_directory
from snn_rl.chain.records import AgentNotes, StageEvaluation, read_metrics, read_notes
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config


def first_reached(notes: AgentNotes, target: float) -> tuple[int, float] | None:
    """Returns the steps and seconds of the first checkpoint at the target, or None."""
    for step, score in notes.scores:
        if score >= target:
            return int(step), notes.wall_s * step / notes.steps
    return None


def main() -> None:
    """Trains the chain and prints the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=float, default=19.0)
    parser.add_argument("--json", type=Path, help="path of a JSON file with the results")
    options, settings = parser.parse_known_args()
    config = compose(Config, settings)
    command = [sys.executable, "-m", "snn_rl.train", *settings]
    subprocess.run(command, check=True)
    steps, seconds, rows, reached = 0, 0.0, [], None
    print(f"{'stage':<10} {'steps':>10} {'minutes':>8} {'greedy':>7} {'sticky':>7}")
    for stage in plan.chain(config):
        directory = plan.directory_of(config) / stage.name
        notes, metrics = read_notes(directory / run_directory.NETWORK), read_metrics(directory)
        assert isinstance(notes, AgentNotes) and isinstance(metrics, StageEvaluation)
        if stage.analog and not stage.privileged and reached is None:
            found = first_reached(notes, options.target)
            reached = found and (steps + found[0], seconds + found[1])
        steps, seconds = steps + notes.steps, seconds + notes.wall_s
        greedy, sticky = (each.mean for each in metrics.columns.values())
        print(
            f"{stage.label:<10} {steps:>10,} {seconds / 60:>8.1f} {greedy:>7.2f} {sticky:>7.2f}"
            f"{'  reached' if greedy >= options.target else ''}"
        )
        row = {"stage": stage.label, "steps": steps, "seconds": seconds}
        rows.append(row | {"greedy": greedy, "sticky": sticky})
    where = f"at {reached[0]:,} steps, {reached[1] / 60:.1f} minutes" if reached else "never"
    print(f"the ANN reached {options.target:g} {where}")
    if options.json:
        figures = {"command": " ".join(command), "target": options.target, "stages": rows}
        options.json.write_text(json.dumps(figures | {"ann_reached": reached}, indent=2) + "\n")


if __name__ == "__main__":
    main()
