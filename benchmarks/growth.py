"""Measures how cost grows with timesteps, batch size, environments, and replay buffer size.

    python benchmarks/growth.py [--threads 1] [--figure growth.png] [--json FILE]

On Pong with the Mnih network, the sizes of each quantity are timed in turn: an update with batch
size 32 against T, an update of the ANN and of T=1 against the batch size, a step of n environments
including decisions against n, and sampling a batch of 32 against the number of stored transitions.
Prints the cost of every size relative to the smallest, and the exponent p of cost ~ size^p relative
to the previous size; the growth is faster than linear if p > 1. Requires the extra `fast`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from side_by_side import alternate, arguments, prepare, ratios, show, spread, write
from spiking_step import agent

from snn_rl.agents import FrameReplayBuffer, SpikingDQN
from snn_rl.envs import make_env
from snn_rl.utils.device import uses_bf16

BATCH = 32


@dataclass
class Ladder:
    """Cost of one operation at several sizes.

    Attributes:
        title: Name of the operation.
        quantity: Name of the size.
        calls: Timed call by size.
    """

    title: str
    quantity: str
    calls: dict[int, Callable[[], object]]


def updating(model: SpikingDQN, batch: int) -> Callable[[], object]:
    """Returns a call that performs one update."""
    return lambda: model.train(1, batch)


def stepping(model: SpikingDQN, n_envs: int) -> Callable[[], object]:
    """Returns a call that decides for n environments and steps them, ten times."""
    env = make_env("PongNoFrameskip-v4", n_envs)
    model.policy.set_training_mode(False)
    observations = [env.reset()]

    def step() -> None:
        for _ in range(10):
            actions, _ = model.predict(observations[-1], deterministic=True)
            observations[-1] = env.step(actions)[0]

    return step


def sampling(size: int) -> Callable[[], object]:
    """Returns a call that samples ten batches from a buffer of `size` random transitions."""
    env = make_env("PongNoFrameskip-v4", 8)
    buffer = FrameReplayBuffer(size, env.observation_space, env.action_space, "cpu", 8)
    rng = np.random.default_rng(0)
    observations = env.reset()
    for _ in range(size // 8):
        actions = rng.integers(6, size=8)
        new, rewards, dones, infos = env.step(actions)
        buffer.add(observations, new, actions, rewards, dones, infos)
        observations = new
    return lambda: [buffer.sample(BATCH) for _ in range(10)]


def ladders(options: argparse.Namespace) -> list[Ladder]:
    """Returns all measured operations."""
    bf16 = uses_bf16("auto", "cpu")
    ann = agent(bf16, None)
    spiking = {t: agent(bf16, t, ann) for t in options.timesteps}
    one = spiking.get(1) or agent(bf16, 1, ann)
    return [
        Ladder(
            "update of a spiking network",
            "timesteps",
            {t: updating(model, BATCH) for t, model in spiking.items()},
        ),
        Ladder("update of the ANN", "batch", {n: updating(ann, n) for n in options.batch}),
        Ladder("update at T=1", "batch", {n: updating(one, n) for n in options.batch}),
        Ladder(
            "step with decisions at T=1",
            "environments",
            {n: stepping(one, n) for n in options.envs},
        ),
        Ladder(
            f"sampling {BATCH} transitions",
            "stored transitions",
            {n: sampling(n) for n in options.replay},
        ),
    ]


def exponents(sizes: list[int], costs: list[float]) -> list[float]:
    """Returns the exponents p of cost ~ size^p between consecutive sizes."""
    return list(np.diff(np.log(costs)) / np.diff(np.log(sizes)))


def draw(found: list[dict[str, Any]]) -> Figure:
    """Draws one panel per quantity: cost relative to the smallest size, beside linear growth."""
    quantities = list(dict.fromkeys(ladder["quantity"] for ladder in found))
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, quantity in zip(figure.subplots(2, 2).flat, quantities, strict=True):
        for ladder in (each for each in found if each["quantity"] == quantity):
            axes.plot(ladder["sizes"], ladder["cost"], "o-", label=ladder["title"])
        sizes = np.array(ladder["sizes"])
        axes.plot(sizes, sizes / sizes[0], "--", color="#888888", label="linear")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(quantity)
        axes.set_ylabel("relative cost")
        axes.legend()
    return figure


def main() -> None:
    """Runs the benchmark, prints the results, and draws the figure."""
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 7, 8])
    batches = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    parser.add_argument("--batch", type=int, nargs="+", default=batches)
    parser.add_argument("--envs", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--replay", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--figure", type=Path, help="path of a PNG figure")
    options = parser.parse_args()
    prepare(options.threads)
    np.random.seed(0)
    found = []
    for ladder in ladders(options):
        seconds = alternate(
            {str(size): call for size, call in ladder.calls.items()}, options.rounds
        )
        sizes = list(ladder.calls)
        times = ratios(seconds, str(sizes[0]))
        cost = [times[str(size)]["median"] for size in sizes]
        powers = exponents(sizes, cost)
        print(f"{ladder.title} by {ladder.quantity}")
        for size, power in zip(sizes, ["", *(f"{p:.2f}" for p in powers)], strict=True):
            print(f"{size:>9,}  {show(times[str(size)]):<22} {power:>6}")
        found.append(
            {
                "title": ladder.title,
                "quantity": ladder.quantity,
                "sizes": sizes,
                "cost": cost,
                "spread": [times[str(size)] for size in sizes],
                "exponents": powers,
                "lowest_ms": spread(seconds[str(sizes[0])] * 1e3),
            }
        )
    if options.figure:
        draw(found).savefig(options.figure, dpi=120)
    write(options.json, options.threads, options.rounds, {"ladders": found})


if __name__ == "__main__":
    main()
