"""Conversion and retraining of a DQN in Python.

    agent = snn_rl.iir("dqn_pong.zip", "PongNoFrameskip-v4", T=1)
    agent.evaluate(episodes=20)

The command `python -m snn_rl.train env=... ann=...` runs a similar chain with the settings of the
environment's preset. It also resumes interrupted runs, selects the best checkpoint, and writes a
report.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from tqdm import trange

from snn_rl.agents.callbacks import Episodes, Progress
from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.loading import Agent
from snn_rl.agents.objectives import DISTILL
from snn_rl.agents.policies import SpikingDQNPolicy, network_kwargs
from snn_rl.chain.stages import ANN
from snn_rl.core import conversion
from snn_rl.core.conversion import ThresholdSearch
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork, SpikingOptions
from snn_rl.envs import make_env
from snn_rl.files.importing import load_any
from snn_rl.utils.errors import UserError

_DEFAULT_SEARCH = ThresholdSearch()


def cosine(start: float) -> Schedule:
    """Returns a learning-rate schedule with cosine decay from `start` to 0."""
    return lambda remaining: start * (1 - math.cos(math.pi * remaining)) / 2


def trapezoid(peak: float, rise: float, fall: float) -> Schedule:
    """Returns a learning-rate schedule that rises from 0, stays constant, and falls to 0.

    Args:
        peak: Highest learning rate.
        rise: Share of the training after which the learning rate has risen, above 0.
        fall: Share of the training, at its end, in which the learning rate falls, above 0.
    """
    return lambda remaining: peak * min((1 - remaining) / rise, 1.0, remaining / fall)


@torch.no_grad()
def observe(
    network: AnalogNetwork,
    env: VecEnv,
    count: int = 256,
    steps: int = 1_000,
    epsilon: float = 0.05,
    seed: int = 0,
) -> Tensor:
    """Returns a uniform sample of the inputs that a network receives while acting.

    Args:
        network: Network that acts epsilon-greedily.
        env: Vectorized environment whose observations have as many channels as the network's input.
        count: Number of inputs.
        steps: Number of steps of the vectorized environment.
        epsilon: Probability of a random action.
        seed: Seed of the random actions and the sample.

    Returns:
        Inputs [count, channels, height, width], float in [0, 1], on the network's device.
    """
    rng = np.random.default_rng(seed)
    device = network.head.weight.device
    kept = np.sort(rng.integers(steps * env.num_envs, size=count))
    chosen = []
    obs = np.asarray(env.reset())
    for step in trange(steps, desc="observations", unit="step", dynamic_ncols=True):
        first, last = np.searchsorted(kept, [step * env.num_envs, (step + 1) * env.num_envs])
        chosen.append(obs[kept[first:last] - step * env.num_envs])
        seen = network.images(torch.as_tensor(obs, device=device))
        actions = network(seen).argmax(1).cpu().numpy()
        explores = rng.random(env.num_envs) < epsilon
        actions[explores] = rng.integers(network.spec.outputs, size=explores.sum())
        obs = np.asarray(env.step(actions)[0])
    return network.images(torch.as_tensor(np.concatenate(chosen), device=device))


def convert(
    source: AnalogNetwork | DQN | str | Path,
    env: str | VecEnv,
    T: int,
    search: ThresholdSearch = _DEFAULT_SEARCH,
    **options: Any,
) -> Agent:
    """Converts a DQN into a spiking agent with T timesteps, without retraining.

    Args:
        source: Analog network, Stable-Baselines3 DQN with CnnPolicy, or file supported by `load`.
        env: Environment id, or vectorized environment with image observations.
            Observations from this environment determine the thresholds.
        T: Number of timesteps.
        search: Options of the threshold search.
        **options: Other fields of `SpikingOptions`: surrogate, encoding.

    Raises:
        UserError: The source cannot be read, or is not an analog network.
        ConversionError: The network cannot be converted.
    """
    teacher = _analog(source)
    images = observe(teacher, _environment(env, teacher))
    student = conversion.convert(teacher, images, SpikingOptions(T, **options), search)
    return Agent.of_network(student, env if isinstance(env, str) else None)


def iir(
    source: AnalogNetwork | DQN | str | Path,
    env: str | VecEnv,
    T: int = 1,
    T_start: int = 2,
    steps: int = 20_000,
    teacher_steps: int = 10_000,
    surrogate: str = "linear",
    **settings: Any,
) -> Agent:
    """Converts a DQN and retrains it stage by stage with fewer timesteps.

    In each stage, the spiking network acts and learns the advantages of the analog network in the
    visited states ([IIR], algorithm 1, with distillation instead of Q-learning).

    Args:
        source: See `convert`.
        env: See `convert`.
        T: Number of timesteps of the last stage.
        T_start: Number of timesteps of the first stage.
        steps: Agent steps of each stage.
        teacher_steps: Agent steps taken by the analog network to fill the replay buffer.
        surrogate: Surrogate gradient, see `SpikingOptions`.
        **settings: Arguments of `SpikingDQN` that override the defaults of this function.

    Returns:
        Agent of the last stage.

    Raises:
        ValueError: T is not between 1 and T_start.
        UserError: See `convert`.
        ConversionError: See `convert`.
    """
    if not 1 <= T <= T_start:
        raise ValueError(f"T={T} must be between 1 and T_start={T_start}")
    teacher = _analog(source)
    venv = _environment(env, teacher)
    student = convert(teacher, venv, T_start, surrogate=surrogate).network
    policy_kwargs = {**network_kwargs(teacher), "surrogate": surrogate}
    settings = {
        "learning_rate": cosine(5e-4),
        "batch_size": 128,
        "learning_starts": 0,
        "train_freq": 1,
        "exploration_initial_eps": 0.02,
        "exploration_final_eps": 0.02,
        "buffer_size": 50_000,
        **settings,
    }

    network: AnalogNetwork | SpikingNetwork = teacher
    buffer = None
    for timesteps in (None, *range(T_start, T - 1, -1)):
        stage = ANN if timesteps is None else f"T{timesteps}"
        length = teacher_steps if timesteps is None else steps
        model = SpikingDQN(
            SpikingDQNPolicy,
            venv,
            objective=DISTILL,
            teacher=teacher,
            policy_kwargs={**policy_kwargs, "timesteps": timesteps},
            **settings,
        )
        if timesteps is None:
            model.gradient_steps = 0
        model.load_network(network)
        model.replay_buffer = buffer or model.replay_buffer
        episodes: list[list[float]] = []
        progress = Progress(stage, length, episodes)
        model.learn(length, callback=CallbackList([Episodes(episodes), progress]))
        progress.close()
        network = student if timesteps is None else model.network
        buffer = model.replay_buffer
    return Agent.of_network(network, env if isinstance(env, str) else None)


def _analog(source: AnalogNetwork | DQN | str | Path) -> AnalogNetwork:
    """Returns the analog network of a DQN or a file."""
    if isinstance(source, SpikingDQN):
        network: Any = source.network
    elif isinstance(source, DQN):
        # `load_any` checks preprocessing, layers, and activation functions.
        with tempfile.TemporaryDirectory() as folder:
            source.save(Path(folder, "dqn.zip"))
            network = load_any(Path(folder, "dqn.zip"))
    else:
        network = load_any(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(network, AnalogNetwork):
        raise UserError(f"expected an analog network, got {type(network).__name__}")
    return network


def _environment(env: str | VecEnv, network: AnalogNetwork) -> VecEnv:
    if isinstance(env, str):
        return make_env(env, n_envs=8, frame_stack=network.spec.input_shape[0])
    return env
