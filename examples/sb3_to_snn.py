"""Converts a Stable-Baselines3 DQN to a spiking network that decides in one timestep.

    python examples/sb3_to_snn.py dqn_pong.zip PongNoFrameskip-v4 --out pong_T1.safetensors

The agent must be a DQN("CnnPolicy") trained on the observations of `snn_rl.envs.make_env`: stacked
frames of Stable-Baselines3's AtariWrapper, or CartPole from pixels. The command
`python -m snn_rl.train env=... ann=...` does the same, and also resumes, selects checkpoints,
evaluates greedy and sticky episodes, and writes a report.
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
    """Loads, converts, retrains, evaluates, and saves the agent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("agent", type=Path, help="SB3 zip, or any network that snn_rl imports")
    parser.add_argument("env", help="CartPole-v1 or <Game>NoFrameskip-v4")
    parser.add_argument("--steps", type=int, default=20_000, help="agent steps per stage")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes")
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
    print(
        f"T=1: {mean:.1f} ± {std:.1f} over {arguments.episodes} episodes; saved to {arguments.out}"
    )


if __name__ == "__main__":
    main()
