"""Distillation of a privileged teacher: labels in the replay buffer, guided steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from snn_rl.agents.objectives import distill_loss
from snn_rl.agents.policies import SpikingDQNPolicy
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.replay.journal import load_buffer, save_buffer
from snn_rl.agents.state_policy import StateNetwork, StateQNetwork, StateScale
from snn_rl.agents.taught import LabeledReplayBuffer, TaughtDQN
from snn_rl.envs.state import make_state_env, make_taught_env
from snn_rl.utils.errors import DamagedFile, UserError

COLUMNS = np.array([0, 2, 3])
ENVS = 3


class Recorder(VecEnvWrapper):
    """Environments that record the teacher's observations and the actions."""

    def __init__(self, venv: VecEnv):
        super().__init__(venv)
        self.seen: list[NDArray[Any]] = []
        self.taken: list[NDArray[Any]] = []

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        self.seen.append(np.array(self.venv.states))  # type: ignore[attr-defined]
        self.taken.append(np.array(actions))
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def teacher() -> StateQNetwork:
    torch.manual_seed(2)
    env = make_state_env("CartPole-v1", columns=COLUMNS)
    numbers = (np.full(3, each, np.float32) for each in (0, 0.05, 0.05))
    scale = StateScale(COLUMNS, *numbers, compared=np.arange(0))
    return StateQNetwork(env.observation_space, env.action_space, StateNetwork(scale, 4, 2, [8], 3))  # type: ignore[arg-type]


def agent(**settings: Any) -> tuple[TaughtDQN, Recorder]:
    torch.manual_seed(0)
    env = Recorder(make_taught_env("CartPole-v1", COLUMNS, 4, n_envs=ENVS, cap=12))
    defaults = {"learning_starts": 0, "buffer_size": 90, "batch_size": 8, "device": "cpu"}
    model = TaughtDQN(
        SpikingDQNPolicy,
        env,
        privileged=teacher(),
        policy_kwargs={"network": "4c5s4"},
        **{"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0, **defaults, **settings},
    )
    return model, env


def filled() -> tuple[LabeledReplayBuffer, list[NDArray[Any]]]:
    """Returns a full buffer of 30 rows and the Q-values of the teacher in all 40 steps."""
    model, env = agent()
    model.learn(40 * ENVS)
    assert isinstance(model.replay_buffer, LabeledReplayBuffer)
    labels = [teacher()(torch.as_tensor(seen)).detach().numpy() for seen in env.seen]
    assert len(labels) == 40
    return model.replay_buffer, labels


def test_labels_are_the_q_values_of_the_states_before_the_actions() -> None:
    buffer, labels = filled()
    assert (buffer.full, buffer.pos) == (True, 10)
    assert np.asarray(buffer.dones).any()
    for step in range(10, 40):
        np.testing.assert_allclose(buffer.labels[step % 30], labels[step], rtol=1e-5)
    batch = buffer.sample(500)
    stored = {
        buffer.observations[row][env].tobytes(): buffer.labels[row, env]
        for row in range(30)
        for env in range(ENVS)
    }
    for obs, label in zip(batch.observations, batch.labels, strict=True):
        # Pictures of different states may be equal.
        np.testing.assert_allclose(label, stored[obs.numpy().tobytes()], atol=0.05)


def test_observations_are_sampled_by_the_advantages_of_their_labels() -> None:
    buffer, _ = filled()

    def label(row: int, *values: tuple[float, float]) -> None:
        buffer.pos = row
        buffer.label(np.array(values, np.float32))

    for row in range(30):
        label(row, *[(0.0, 0.0)] * ENVS)
    label(3, (0.0, 0.0), (-4.0, 4.0), (0.0, 0.0))
    label(7, (0.0, 0.0), (0.0, 0.0), (2.0, 6.0))  # mean absolute advantage 2
    others = 88 * 0.25 * 6 / 90
    total = 6 + 90 * 0.25 * 6 / 90
    labels = buffer.sample(20_000).labels.numpy()
    for value, weight in ((4.0, 4), (6.0, 2), (0.0, None)):
        share = (labels[:, 1] == value).mean()
        expected = others / total if weight is None else (weight + 0.25 * 6 / 90) / total
        assert share == pytest.approx(expected, abs=0.02)
    for row in range(30):  # no action matters
        label(row, *[(1.0, 1.0)] * ENVS)
    assert len({obs.numpy().tobytes() for obs in buffer.sample(500).observations}) > 60


def test_observations_with_large_losses_are_sampled_more_often() -> None:
    buffer, _ = filled()
    for row in range(30):  # no action matters, so only the losses do
        buffer.pos = row
        buffer.label(np.zeros((ENVS, 2), np.float32))
    buffer.weigh(np.array([5, 80]), np.array([0.0, 8.0], np.float32))
    # relative to the mean of 4, plus 0.2
    weights = np.ones(90)
    weights[[5, 80]] = 0.2, 2.2
    sampled = buffer.sample(40_000).indices
    shares = np.bincount(sampled, minlength=90) / 40_000
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.003)
    buffer.weigh(np.array([7, 8]), np.array([1e-6, 1e6], np.float32))
    assert buffer.losses.reshape(-1)[8] == pytest.approx(2.2)
    buffer.weigh(np.arange(50), np.array([1e6] + [0.0] * 49, np.float32))
    assert buffer.losses.reshape(-1)[0] == 20
    buffer.pos = 0
    buffer.label(np.zeros((ENVS, 2), np.float32))  # a new row
    assert list(buffer.losses[0]) == [1] * ENVS


def test_training_weighs_the_sampled_observations_and_keeps_the_weights() -> None:
    model, _ = agent()
    model.learn(20 * ENVS)
    buffer = model.replay_buffer
    assert isinstance(buffer, LabeledReplayBuffer)
    changed = buffer.losses[:20] != 1
    assert changed.any() and (buffer.losses[20:] == 1).all()
    other, _ = agent()
    assert isinstance(other.replay_buffer, LabeledReplayBuffer)
    other.load_tensors(model.tensors())
    np.testing.assert_array_equal(other.replay_buffer.losses, buffer.losses)
    tensors = {name: tensor for name, tensor in model.tensors().items() if "losses" not in name}
    with pytest.raises(DamagedFile, match="no weights of the losses"):
        other.load_tensors(tensors)


def test_the_journal_keeps_the_labels(tmp_path: Path) -> None:
    buffer, _ = filled()
    path = tmp_path / "chunk.npz"
    save_buffer(path, buffer)
    arguments: Any = (90, buffer.observation_space, buffer.action_space, "cpu", ENVS)
    restored, plain = LabeledReplayBuffer(*arguments), FrameReplayBuffer(*arguments)
    for each in (restored, plain):  # a later stage needs no labels
        load_buffer(path, each)
        np.testing.assert_array_equal(each.actions, buffer.actions)
    np.testing.assert_array_equal(restored.labels, buffer.labels)
    save_buffer(path, plain)
    with pytest.raises(UserError, match="expected labels of type float32"):
        load_buffer(path, LabeledReplayBuffer(*arguments))


def test_the_loss_compares_the_network_with_the_labels() -> None:
    model, _ = agent()
    model.learn(10 * ENVS)
    assert isinstance(model.replay_buffer, LabeledReplayBuffer)
    batch = model.replay_buffer.sample(16)
    expected = distill_loss(model.q_net(batch.observations), batch.labels, model.sharpness)
    torch.testing.assert_close(model._loss(batch), expected)


def test_the_first_filters_ignore_the_brightness_of_the_image() -> None:
    model, _ = agent()
    model.learn(10 * ENVS)
    conv = model.network.synapses[0]
    uniform, image = torch.full((1, 4, 84, 84), 0.7), torch.rand(1, 4, 84, 84)
    assert conv(image).abs().mean() > 0.1
    torch.testing.assert_close(conv(uniform), torch.zeros_like(conv(uniform)), atol=1e-5, rtol=0)


def test_the_teacher_acts_first_and_hands_over_to_the_student() -> None:
    steps = 120
    model, env = agent(guided_steps=steps * ENVS, gradient_steps=0)
    recorded: list[NDArray[Any]] = []
    predict = model.predict

    def record(obs: Any, *rest: Any, **options: Any) -> Any:
        recorded.append(predict(obs, deterministic=True)[0])
        return predict(obs, *rest, **options)

    model.predict = record  # type: ignore[method-assign]
    model.learn(2 * steps * ENVS)
    taken = np.stack(env.taken)
    chosen = np.stack([teacher()(torch.as_tensor(each)).argmax(1).numpy() for each in env.seen])
    own = np.stack(recorded)
    assert (chosen != own).mean() > 0.2, "the teacher and the student differ"
    np.testing.assert_array_equal(taken[0], chosen[0])
    np.testing.assert_array_equal(taken[steps:], own[steps:])
    differ = chosen[:steps] != own[:steps]
    followed = (taken[:steps] == chosen[:steps]) & differ
    first, last = slice(0, steps // 4), slice(3 * steps // 4, steps)
    assert followed[first].sum() > 0.7 * differ[first].sum()
    assert followed[last].sum() < 0.3 * differ[last].sum()
