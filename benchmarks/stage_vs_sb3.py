"""Compares the ANN stage with Stable-Baselines3's DQN on the same game and settings.

    python benchmarks/stage_vs_sb3.py [--env PongNoFrameskip-v4] [--device cpu] [--json FILE]

Both perform the same number of decisions and updates in every round, with the number of
environments, batch size, n-step returns, updates per step, and buffer size of the game's settings.
`ours` is the agent of `snn_rl.train`, `ours, float32` the same without bfloat16, and `SB3` is
DQN("CnnPolicy", make_atari_env(...)) with stacked frames. Prints decisions and updates per second
and the speed relative to SB3, also for environment steps and updates alone.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from side_by_side import alternate, arguments, prepare, show, spread, write
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecFrameStack

from snn_rl.agents import SpikingDQN
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.envs import make_env
from snn_rl.utils.device import uses_bf16

UPDATES = 10  # per turn


def agents(options: argparse.Namespace) -> dict[str, DQN]:
    """Returns the agents by name, each with its own environments."""
    config = compose(Config, [f"env={options.env}", f"device={options.device}"])
    dqn, rollout = config.dqn, config.rollout
    shared = {
        "learning_rate": dqn.lr,
        "batch_size": options.batch or dqn.batch_size,
        "buffer_size": options.buffer,
        "learning_starts": rollout.n_envs,
        "train_freq": dqn.train_freq,
        "gradient_steps": dqn.gradient_steps,
        "n_steps": dqn.n_steps,
        "gamma": dqn.gamma,
        "target_update_interval": dqn.target_update_interval,
        "exploration_initial_eps": dqn.epsilon_end,
        "exploration_final_eps": dqn.epsilon_end,
        "device": options.device,
        "seed": 0,
    }
    policy = {"network": "mnih", "bias": True, "optimizer_kwargs": {"fused": True}}

    def ours(bf16: bool) -> DQN:
        env = make_env(options.env, rollout.n_envs, frame_stack=rollout.frame_stack)
        return SpikingDQN("SpikingDQNPolicy", env, bf16=bf16, policy_kwargs=policy, **shared)

    result: dict[str, DQN] = {}
    if uses_bf16(config.precision, config.device):
        result["ours"] = ours(True)
    result["ours, float32"] = ours(False)
    env = VecFrameStack(make_atari_env(options.env, rollout.n_envs, seed=0), rollout.frame_stack)
    result["SB3"] = DQN("CnnPolicy", env, **shared)
    for agent in result.values():
        agent.set_logger(configure(None, []))
    return result


def timed(call: Callable[[], object], agent: DQN) -> Callable[[], object]:
    """Returns the call followed by a wait for the GPU."""

    def finished() -> None:
        call()
        if agent.device.type == "cuda":
            torch.cuda.synchronize(agent.device)

    return finished


def playing(agent: DQN) -> Callable[[], object]:
    """Returns a call that steps the agent's environments with random actions."""
    env = agent.get_env()
    assert env is not None
    rng = np.random.default_rng(0)
    assert isinstance(agent.action_space, spaces.Discrete)
    actions = agent.action_space.n
    return lambda: env.step(rng.integers(actions, size=env.num_envs))


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = arguments(__doc__, rounds=12)
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, help="batch size; default: the setting of the game")
    parser.add_argument(
        "--buffer", type=int, default=10_000, help="replay buffer size of each agent"
    )
    parser.add_argument("--steps", type=int, default=320, help="decisions per turn")
    options = parser.parse_args()
    prepare(options.threads)
    torch.manual_seed(0)
    made = agents(options)
    first = next(iter(made.values()))
    batch, envs = first.batch_size, first.n_envs

    def learning(agent: DQN) -> Callable[[], object]:
        return timed(
            lambda: agent.learn(options.steps, reset_num_timesteps=False, log_interval=10**9), agent
        )

    def updating(agent: DQN) -> Callable[[], object]:
        return timed(lambda: agent.train(UPDATES, batch), agent)

    whole = alternate({name: learning(agent) for name, agent in made.items()}, options.rounds)
    updates = alternate(
        {name: updating(agent) for name, agent in made.items()}, options.rounds, warm_up=2
    )
    steps = alternate(
        {name: playing(agent) for name, agent in made.items()}, options.rounds, calls=20
    )
    per_step = 1 / (envs * first.train_freq.frequency) * first.gradient_steps
    print(f"{options.env}, {envs} environments, batch {batch}, {options.threads} thread(s)")
    print(
        f"{'':<14} decisions/s  updates/s    speed vs. SB3  update: ms  vs. SB3  step: ms  vs. SB3"
    )
    figures = {}
    for name in made:
        fast = spread(whole["SB3"] / whole[name])
        update, step = spread(updates[name] / UPDATES * 1e3), spread(steps[name] * 1e3)
        update_fast = spread(updates["SB3"] / updates[name])
        step_fast = spread(steps["SB3"] / steps[name])
        decisions = spread(options.steps / whole[name])
        figures[name] = {
            "decisions_per_s": decisions,
            "updates_per_s": {key: value * per_step for key, value in decisions.items()},
            "times_as_fast": fast,
            "update_ms": update,
            "update_times_as_fast": update_fast,
            "env_step_ms": step,
            "env_step_times_as_fast": step_fast,
        }
        print(
            f"{name:<14} {decisions['median']:>11.0f}  {decisions['median'] * per_step:>9.1f}  "
            f"{show(fast):>16}  {update['median']:>9.1f}  {update_fast['median']:>6.2f}  "
            f"{step['median']:>8.2f}  {step_fast['median']:>6.2f}"
        )
    setting = {"env": options.env, "batch": batch, "envs": envs, "steps": options.steps}
    setting["device"] = options.device
    write(options.json, options.threads, options.rounds, setting | {"agents": figures})


if __name__ == "__main__":
    main()
