"""`FrameReplayBuffer`, compared sample by sample with Stable-Baselines3's buffers."""

import copy
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from snn_rl.agents import FrameReplayBuffer, SpikingDQN
from snn_rl.envs import make_env

FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
HEIGHT, WIDTH = 3, 2


class Stream:
    """Random transitions with the frame stacks of a vectorized environment.

    Pixels have two values only, so frames repeat by chance and zero frames occur. A stack is padded
    with zero frames at the start of an episode, as by VecFrameStack. Some observations jump: they
    share no frame with the previous observation.
    """

    def __init__(self, rng: np.random.Generator, envs: int, channels: int, jumps: float = 0.05):
        self.rng, self.envs, self.channels, self.jumps = rng, envs, channels, jumps
        self.obs = self.first()

    def frames(self, *shape: int) -> NDArray[np.uint8]:
        return self.rng.integers(2, size=(*shape, HEIGHT, WIDTH), dtype=np.uint8)

    def first(self) -> NDArray[np.uint8]:
        obs = np.zeros((self.envs, self.channels, HEIGHT, WIDTH), np.uint8)
        obs[:, -1] = self.frames(self.envs)
        return obs

    def jump(self, obs: NDArray[np.uint8]) -> NDArray[np.uint8]:
        jumps = self.rng.random(self.envs) < self.jumps
        return np.where(jumps[:, None, None, None], self.frames(self.envs, self.channels), obs)

    def step(self) -> tuple[Any, ...]:
        """Returns the arguments of `ReplayBuffer.add`."""
        rng, envs = self.rng, self.envs
        newest = self.frames(envs, 1)
        following = self.jump(np.concatenate([self.obs[:, 1:], newest], axis=1))
        done = rng.random(envs) < 0.2
        timeout = done & (rng.random(envs) < 0.4)
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in timeout]
        row = (self.obs, following, rng.integers(6, size=envs), rng.normal(size=envs), done, infos)
        after = np.where(done[:, None, None, None], self.first(), following)
        self.obs = self.jump(after)
        return row


def box(channels: int) -> spaces.Box:
    return spaces.Box(0, 255, (channels, HEIGHT, WIDTH), np.uint8)


def pair(size: int, envs: int, channels: int, n_steps: int) -> tuple[Any, ReplayBuffer]:
    """Returns our buffer and Stable-Baselines3's."""
    arguments = (size, box(channels), spaces.Discrete(6))
    n_step = {"n_steps": n_steps, "gamma": 0.9}
    ours = FrameReplayBuffer(*arguments, device="cpu", n_envs=envs, **n_step)
    if n_steps == 1:
        return ours, ReplayBuffer(*arguments, device="cpu", n_envs=envs)
    return ours, NStepReplayBuffer(*arguments, device="cpu", n_envs=envs, **n_step)


def assert_same(ours: ReplayBuffer, theirs: ReplayBuffer, seed: int) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
    samples = []
    for buffer in (ours, theirs):
        np.random.seed(seed)
        samples.append(buffer.sample(50))
    for mine, other in zip(*samples, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert mine.dtype == other.dtype
            assert torch.equal(mine, other)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    envs=st.integers(1, 3),
    channels=st.integers(1, 4),
    n_steps=st.integers(1, 5),
    size=st.integers(1, 40),
    rows=st.integers(1, 90),
    jumps=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_samples_equal_stable_baselines3_s(
    seed: int, envs: int, channels: int, n_steps: int, size: int, rows: int, jumps: float
) -> None:
    stream = Stream(np.random.default_rng(seed), envs, channels, jumps)
    ours, theirs = pair(size, envs, channels, n_steps)
    for row in range(rows):
        step = stream.step()
        ours.add(*step)
        theirs.add(*step)
        if row in (0, rows // 2):
            assert_same(ours, theirs, seed % 1000)
    assert_same(ours, theirs, seed % 1000)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), envs=st.integers(1, 3), jumps=st.sampled_from([0.0, 0.3]))
def test_frame_is_freed_with_its_last_row(seed: int, envs: int, jumps: float) -> None:
    stream = Stream(np.random.default_rng(seed), envs, 3, jumps)
    buffer = FrameReplayBuffer(8 * envs, box(3), spaces.Discrete(6), device="cpu", n_envs=envs)
    store = buffer.store
    for _ in range(40):
        buffer.add(*stream.step())
        needed = set(np.unique(store.slots[:, : buffer.size()]).tolist()) - {0}
        taken = set(range(1, store._unused)) - set(store._freed)
        assert needed == taken
        assert len(store._freed) == len(set(store._freed))


def test_memory_does_not_grow_once_the_buffer_is_full() -> None:
    stream = Stream(np.random.default_rng(0), 2, 4, jumps=0.3)
    buffer = FrameReplayBuffer(100, box(4), spaces.Discrete(6), device="cpu", n_envs=2)
    for _ in range(300):
        buffer.add(*stream.step())
    before = buffer.nbytes
    for _ in range(3_000):
        buffer.add(*stream.step())
    assert buffer.nbytes < 1.2 * before


@pytest.mark.parametrize("env_id", ["PongNoFrameskip-v4", "CartPole-v1"])
@pytest.mark.parametrize("frames", ["stack", "difference"])
def test_each_channel_needs_at_most_one_new_frame_per_step(env_id: str, frames: str) -> None:
    env = make_env(env_id, n_envs=2, frame_stack=4, frames=frames, cap=50)
    arguments = (120, env.observation_space, env.action_space)
    ours = FrameReplayBuffer(*arguments, device="cpu", n_envs=2)
    theirs = ReplayBuffer(*arguments, device="cpu", n_envs=2)
    obs, starts = env.reset(), 2
    rng = np.random.default_rng(0)
    for _ in range(140):
        actions = rng.integers(env.action_space.n, size=2)  # type: ignore[attr-defined]
        new, rewards, dones, infos = env.step(actions)
        following = np.array(new)
        for i in np.flatnonzero(dones):
            following[i] = infos[i]["terminal_observation"]
        for buffer in (ours, theirs):
            buffer.add(np.asarray(obs), following, actions, rewards, dones, infos)
        obs = new
        starts += int(dones.sum())
    env.close()
    assert starts > 4
    assert_same(ours, theirs, 0)
    channels = 1 if frames == "stack" else 2  # a difference changes at every step
    assert ours.store._unused <= 1 + channels * (120 + starts) + 4 * 2


def test_100_000_atari_transitions_take_less_than_0_8_gb() -> None:
    env = make_env("PongNoFrameskip-v4", n_envs=8)
    assert isinstance(env, VecTransposeImage) and isinstance(env.venv, VecFrameStack)
    buffer = FrameReplayBuffer(100_000, env.observation_space, env.action_space, n_envs=8)
    assert buffer.nbytes < 0.8e9
    env.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_unused_slots_take_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = FrameReplayBuffer(1_000_000, space, spaces.Discrete(6), device="cpu", n_envs=8)
    assert buffer.nbytes > 7e9
    assert resident() - before < 0.2e9


def test_copy_is_independent() -> None:
    stream = Stream(np.random.default_rng(0), 2, 3)
    buffer, _ = pair(20, 2, 3, n_steps=1)
    for _ in range(7):
        buffer.add(*stream.step())
    twin, before = copy.deepcopy(buffer), buffer.observations[:]
    for _ in range(20):
        twin.add(*stream.step())
    np.testing.assert_array_equal(buffer.observations[:], before)
    sample = buffer.sample(5).observations
    sample.fill_(9)
    np.testing.assert_array_equal(buffer.observations[:], before)


def test_agent_uses_it_unless_given_another_class() -> None:
    env = make_env("CartPole-v1", frame_stack=2)
    arguments: dict[str, Any] = {"policy_kwargs": {"network": "cartpole"}, "buffer_size": 50}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = SpikingDQN("SpikingDQNPolicy", env, n_steps=3, gamma=0.5, **arguments)
    assert isinstance(agent.replay_buffer, FrameReplayBuffer)
    assert (agent.replay_buffer.n_steps, agent.replay_buffer.gamma) == (3, 0.5)
    other = SpikingDQN("SpikingDQNPolicy", env, replay_buffer_class=ReplayBuffer, **arguments)
    assert type(other.replay_buffer) is ReplayBuffer
    env.close()


def test_unsupported_arguments_raise_errors() -> None:
    with pytest.raises(ValueError, match="requires stacks of frames"):
        FrameReplayBuffer(10, spaces.Box(0, 1, (4,)), spaces.Discrete(2))
    with pytest.raises(ValueError, match="requires stacks of frames"):
        FrameReplayBuffer(10, spaces.Discrete(4), spaces.Discrete(2))
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        FrameReplayBuffer(10, box(2), spaces.Discrete(2), optimize_memory_usage=True)
