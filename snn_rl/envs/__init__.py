"""Environments with image observations: Atari, CartPole and families of the user's own."""

from snn_rl.envs.atari import ATARI, ATARI_IDS
from snn_rl.envs.cartpole import CARTPOLE
from snn_rl.envs.families import EnvFamily, EnvOptions, UnknownEnv, family, register_env_family
from snn_rl.envs.make import FRAMES, STACK, make_env

__all__ = [
    "ATARI",
    "ATARI_IDS",
    "CARTPOLE",
    "FRAMES",
    "STACK",
    "EnvFamily",
    "EnvOptions",
    "UnknownEnv",
    "family",
    "make_env",
    "register_env_family",
]
