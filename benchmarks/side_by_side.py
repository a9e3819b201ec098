"""Shared functions of the benchmarks: timing in alternating rounds and `--json`.

Absolute times depend on the other load of a machine, so the benchmarks report ratios of candidates
that are timed in turn. Every round times each candidate once, in rotating order, and yields one
ratio. Medians and quartiles are over rounds.
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
    """Returns a parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds after the warm-up")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--json", type=Path, help="path of a JSON file with the results")
    return parser


def prepare(threads: int) -> None:
    """Configures the process like `snn_rl.train`."""
    torch.set_num_threads(threads)
    keep_freed_memory()


def alternate(
    candidates: dict[str, Callable[[], object]], rounds: int, calls: int = 1, warm_up: int = 1
) -> dict[str, np.ndarray]:
    """Returns the seconds per call of every candidate in every round.

    Args:
        candidates: Functions to time, by name.
        rounds: Number of measured rounds.
        calls: Number of calls per round.
        warm_up: Number of rounds before the measurement.
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
    """Returns the median and the quartiles."""
    low, median, high = np.percentile(list(values), [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def ratios(seconds: dict[str, np.ndarray], base: str) -> dict[str, dict[str, float]]:
    """Returns the time of each candidate relative to `base`, as the spread over rounds."""
    return {name: spread(times / seconds[base]) for name, times in seconds.items()}


def show(value: dict[str, float], digits: int = 2) -> str:
    """Returns a median and its quartiles as text."""
    return f"{value['median']:.{digits}f} ({value['low']:.{digits}f}-{value['high']:.{digits}f})"


def write(path: Path | None, threads: int, rounds: int, figures: dict[str, Any]) -> None:
    """Writes the results and the settings of the measurement as JSON."""
    if path is None:
        return
    setting = {
        "command": " ".join(["python", *sys.argv]),
        "torch": torch.__version__,
        "threads": threads,
        "rounds": rounds,
    }
    path.write_text(json.dumps(setting | figures, indent=2) + "\n")
