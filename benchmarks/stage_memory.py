"""Measures the peak memory of every stage of the chain with the default settings of a game.

    python benchmarks/stage_memory.py [--env PongNoFrameskip-v4] [--threads 1] [--json FILE]

Every stage runs in its own process: the replay buffer is filled by random play, and the agent
performs updates with the batch size of the stage. The peak is the resident memory of the process,
including Python, PyTorch, and eight environments. Checkpoint selection and videos are not included.
Requires the extra `fast`.
"""

import argparse
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from side_by_side import arguments, prepare, write
from stable_baselines3.common.logger import configure

from snn_rl.agents import FrameReplayBuffer, SpikingDQN
from snn_rl.agents.objectives import TD
from snn_rl.agents.policies import network_spec
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.core.networks import AnalogNetwork
from snn_rl.envs import make_env
from snn_rl.utils.device import uses_bf16

UPDATES = 10


def stage(options: argparse.Namespace, timesteps: int | None) -> tuple[float, float]:
    """Returns the peak memory and the replay buffer of one stage in GB, in a fresh process."""
    prepare(options.threads)
    config = compose(Config, [f"env={options.env}"])
    spiking = timesteps is not None
    env = make_env(options.env, config.rollout.n_envs, frame_stack=config.rollout.frame_stack)
    teaching: dict[str, Any] = {}
    if spiking:
        teaching = {"objective": config.iir.objective, "sharpness": config.iir.sharpness}
        if config.iir.objective != TD:
            spaces = env.observation_space, env.action_space
            spec = network_spec(config.network, *spaces, config.bias)
            teaching["teacher"] = AnalogNetwork(spec)
    size = options.buffer or config.dqn.buffer_size
    model = SpikingDQN(
        "SpikingDQNPolicy",
        env,
        buffer_size=size,
        learning_starts=10**9,  # random play only
        n_steps=config.dqn.n_steps,
        double=config.dqn.double,
        **teaching,
        bf16=uses_bf16(config.precision, "cpu"),
        seed=0,
        device="cpu",
        policy_kwargs={"network": config.network, "timesteps": timesteps, "bias": config.bias},
    )
    model.set_logger(configure(None, []))
    model.learn(size, log_interval=10**9)
    model.train(UPDATES, config.iir.batch_size if spiking else config.dqn.batch_size)
    buffer = model.replay_buffer
    assert isinstance(buffer, FrameReplayBuffer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, buffer.nbytes / 1e9


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--buffer", type=int, help="transitions; default: the setting of the game")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stages: dict[str, int | None] = {"ANN": None} | {f"T{t}": t for t in (5, 4, 3, 2, 1)}
    figures = {}
    context = multiprocessing.get_context(
        "spawn"
    )  # no memory of this process or of the previous stage
    print(f"{options.env}: peak memory and replay buffer in GB")
    for name, timesteps in stages.items():
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            peak, replay = pool.submit(stage, options, timesteps).result()
        figures[name] = {"peak_gb": peak, "replay_gb": replay}
        print(f"{name:<4} {peak:.2f} {replay:.2f}")
    write(options.json, options.threads, options.rounds, {"env": options.env, "stages": figures})


if __name__ == "__main__":
    main()
