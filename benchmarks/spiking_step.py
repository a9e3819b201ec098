"""Compares an update of the spiking network with an update of the ANN.

    python benchmarks/spiking_step.py [--batch 32 128] [--threads 1] [--json FILE]

Times whole updates of `SpikingDQN` (sampling, forward pass of the target, loss, backward pass,
Adam) for the Mnih network on Pong: as an ANN and converted to T timesteps. The floor is the ratio
of the multiply-accumulates of the dense layers, with the first layer computed once.
"""

from collections.abc import Callable

import numpy as np
import torch
from side_by_side import alternate, arguments, prepare, ratios, show, spread, write
from stable_baselines3.common.logger import configure

from snn_rl.agents import SpikingDQN
from snn_rl.core.conversion import convert
from snn_rl.core.energy import macs
from snn_rl.core.networks import AnalogNetwork, NetworkSpec, SpikingOptions
from snn_rl.envs import make_env
from snn_rl.utils.device import uses_bf16


def floor(spec: NetworkSpec, timesteps: int) -> float:
    """Returns the multiply-accumulates of an update at T relative to the ANN.

    An update consists of forward passes of both networks and of the gradients of all weights and of
    all layer inputs except the images.
    """
    first, *rest = macs(spec)
    ann = 3 * first + 4 * sum(rest)
    return (3 * first + 4 * timesteps * sum(rest)) / ann


def agent(bf16: bool, timesteps: int | None, like: SpikingDQN | None = None) -> SpikingDQN:
    """Returns an agent with a small replay buffer of random play."""
    env = make_env("PongNoFrameskip-v4", n_envs=8)
    model = SpikingDQN(
        "SpikingDQNPolicy",
        env,
        buffer_size=2_000,
        learning_starts=10**9,  # random play only
        bf16=bf16,
        seed=0,
        device="cpu",
        policy_kwargs={"timesteps": timesteps, "optimizer_kwargs": {"fused": True}},
    )
    model.set_logger(configure(None, []))
    model.learn(2_000, log_interval=10**9)
    if like is not None and timesteps is not None:
        images = model.q_net.images(torch.as_tensor(model.replay_buffer.observations[:8, 0]))
        assert isinstance(like.network, AnalogNetwork)
        model.load_network(convert(like.network, images, SpikingOptions(timesteps)))
    return model


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 5])
    options = parser.parse_args()
    prepare(options.threads)
    figures = []
    print(f"Mnih network, {options.threads} thread(s): time relative to an update of the ANN")
    print(f"{'precision':<10} {'batch':>5}  {'ANN: ms':>8}", end="")
    print("".join(f"  {f'T{t}':>17} {'floor':>5}" for t in options.timesteps))
    for bf16 in (False, True) if uses_bf16("auto", "cpu") else (False,):
        ann = agent(bf16, None)
        made = {"ANN": ann} | {f"T{t}": agent(bf16, t, ann) for t in options.timesteps}
        for batch in options.batch:

            def updating(model: SpikingDQN, batch: int = batch) -> Callable[[], object]:
                return lambda: model.train(1, batch)

            np.random.seed(0)
            seconds = alternate(
                {name: updating(model) for name, model in made.items()}, options.rounds, calls=4
            )
            found = ratios(seconds, "ANN")
            floors = {f"T{t}": floor(ann.network.spec, t) for t in options.timesteps}
            precision, ms = "bfloat16" if bf16 else "float32", spread(seconds["ANN"] * 1e3)
            print(f"{precision:<10} {batch:>5}  {ms['median']:>8.1f}", end="")
            for name, least in floors.items():
                print(f"  {show(found[name]):>17} {least:>5.2f}", end="")
            print()
            row = {"precision": precision, "batch": batch, "ann_ms": ms}
            figures.append(row | {n: found[n] | {"floor": floors[n]} for n in floors})
    write(options.json, options.threads, options.rounds, {"updates": figures})


if __name__ == "__main__":
    main()
