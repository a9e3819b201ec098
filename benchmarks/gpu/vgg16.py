"""Trains VGG16 on CIFAR-10 within a time limit: the ANN, a few epochs at T=3 and T=2, then T=1.

    python benchmarks/gpu/vgg16.py OUT data=FOLDER [device=cuda] [profile=full] [seconds=420]

A short trial measures the seconds per epoch of each stage, from which the numbers of epochs are
derived. Writes OUT/vgg16.json: the commands, and the history and test accuracy of every stage.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from common import run_module, settings, write_json

from snn_rl.files.checkpoint import load_tensors

SETTINGS = [
    *("dataset=cifar10", "net=vgg16", "T=1", "T_start=3", "threads=1", "precision=auto"),
    *("fit.batch_size=256", "fit.lr=0.06"),
    *("iir.batch_size=256", "iir.lr=1.5e-4", "iir.dropout=0.1", "iir.epochs=2"),
]
TINY = [
    *("net=vgg5", "limit=64", "test_limit=20", "fit.batch_size=16", "iir.batch_size=16"),
    "iir.conversion_samples=16",
]
ANN_SHARE = 0.38  # fraction of the training time
RESERVE = 45.0  # seconds for startup, scoring and reports
GUESS = 4.0  # seconds per epoch if the trial failed
STAGES = ("ann", "T3", "T2", "T1")
CONVERTED = "T1-converted"  # the ANN at T = 1 without retraining
MOST = {"full": 250, "tiny": 2}  # maximum epochs of a stage by profile


def history(run: Path, stage: str) -> list[dict[str, float]]:
    """Returns the loss, training accuracy, and seconds of every epoch."""
    state = run / stage / "state.safetensors"
    if not state.exists():
        return []
    found: list[dict[str, float]] = load_tensors(state)[1]["counters"]["history"]
    return found


def epoch_seconds(run: Path, stage: str) -> float:
    """Returns the seconds of the fastest epoch; the first epoch includes the GPU's startup."""
    return min((epoch["seconds"] for epoch in history(run, stage)), default=GUESS)


def results(run: Path) -> dict[str, Any]:
    """Returns the history and score of every stage."""
    found = {}
    for stage in (*STAGES, CONVERTED):
        metrics = run / stage / "metrics.json"
        found[stage] = {
            "history": history(run, stage),
            "score": json.loads(metrics.read_text()) if metrics.exists() else None,
        }
    return found


def main() -> None:
    """Measures the epochs, trains the network, and prints the results."""
    started = time.monotonic()
    out = Path(sys.argv[1])
    options = settings(
        sys.argv[2:], {"data": "", "device": "cuda", "profile": "full", "seconds": "420"}
    )
    deadline = started + float(options["seconds"])
    run, trial = out / "vgg16-run", out / "vgg16-trial"
    record: dict[str, Any] = {}

    def train(name: str, directory: Path, *extra: str) -> bool:
        tiny = TINY if options["profile"] == "tiny" else []
        arguments = [*SETTINGS, *tiny, f"data={options['data']}", f"device={options['device']}"]
        unique = {argument.partition("=")[0]: argument for argument in [*arguments, *extra]}
        record[name] = run_module(
            out / "logs" / f"vgg16-{name}.log",
            max(5.0, deadline - time.monotonic()),
            "snn_rl.classify",
            *unique.values(),
            f"run_dir={directory}",
        )
        record["stages"] = results(run)
        write_json(out / "vgg16.json", record)
        print(f"vgg16 {name}: exit {record[name]['code']}, {record[name]['seconds']} s", flush=True)
        return bool(record[name]["code"] == 0)

    # the trial runs every stage and the scoring, which reveals failures early
    short = ["fit.epochs=2", "fit.lr=0.01", "iir.epochs=1", "iir.t1_epochs=2"]
    if not train("trial", trial, *short):
        print(record["trial"]["tail"])
    seconds = {stage: epoch_seconds(trial, stage) for stage in STAGES}
    shutil.rmtree(trial)
    left = deadline - time.monotonic() - RESERVE
    most = MOST[options["profile"]]
    ann = min(most, max(2, int(ANN_SHARE * left / seconds["ann"])))
    record["epoch_seconds"], record["ann_epochs"] = seconds, ann
    print(f"vgg16: epochs of {seconds} s, {ann} of the ANN", flush=True)
    # the ANN and its conversion at T=1 without retraining; the chain below starts from this ANN
    train("ann", run, f"fit.epochs={ann}", "stages=none")
    left = deadline - time.monotonic() - RESERVE
    left -= 2 * 1.1 * (seconds["T3"] + seconds["T2"])
    t1 = min(most, max(1, int(left / (1.1 * seconds["T1"]))))
    record["t1_epochs"] = t1
    train("chain", run, f"fit.epochs={ann}", f"iir.t1_epochs={t1}")
    for stage, found in record["stages"].items():
        if found["score"]:
            print(f"vgg16 {stage}: {found['score']['accuracy']:.2%} of the test images", flush=True)
    if record["chain"]["code"] != 0:
        print(record["chain"]["tail"])


if __name__ == "__main__":
    main()
