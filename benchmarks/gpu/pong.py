"""Trains Pong within a time limit: an ANN by Q-learning, converted and retrained at T=1.

    python benchmarks/gpu/pong.py OUT [device=cuda] [profile=full] [seconds=480] [steps=0]

Differs from the preset in 16 environments, batches of 256, no fine-tuning, no checkpoint selection,
direct retraining at T=1, and the number of steps. `steps` is the number of steps of the ANN; 0
derives it from the speed in OUT/stage_vs_sb3_64.json. Writes OUT/pong.json: mean return by agent
steps of both stages, and the evaluation.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import run_module, settings, write_json

from snn_rl.files.checkpoint import load_tensors

SETTINGS = [
    *("env=PongNoFrameskip-v4", "T=1", "direct=true", "threads=1", "video=false", "episodes=10"),
    *("rollout.n_envs=16", "checkpoint_steps=40000", "finetune.steps=0"),
    *("dqn.batch_size=256", "dqn.buffer_size=100000", "dqn.learning_starts=8000"),
    *("dqn.lr=2.5e-4", "dqn.double=true", "dqn.epsilon_steps=80000", "dqn.selection_games=0"),
    *("dqn.target_return=null", "dqn.lr_steps=null", "dqn.target_update_interval=1000"),
    *("iir.gradient_steps=1", "iir.selection_games=0", "iir.selection_sticky_games=0"),
]
TINY = [
    *("rollout.n_envs=2", "checkpoint_steps=100", "rollout.cap=20", "episodes=1"),
    *("dqn.batch_size=8", "dqn.buffer_size=200", "dqn.learning_starts=40", "dqn.epsilon_steps=80"),
    *("iir.batch_size=8", "iir.conversion_samples=16"),
]
T1_STEPS = 48_000
SHARE = 0.6  # fraction of the time for the ANN
SLOWER = 0.7  # relative speed beside another process on the same GPU
BIN = 20_000  # steps between two points of the learning curve


def ann_steps(out: Path, seconds: float) -> int:
    """Returns the number of the ANN's steps for a time, from the measured speed."""
    path = out / "stage_vs_sb3_64.json"
    rate = 800.0
    if path.exists():
        ours = next(iter(json.loads(path.read_text())["agents"].values()))
        rate = ours["decisions_per_s"]["median"]
    # a multiple of the steps between checkpoints
    return max(80_000, int(rate * SLOWER * SHARE * seconds) // 40_000 * 40_000)


def curve(state: Path) -> list[dict[str, float]]:
    """Returns the mean return of the episodes that ended in each bin of steps."""
    if not state.exists():
        return []
    episodes = np.array(load_tensors(state)[1]["counters"]["episodes"]).reshape(-1, 3)
    bins = (episodes[:, 0] // BIN).astype(int)
    return [
        {
            "steps": int((b + 1) * BIN),
            "return": float(episodes[bins == b, 1].mean()),
            "episodes": int((bins == b).sum()),
        }
        for b in np.unique(bins)
    ]


def main() -> None:
    """Trains the agent and prints the results."""
    out = Path(sys.argv[1])
    options = settings(
        sys.argv[2:], {"device": "cuda", "profile": "full", "seconds": "480", "steps": "0"}
    )
    limit, run = float(options["seconds"]), out / "pong-run"
    steps = int(options["steps"]) or ann_steps(out, limit)
    arguments = [*SETTINGS, f"dqn.steps={steps}", f"iir.t1_steps={T1_STEPS}"]
    if options["profile"] == "tiny":
        arguments = [*SETTINGS, *TINY, "dqn.steps=200", "iir.t1_steps=100"]
    # Hydra rejects repeated settings
    unique = {argument.partition("=")[0]: argument for argument in arguments}
    result: dict[str, Any] = run_module(
        out / "logs" / "pong.log",
        limit,
        "snn_rl.train",
        *unique.values(),
        f"device={options['device']}",
        f"run_dir={run}",
    )
    for stage in ("ann", "T1-direct"):
        result[stage] = {"curve": curve(run / stage / "state.safetensors")}
        metrics = run / stage / "metrics.json"
        if metrics.exists():
            result[stage]["metrics"] = json.loads(metrics.read_text())
    write_json(out / "pong.json", result)
    for stage in ("ann", "T1-direct"):
        for point in result[stage]["curve"][-5:]:
            print(f"pong {stage} {point['steps']:>8,} steps: {point['return']:.1f}")
        for column in ("greedy", "sticky"):
            if "metrics" in result[stage]:
                found = result[stage]["metrics"][column]
                print(f"pong {stage} {column}: {found['mean']:.1f} ± {found['std']:.1f}")
    print(f"pong: exit {result['code']}, {result['seconds']} s\n{result['tail'][-400:]}")


if __name__ == "__main__":
    main()
