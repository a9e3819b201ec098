"""Measures training with several threads on a machine that other processes use, too.

    python benchmarks/busy_machine.py [--threads 2] [--busy 1] [--json FILE]

Each measurement is a new process that trains the ANN of CartPole with one policy of waiting threads
(OMP_WAIT_POLICY), alone or beside processes that compute without a break. `unset` is the default of
OpenMP, PASSIVE that of `import snn_rl`. Prints decisions per second, also relative to `unset`.
"""

import os
import subprocess
import sys
from contextlib import ExitStack

from side_by_side import arguments, show, spread, write

POLICY = "OMP_WAIT_POLICY"
POLICIES = ("unset", "PASSIVE")
BUSY = "while True: pass"
# Imports PyTorch first because `import snn_rl` sets an unset policy.
MEASURED = """
import sys, time
import torch
from snn_rl.agents import SpikingDQN
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.envs import make_env

threads, seconds = int(sys.argv[1]), float(sys.argv[2])
torch.set_num_threads(threads)
config = compose(Config, ["env=CartPole-v1"])
dqn, rollout = config.dqn, config.rollout
env = make_env("CartPole-v1", rollout.n_envs, frame_stack=rollout.frame_stack)
agent = SpikingDQN(
    "SpikingDQNPolicy",
    env,
    batch_size=dqn.batch_size,
    buffer_size=dqn.buffer_size,
    learning_starts=rollout.n_envs,
    train_freq=dqn.train_freq,
    gradient_steps=dqn.gradient_steps,
    policy_kwargs={"network": "cartpole", "bias": True},
    device="cpu",
    seed=0,
)
unit = 10 * rollout.n_envs
agent.learn(unit)
done, start = 0, time.perf_counter()
while time.perf_counter() < start + seconds:
    agent.learn(unit, reset_num_timesteps=False)
    done += unit
print(done / (time.perf_counter() - start))
"""


def decisions_per_second(policy: str, threads: int, seconds: float) -> float:
    """Returns the speed of training in a new process."""
    environment = {key: value for key, value in os.environ.items() if key != POLICY}
    if policy != "unset":
        environment[POLICY] = policy
    command = [sys.executable, "-c", MEASURED, str(threads), str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = arguments(__doc__, rounds=5)
    parser.set_defaults(threads=2)
    parser.add_argument("--busy", type=int, default=1, help="processes that compute all the time")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a measurement")
    options = parser.parse_args()
    speeds: dict[tuple[int, str], list[float]] = {}
    for turn in range(options.rounds):
        for busy in (0, options.busy):
            with ExitStack() as stack:
                for _ in range(busy):
                    process = subprocess.Popen([sys.executable, "-c", BUSY])
                    stack.callback(process.kill)
                for policy in POLICIES[:: 1 - 2 * (turn % 2)]:
                    speed = decisions_per_second(policy, options.threads, options.seconds)
                    speeds.setdefault((busy, policy), []).append(speed)
    print(f"CartPole-v1, {options.threads} thread(s), {options.rounds} rounds")
    print(f"{'busy processes':<16}{POLICY:<18}decisions/s          relative to unset")
    figures = {}
    for (busy, policy), values in sorted(speeds.items()):
        unset = speeds[busy, "unset"]
        relative = spread(value / base for value, base in zip(values, unset, strict=True))
        figures[f"{busy} busy, {policy}"] = {"decisions_per_s": spread(values), "ratio": relative}
        print(f"{busy:<16}{policy:<18}{show(spread(values), 0):<21}{show(relative)}")
    write(options.json, options.threads, options.rounds, figures)


if __name__ == "__main__":
    main()
