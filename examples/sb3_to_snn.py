"""Converts and retrains a DQN of Stable-Baselines3 into an agent that decides in one timestep.

    python examples/sb3_to_snn.py dqn_pong.zip PongNoFrameskip-v4 --out pong_T1.safetensors

The agent must be a DQN("CnnPolicy") with the observations of `snn_rl.make_env`: a stack of frames
from Stable-Baselines3's AtariWrapper, or CartPole from pixels. The command
`python -m snn_rl.train env=... ann=...` does the same, and also resumes, selects the best
checkpoint, evaluates with sticky actions and writes a report.
"""

import argparse
from pathlib import Path

import snn_rl


def main() -> None:
    """Converts, retrains, evaluates and saves an agent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("agent", help="zip of a DQN, or another network that snn_rl.load reads")
    parser.add_argument("env", help="CartPole-v1, or <Game>NoFrameskip-v4")
    parser.add_argument("--steps", type=int, default=20_000, help="agent steps of each stage")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of the evaluation")
    parser.add_argument("--out", type=Path, default=Path("T1.safetensors"))
    arguments = parser.parse_args()

    agent = snn_rl.iir(arguments.agent, arguments.env, T=1, steps=arguments.steps)
    agent.evaluate(episodes=arguments.episodes)
    agent.save(arguments.out)
    print(f"saved to {arguments.out}")


if __name__ == "__main__":
    main()
