"""Pixel environments: Atari through Stable-Baselines3's wrappers, and CartPole drawn as pixels."""

from snn_rl.envs.make import ATARI, CARTPOLE, FRAMES, STACK, UnknownEnv, atari_ids, family, make_env

__all__ = ["ATARI", "CARTPOLE", "FRAMES", "STACK", "UnknownEnv", "atari_ids", "family", "make_env"]
