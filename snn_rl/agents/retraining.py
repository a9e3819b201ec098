"""The chain for those who hold a network and an environment: `observe`, convert, `iir`.

    teacher = load_any(Path("dqn_pong.zip"))               # snn_rl.files.importing
    student = convert(teacher, observe(teacher, env), SpikingOptions(5))   # snn_rl.core
    agent = iir(student, teacher, env)                     # decides in one timestep

The command (`python -m snn_rl.train ann=...`) does the same and more: it survives interruption,
chooses among checkpoints, evaluates and reports.
"""

import math
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.objectives import DISTILL
from snn_rl.agents.policies import SpikingDQNPolicy, network_kwargs
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork


def cosine(start: float) -> Schedule:
    """Half a cosine from start to 0, over the remaining progress from 1 to 0."""
    return lambda remaining: start * (1 - math.cos(math.pi * remaining)) / 2


@torch.no_grad()
def observe(
    network: AnalogNetwork,
    env: VecEnv,
    count: int = 256,
    steps: int = 1_000,
    epsilon: float = 0.05,
    seed: int = 0,
) -> Tensor:
    """Images that a network sees when it plays, drawn evenly: what `convert` takes.

    Args:
        network: It plays greedily but for random actions.
        env: uint8 images, channels first, as many channels as the network takes.
        count: Images.
        steps: Of the vectorized environment.
        epsilon: Probability of a random action.
        seed: Of the random actions and of the draw.

    Returns:
        [count, channels, height, width], float in [0, 1].
    """
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.integers(steps * env.num_envs, size=count))
    chosen = []
    obs = np.asarray(env.reset())
    for step in range(steps):
        first, last = np.searchsorted(kept, [step * env.num_envs, (step + 1) * env.num_envs])
        chosen.append(obs[kept[first:last] - step * env.num_envs])
        actions = network(network.images(torch.as_tensor(obs))).argmax(1).numpy()
        strays = rng.random(env.num_envs) < epsilon
        actions[strays] = rng.integers(network.spec.outputs, size=strays.sum())
        obs = np.asarray(env.step(actions)[0])
    return network.images(torch.as_tensor(np.concatenate(chosen)))


def iir(
    student: SpikingNetwork,
    teacher: AnalogNetwork,
    env: VecEnv,
    T: int = 1,
    steps: int = 20_000,
    lr: float = 5e-4,
    batch_size: int = 128,
    states: int = 10_000,
    epsilon: float = 0.02,
    buffer_size: int = 50_000,
    **settings: Any,
) -> SpikingDQN:
    """Retrains a converted network stage by stage with fewer timesteps, taught by its ANN.

    In every stage the spiking network plays, and learns the teacher's advantages in what it sees
    ([IIR] algorithm 1, with distillation in place of Q-learning).

    Args:
        student: From `convert`, with the timesteps of the first stage; it is left as it is.
        teacher: The network that it was converted from.
        env: uint8 images, channels first.
        T: Timesteps of the last stage.
        steps: Agent steps of each stage.
        lr: Learning rate; it falls to 0 in each stage, as a cosine does.
        batch_size: Of an update; there is one per step of the vectorized environment.
        states: Agent steps that the teacher plays first, to fill the replay buffer.
        epsilon: Probability of a random action.
        buffer_size: Of the replay buffer, which the stages hand on.
        **settings: More arguments of `SpikingDQN`.

    Returns:
        The last stage's agent; its network is `agent.network`.

    Raises:
        ValueError: T is not between 1 and the student's timesteps.
        UserError: A network does not fit the environment.
    """
    if not 1 <= T <= student.timesteps:
        raise ValueError(f"T={T} must be between 1 and the student's {student.timesteps}")
    source: AnalogNetwork | SpikingNetwork = teacher
    buffer = None
    for timesteps in (None, *range(student.timesteps, T - 1, -1)):
        agent = SpikingDQN(
            SpikingDQNPolicy,
            env,
            learning_rate=cosine(lr),
            objective=DISTILL,
            teacher=teacher,
            batch_size=batch_size,
            learning_starts=0,
            train_freq=1,
            gradient_steps=0 if timesteps is None else 1,
            exploration_initial_eps=epsilon,
            exploration_final_eps=epsilon,
            buffer_size=buffer_size,
            policy_kwargs={
                **network_kwargs(teacher),
                "frames": None,
                "timesteps": timesteps,
                "surrogate": student.options.surrogate,
                "encoding": student.options.encoding,
            },
            **settings,
        )
        agent.load_network(source)
        agent.replay_buffer = buffer or agent.replay_buffer
        agent.learn(states if timesteps is None else steps)
        source, buffer = student if timesteps is None else agent.network, agent.replay_buffer
    return agent
