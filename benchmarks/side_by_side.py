"""What the benchmarks share: timings in alternating rounds, their table, and `--json`.

Absolute times depend on what else a machine does, so only ratios are worth telling, and only of
things that were timed in turns. Every round times each candidate once, in rotating order, and gives
one ratio; medians and quartiles are over rounds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_rl.utils.process_memory import keep_freed_memory


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="timed in turns, after a warm-up"
    )
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


def prepare(threads: int) -> None:
    """Sets the process up as `snn_rl.train` does."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def alternate(
    candidates: dict[str, Callable[[], object]], rounds: int, calls: int = 1, warm_up: int = 1
) -> dict[str, np.ndarray]:
    """Seconds of a call, of every candidate in every round.

    Args:
        candidates: What is called, by name.
        rounds: How often each one's turn comes.
        calls: Calls in a turn.
        warm_up: Turns before that are not counted.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            for _ in range(calls):
                candidates[name]()
            if turn >= 0:
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: np.array(times) for name, times in seconds.items()}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(list(values), [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def ratios(seconds: dict[str, np.ndarray], base: str) -> dict[str, dict[str, float]]:
    """How many times as long as the base each candidate takes, by rounds."""
    return {name: spread(times / seconds[base]) for name, times in seconds.items()}


def show(value: dict[str, float], digits: int = 2) -> str:
    """A median with its quartiles."""
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}-{value['high']:.{digits}f})"


def write(path: Path | None, threads: int, rounds: int, figures: dict[str, Any]) -> None:
    """Writes the figures, and what they were measured with, as JSON."""
    if path is None:
        return
    setting = {
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "threads": threads,
        "rounds": rounds,
    }
    path.write_text(json.dumps(setting | figures, indent=2) + "\n")
