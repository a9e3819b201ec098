"""From a DQN of Stable-Baselines3 to a spiking network that decides in one timestep.

    python examples/sb3_to_snn.py dqn_pong.zip PongNoFrameskip-v4 --out pong_T1.safetensors

The agent has to be a DQN("CnnPolicy") that sees what `snn_rl.envs.make_env` shows: a stack of
frames from Stable-Baselines3's AtariWrapper, or CartPole from pixels. What it takes and gives is
the same from the command `python -m snn_rl.train env=... ann=...`, which also resumes, chooses
among checkpoints, evaluates greedy and sticky games and writes a report.
"""

import argparse
from pathlib import Path

from stable_baselines3.common.evaluation import evaluate_policy

from snn_rl.agents import iir, observe
from snn_rl.core.conversion import convert
from snn_rl.core.networks import SpikingOptions
from snn_rl.envs import make_env
from snn_rl.files.checkpoint import save_network
from snn_rl.files.importing import load_any


def main() -> None:
    """Loads, converts, retrains, evaluates and saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("agent", type=Path, help="zip of a DQN, or any network snn_rl imports")
    parser.add_argument("env", help="CartPole-v1, or <Game>NoFrameskip-v4")
    parser.add_argument("--steps", type=int, default=20_000, help="agent steps of each stage")
    parser.add_argument("--episodes", type=int, default=10, help="games of the evaluation")
    parser.add_argument("--out", type=Path, default=Path("T1.safetensors"))
    arguments = parser.parse_args()

    teacher = load_any(arguments.agent)
    frames = teacher.spec.input_shape[0]
    env = make_env(arguments.env, n_envs=8, frame_stack=frames)
    student = convert(teacher, observe(teacher, env), SpikingOptions(2))
    agent = iir(student, teacher, env, T=1, steps=arguments.steps)

    games = make_env(arguments.env, seed=1_000_000, frame_stack=frames, training=False)
    mean, std = evaluate_policy(agent, games, arguments.episodes)
    save_network(arguments.out, agent.network, {"env": arguments.env})
    print(f"T=1: {mean:.1f} ± {std:.1f} over {arguments.episodes} games; {arguments.out}")


if __name__ == "__main__":
    main()
