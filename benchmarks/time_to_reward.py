"""Wall-clock and steps until the ANN, and the agent of one timestep, have a reward.

    python benchmarks/time_to_reward.py [--target 19] [--json FILE] env=PongNoFrameskip-v4 seed=0

Runs `snn_rl.train` with the settings behind the options (a run that is done is only read, one that
was interrupted goes on). Prints by stage what it took up to its end, all stages before it included,
and what it has in greedy games; and when the ANN had the target: at the first of its checkpoints
that has it in the mean of the games that choose among them (a fine-tuned ANN's later ones
play sticky games too), in its share of the stage's wall-clock.
Wall-clock is that of training and choosing, without evaluation, reports and videos.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from snn_rl.agents import plan
from snn_rl.chain.records import AgentNotes, finished, read_stages
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config


def first_reached(notes: AgentNotes, target: float) -> tuple[int, float] | None:
    """Steps and seconds of the first checkpoint that has the target; None: there is none."""
    for step, score in notes.scores:
        if score >= target:
            return int(step), notes.wall_s * step / notes.steps
    return None


def main() -> None:
    """Trains, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=float, default=19.0)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options, settings = parser.parse_known_args()
    config = compose(Config, settings)
    command = [sys.executable, "-m", "snn_rl.train", *settings]
    subprocess.run(command, check=True)
    steps, seconds, rows, reached = 0, 0.0, [], None
    print(f"{'stage':<10} {'steps':>10} {'minutes':>8} {'greedy':>7} {'sticky':>7}")
    # the chain's own stages: a run may have been used for others too
    chain = {stage.name for stage in plan.chain(config)}
    for stage in finished(read_stages(plan.directory_of(config))):
        if stage.name not in chain:
            continue
        assert stage.notes is not None
        if stage.analog and reached is None:
            found = first_reached(stage.notes, options.target)
            reached = found and (steps + found[0], seconds + found[1])
        steps, seconds = steps + stage.notes.steps, seconds + stage.notes.wall_s
        greedy, sticky = (each.mean for each in stage.evaluation.columns.values())
        print(
            f"{stage.label:<10} {steps:>10,} {seconds / 60:>8.1f} {greedy:>7.2f} {sticky:>7.2f}"
            f"{'  has it' if greedy >= options.target else ''}"
        )
        row = {"stage": stage.label, "steps": steps, "seconds": seconds}
        rows.append(row | {"greedy": greedy, "sticky": sticky})
    where = f"at {reached[0]:,} steps, {reached[1] / 60:.1f} minutes" if reached else "never"
    print(f"the ANN's checkpoints had {options.target:g} {where}")
    if options.json:
        figures = {"command": " ".join(command), "target": options.target, "stages": rows}
        options.json.write_text(json.dumps(figures | {"ann_reached": reached}, indent=2) + "\n")


if __name__ == "__main__":
    main()
