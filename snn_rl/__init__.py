"""Spiking deep Q-networks that decide in one timestep.

Trained agents are loaded by the id of their environment if they ship with the package, and from
run directories and files otherwise:

    import snn_rl

    agent = snn_rl.load("PongNoFrameskip-v4", T=1)
    agent.evaluate(episodes=20)               # prints mean ± std of the returns
    actions, state = agent.predict(images)    # images [N, 4, 84, 84], uint8

A Stable-Baselines3 DQN becomes a spiking agent by conversion and retraining:

    dqn = stable_baselines3.DQN.load("dqn_pong")
    agent = snn_rl.iir(dqn, "PongNoFrameskip-v4", T=1)
    agent.save("pong_T1.safetensors")

`SpikingDQN` is Stable-Baselines3's DQN with an analog or spiking Q-network:

    env = snn_rl.make_env("CartPole-v1", n_envs=8, frame_stack=3)
    network = {"network": "cartpole", "timesteps": 1}
    model = snn_rl.SpikingDQN("SpikingCnnPolicy", env, policy_kwargs=network)
    model.learn(10_000)

The functions `register_...` add surrogate gradients, networks, environment families, and export
formats from user modules. The command `snn-rl` lists the commands: train, evaluate, play, ...

The packages from the lowest to the highest layer:

    envs      environments with image observations
    configs   settings, presets, and the command line
    core      LIF neurons, networks, conversion, energy (torch only)
    files     checkpoints and imported networks, read without pickles
    chain     stages of a run and the records in the run directory
    event     event-driven engine without torch
    formats   ONNX, NIR, torch.export, and event files
    agents    SpikingDQN, its training, evaluation, and loading
    images    the same chain for image classification
    reports   reports, figures, videos, and model cards
    papers    figures and tables of the papers
    zoo       trained agents that ship with the package
"""

import importlib
import os
from typing import Any

from snn_rl.utils.console import end_quietly_on_interrupt, starts_own_module

__version__ = "0.1.0"

# OpenMP reads this when PyTorch is imported. By default, a thread that waits for another one keeps
# its core busy, which slows training down on a machine that other processes use, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if starts_own_module():
    end_quietly_on_interrupt()

# Public names and their modules, which are imported on first use
_EXPORTS = {
    "Agent": "agents.loading",
    "SpikingDQN": "agents.dqn",
    "convert": "agents.retraining",
    "iir": "agents.retraining",
    "load": "agents.loading",
    "make_env": "envs",
    "register_env_family": "envs",
    "register_format": "formats",
    "register_image_network": "core.networks",
    "register_network": "core.networks",
    "register_surrogate": "core.surrogate",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
