"""Kills small training runs at random times and compares the resumed runs with uninterrupted ones.

    python benchmarks/random_kills.py [--kills 100] [--seed 0] [--folder /tmp/random_kills]

Each trial trains one kind of chain with the train or classify command, sends SIGKILL at random
times up to three times, and repeats the command until it ends. All networks must be bit-identical
to those of an uninterrupted run, and no temporary file may remain. Finished trials are
listed in FOLDER/trials.jsonl: run the same command again to continue, or delete the folder to
start over, for example with changed code. The exit code is 1 if a trial has failed.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from snn_rl.chain.run_directory import NETWORK
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import load_tensors

MOST = 3  # kills of a trial
_COMMON = ("seed=0", "threads=1", "device=cpu", "precision=float32", "T=1")
_AGENT = (
    *("train", "env=CartPole-v1", "network=4c8s8-8", "video=false", "episodes=1"),
    *("checkpoint_steps=40", "rollout.n_envs=2", "rollout.cap=15", "dqn.steps=200"),
    *("dqn.learning_starts=40", "dqn.batch_size=8", "dqn.buffer_size=100"),
    *("dqn.target_update_interval=50", "dqn.epsilon_steps=60", "dqn.selection_games=2"),
    *("iir.steps=120", "iir.t1_steps=0", "iir.batch_size=8", "iir.conversion_samples=32"),
)
_IMAGES = (
    *("classify", "dataset=imagenet", "image_size=8", "net=vgg5", "T_start=2"),
    *("fit.epochs=6", "fit.batch_size=4", "iir.epochs=4", "iir.t1_epochs=0", "iir.batch_size=4"),
    "iir.conversion_samples=8",
)
CHAINS = {
    "agent": (*_AGENT, "T_start=2", "exact=true"),
    "carried": (
        *(*_AGENT, "T_start=1", "rollout.frame_stack=1", "carry_state=true"),
        *("carry.steps=120", "carry.burn_in=4", "carry.window=4"),
    ),
    "finetuned": (
        *(*_AGENT, "T_start=1", "finetune.steps=120", "finetune.lr=1e-3"),
        "finetune.selection_games=2",
    ),
    "privileged": (
        *(*_AGENT, "T_start=1", "teacher=state", "state.steps=240", "state.checkpoint_steps=80"),
        *("state.n_envs=2", "state.hidden=8", "state.learning_starts=20", "state.explore_steps=20"),
        *("state.batch_size=8", "state.quantiles=3", "state.buffer_size=100", "student.steps=120"),
        *("state.train_freq=4", "state.gradient_steps=2", "student.batch_size=8"),
        "student.guided_steps=60",
    ),
    "images": _IMAGES,
    "pruned-images": (*_IMAGES, "direct=true", "prune=0.5"),
}


def command(words: Sequence[str], run: Path) -> list[str]:
    """Returns the command of a chain."""
    module, *settings = words
    if module == "classify":
        settings.append(f"data={run.parents[1] / 'pictures'}")
    return [sys.executable, "-m", f"snn_rl.{module}", *settings, *_COMMON, f"run_dir={run}"]


def start(words: Sequence[str], run: Path) -> "subprocess.Popen[bytes]":
    """Starts the command, and waits until it has locked the run directory."""
    lock, log = run / ".lock", run.with_suffix(".log")
    lock.unlink(missing_ok=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(command(words, run), stdout=file, stderr=file)
    while not lock.exists() and process.poll() is None:
        time.sleep(0.01)
    return process


def finish(process: "subprocess.Popen[bytes]", run: Path) -> None:
    """Waits for the end of the command; ends the benchmark if the command fails."""
    if process.wait():
        log = run.with_suffix(".log")
        sys.exit(f"exit code {process.returncode}:\n{log.read_text(errors='replace')[-4000:]}")


def digests(run: Path) -> dict[str, str]:
    """Returns the SHA-256 of the tensors of every stage's network."""
    found = {}
    for path in sorted(run.glob(f"*/{NETWORK}")):
        digest = hashlib.sha256()
        for name, tensor in sorted(load_tensors(path)[0].items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        found[path.parent.name] = digest.hexdigest()
    return found


def uninterrupted(words: Sequence[str], folder: Path) -> float:
    """Trains the reference run, unless it exists; returns its seconds without the imports."""
    run, seconds = folder / "uninterrupted", folder / "seconds.json"
    if not seconds.exists():
        shutil.rmtree(run, ignore_errors=True)
        process = start(words, run)
        started = time.monotonic()
        finish(process, run)
        write_json(seconds, time.monotonic() - started)
    return float(json.loads(seconds.read_text()))


def trial(words: Sequence[str], folder: Path, rng: random.Random) -> tuple[int, str]:
    """Kills and resumes a run. Returns the number of kills and the failure, if any."""
    run, longest = folder / "killed", uninterrupted(words, folder)
    shutil.rmtree(run, ignore_errors=True)
    kills = 0
    while True:
        process = start(words, run)
        if kills < MOST:
            try:
                process.wait(rng.uniform(0, longest))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                continue
        finish(process, run)
        break
    expected, found = digests(folder / "uninterrupted"), digests(run)
    differ = [name for name in expected | found if expected.get(name) != found.get(name)]
    if differ:
        return kills, f"networks differ: {', '.join(differ)}"
    left = [str(path) for path in run.rglob(".*.tmp")]
    return kills, f"temporary files: {', '.join(left)}" if left else ""


def pictures(folder: Path) -> None:
    """Writes noise images of two classes."""
    noise = np.random.default_rng(0)
    for half, count in (("train", 16), ("val", 4)):
        for label in ("cat", "dog"):
            (folder / half / label).mkdir(parents=True, exist_ok=True)
            for k in range(count):
                pixels = noise.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / half / label / f"{k}.png")


def main() -> None:
    """Runs trials until there are enough kills."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/random_kills"))
    options = parser.parse_args()
    pictures(options.folder / "pictures")
    file = options.folder / "trials.jsonl"
    trials = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    kills = sum(each["kills"] for each in trials)
    while kills < options.kills:
        rng = random.Random(f"{options.seed} {len(trials)}")
        name = list(CHAINS)[len(trials) % len(CHAINS)]
        more, fault = trial(CHAINS[name], options.folder / name, rng)
        kills += more
        trials.append({"chain": name, "kills": more, "fault": fault})
        with file.open("a") as log:
            log.write(json.dumps(trials[-1]) + "\n")
        outcome = fault or "identical networks"
        print(f"{kills:>4} of {options.kills} kills. {name}, {more} kills: {outcome}", flush=True)
    failed = [each for each in trials if each["fault"]]
    print(f"{kills} kills in {len(trials)} trials: {len(failed)} trials failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
