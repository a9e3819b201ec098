"""Compares our replay buffer with Stable-Baselines3's in memory and time.

    python benchmarks/replay_memory.py [--env PongNoFrameskip-v4] [--threads 1] [--json FILE]

Both buffers are filled with the same transitions of random play. Memory is that of the arrays,
scaled to 100,000 transitions. Prints the time of SB3's buffer relative to ours for adding a step of
eight environments and for sampling a batch.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from side_by_side import alternate, arguments, prepare, ratios, show, spread, write
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from snn_rl.agents import FrameReplayBuffer
from snn_rl.envs import make_env

ENVS = 8
OURS, THEIRS = "ours", "SB3"


def nbytes(buffer: ReplayBuffer) -> int:
    """Returns the bytes of the arrays."""
    if isinstance(buffer, FrameReplayBuffer):
        return buffer.nbytes
    return sum(array.nbytes for array in vars(buffer).values() if isinstance(array, np.ndarray))


def adder(buffer: ReplayBuffer, rows: list[tuple[Any, ...]]) -> Callable[[], None]:
    """Returns a call that adds the next row, starting over after the last row."""
    following = itertools.cycle(rows)
    return lambda: buffer.add(*next(following))


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--size", type=int, default=16_000, help="stored transitions")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    options = parser.parse_args()
    prepare(options.threads)
    env = make_env(options.env, n_envs=ENVS)
    assert isinstance(env.action_space, spaces.Discrete)
    shared = (options.size, env.observation_space, env.action_space, "cpu", ENVS)
    figures: dict[str, object] = {}
    for n_steps in (1, 3):
        theirs = NStepReplayBuffer(*shared, n_steps=3) if n_steps > 1 else ReplayBuffer(*shared)
        buffers = {OURS: FrameReplayBuffer(*shared, n_steps=n_steps), THEIRS: theirs}
        rng = np.random.default_rng(0)
        obs = env.reset()
        rows: list[tuple[Any, ...]] = []
        for _ in range(options.size // ENVS):
            actions = rng.integers(env.action_space.n, size=ENVS)
            new, rewards, dones, infos = env.step(actions)
            row = (obs, new, actions, rewards, dones, infos)
            for buffer in buffers.values():
                buffer.add(*row)
            obs, rows = new, [*rows[-199:], row]
        gigabytes = {n: nbytes(b) / options.size * 1e5 / 1e9 for n, b in buffers.items()}
        if n_steps == 1:
            figures["gigabytes"] = gigabytes
            print(
                f"100,000 transitions: ours {gigabytes[OURS]:.2f} GB, SB3 {gigabytes[THEIRS]:.2f}"
            )
            adding = alternate(
                {name: adder(buffer, rows) for name, buffer in buffers.items()},
                options.rounds,
                calls=len(rows),
            )
            ratio = ratios(adding, OURS)[THEIRS]
            figures["add"] = ratio
            print(f"add a step of {ENVS} environments: {show(ratio)} times our time")
        for batch in options.batch:

            def sampling(buffer: ReplayBuffer, batch: int = batch) -> ReplayBufferSamples:
                return buffer.sample(batch)

            seconds = alternate(
                {name: lambda b=buffer: sampling(b) for name, buffer in buffers.items()},
                options.rounds,
                calls=10,
            )
            ratio = ratios(seconds, OURS)[THEIRS]
            figures[f"sample {batch}, {n_steps} steps"] = ratio | {
                "ours_ms": spread(seconds[OURS] * 1e3)
            }
            print(f"sample {batch:>3}, {n_steps}-step returns: {show(ratio)} times our time")
    write(options.json, options.threads, options.rounds, {"env": options.env} | figures)


if __name__ == "__main__":
    main()
