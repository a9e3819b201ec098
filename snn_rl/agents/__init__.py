"""Spiking DQN agents based on Stable-Baselines3."""

from snn_rl.agents.carried import CarriedDQN
from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.episodes import evaluate
from snn_rl.agents.policies import SpikingDQNPolicy, SpikingQNetwork
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.retraining import convert, iir, observe
from snn_rl.chain.records import Evaluation

__all__ = [
    "CarriedDQN",
    "Evaluation",
    "FrameReplayBuffer",
    "SpikingDQN",
    "SpikingDQNPolicy",
    "SpikingQNetwork",
    "convert",
    "evaluate",
    "iir",
    "observe",
]
