"""Q-learning of the privileged teacher: horizon, averaged network, exploration."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents.objectives import quantile_huber_loss
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.state_dqn import Horizon, StateDQN
from snn_rl.agents.state_policy import StateDQNPolicy, StateQNetwork, StateScale
from snn_rl.envs.state import make_state_env

SCALE = StateScale(np.arange(4), *(np.float32([each] * 4) for each in (0, 1, 1)), np.arange(0))


def make_env(n_envs: int = 4, seed: int = 0) -> VecEnv:
    return make_state_env("CartPole-v1", n_envs, seed)


def agent(**settings: Any) -> StateDQN:
    torch.manual_seed(0)
    return StateDQN(
        StateDQNPolicy,
        make_env(),
        **{
            "policy_kwargs": {"scale": SCALE, "hidden": (16,), "quantiles": 4},
            "learning_starts": 20,
            "train_freq": 1,
            "buffer_size": 400,
            "batch_size": 8,
            "device": "cpu",
            **settings,
        },
    )


def test_horizon_goes_geometrically_from_its_first_to_its_last_value() -> None:
    horizon = Horizon(100, (8, 2), (0.9, 0.99))
    for updates, n_steps, gamma in ((0, 8, 0.9), (50, 4, 1 - 0.1**1.5), (100, 2, 0.99)):
        assert horizon.after(updates) == (n_steps, pytest.approx(gamma))
    assert horizon.after(10**9) == horizon.after(100)


def test_returns_of_a_batch_have_the_horizon_of_the_update() -> None:
    model = agent(horizon=Horizon(10, (5, 2), (0.5, 0.9)))
    model.learn(400)
    buffer = model.replay_buffer
    assert isinstance(buffer, FrameReplayBuffer)
    assert (buffer.n_steps, buffer.gamma) == (2, pytest.approx(0.9))
    for n_steps, gamma in ((5, 0.5), (2, 0.9)):
        buffer.n_steps, buffer.gamma = n_steps, gamma
        rows = np.arange(buffer.size() - n_steps)
        np.random.seed(0)
        sample = buffer._get_samples(rows)
        np.random.seed(0)
        envs = np.random.randint(0, 4, size=rows.shape)
        for i, (row, env) in enumerate(zip(rows, envs, strict=True)):
            total, discount = 0.0, 1.0
            for later in range(row, row + n_steps):
                total += discount * buffer.rewards[later, env]
                discount *= gamma
                if buffer.dones[later, env]:
                    break
            ended = buffer.dones[later, env] and not buffer.timeouts[later, env]
            assert sample.discounts is not None
            assert float(sample.rewards[i]) == pytest.approx(total)
            assert float(sample.discounts[i]) == pytest.approx(discount)
            assert bool(sample.dones[i]) == bool(ended)
            expected = buffer.next_observations[later, env]
            np.testing.assert_array_equal(sample.next_observations[i].numpy(), expected)


def test_an_update_follows_the_gradient_of_the_loss_and_moves_the_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = agent(tau=(0.5, 0.125))
    model.learn(40)
    model._current_progress_remaining = 0.5  # the geometric mean of both shares is 0.25
    model.policy.optimizer = torch.optim.SGD(model.q_net.parameters(), 0.1)
    model.lr_schedule = lambda remaining: 0.1
    buffer = model.replay_buffer
    assert isinstance(buffer, FrameReplayBuffer)
    buffer.n_steps, buffer.gamma = model.horizon.after(model._n_updates)
    batch = buffer.sample(8)
    monkeypatch.setattr(buffer, "sample", lambda size: batch)
    with torch.no_grad():
        following = model.q_net_target.network(batch.next_observations)
        chosen = following.mean(2).argmax(1)
        targets = torch.stack([each[a] for each, a in zip(following, chosen, strict=True)])
        assert batch.discounts is not None
        targets = batch.rewards + (1 - batch.dones) * batch.discounts * targets
    values = model.q_net.network(batch.observations)
    taken = torch.stack([each[int(a)] for each, a in zip(values, batch.actions, strict=True)])
    gradients = torch.autograd.grad(
        quantile_huber_loss(taken, targets), list(model.q_net.parameters())
    )
    before = [p.detach().clone() for p in model.q_net.parameters()]
    averaged = [p.detach().clone() for p in model.q_net_target.parameters()]
    model.train(1, 8)
    now = zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True)
    for (weights, average), old, mean, gradient in zip(
        now, before, averaged, gradients, strict=True
    ):
        torch.testing.assert_close(weights.data, old - 0.1 * gradient)
        torch.testing.assert_close(average.data, 0.75 * mean + 0.25 * weights.data)


def test_the_averaged_network_acts_and_each_environment_explores_by_itself() -> None:
    model = agent()
    with torch.no_grad():
        for name, bias in (("q_net", 1.0), ("q_net_target", -1.0)):
            head = getattr(model, name).network.layers[-1]
            head.weight.zero_()
            head.bias.copy_(torch.tensor([bias] * 4 + [0.0] * 4))
    obs = np.array(make_env(200).reset())
    actions, _ = model.predict(obs, deterministic=True)
    assert (actions == 1).all()
    np.random.seed(0)
    model.exploration_rate = 0.5
    actions, _ = model.predict(obs)
    assert 30 < (actions == 0).sum() < 70
    assert model.evaluated is model.q_net_target


def test_it_learns_to_balance_the_pole(
    pole_scale: StateScale, count_falls: Callable[[StateQNetwork], int]
) -> None:
    np.random.seed(0)
    model = agent(
        policy_kwargs={"scale": pole_scale, "hidden": (64, 64), "quantiles": 8},
        batch_size=64,
        buffer_size=20_000,
        learning_starts=500,
        exploration_fraction=0.1,
        horizon=Horizon(1, (1, 1), (0.95, 0.95)),
        tau=(0.02, 0.02),
    )
    model.learn(3_000)
    assert count_falls(model.evaluated) <= 4
