"""PQN of the privileged teacher: rollouts, mini-batches, and the acting network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from snn_rl.agents.objectives import lambda_returns
from snn_rl.agents.replay.buffer import FrameReplayBuffer
from snn_rl.agents.state_dqn import Horizon
from snn_rl.agents.state_policy import StateDQNPolicy, StateQNetwork, StateScale
from snn_rl.agents.state_pqn import StatePQN
from snn_rl.envs.state import make_state_env

SCALE = StateScale(np.arange(4), *(np.float32([each] * 4) for each in (0, 1, 1)), np.arange(0))
STEPS, ENVS = 8, 4


def agent(**settings: Any) -> StatePQN:
    torch.manual_seed(0)
    env = make_state_env("CartPole-v1", ENVS, sticky=0.25, cap=settings.pop("cap", 500))
    return StatePQN(
        StateDQNPolicy,
        env,
        horizon=Horizon(1, (1, 1), (0.9, 0.9)),
        trace_decay=0.7,
        **{
            "policy_kwargs": {"scale": SCALE, "hidden": (16,), "quantiles": 3},
            "learning_starts": 0,
            "train_freq": STEPS,
            "buffer_size": STEPS * ENVS,
            "device": "cpu",
            **settings,
        },
    )


def test_mini_batches_hold_each_of_the_newest_steps_once_with_its_return() -> None:
    model = agent(cap=3, buffer_size=3 * STEPS * ENVS, gradient_steps=0)
    model.learn(5 * STEPS * ENVS)  # the newest steps are in the middle of the buffer
    buffer = model.replay_buffer
    assert isinstance(buffer, FrameReplayBuffer)
    rows = np.arange(STEPS, 2 * STEPS)
    with torch.no_grad():
        following = torch.as_tensor(buffer.next_observations[rows].reshape(-1, 4, 4))
        values = model.q_net(following).amax(1).view(STEPS, ENVS)
    dones, timeouts = (torch.as_tensor(each[rows]) for each in (buffer.dones, buffer.timeouts))
    assert (timeouts > 0).any()
    rewards = torch.as_tensor(buffer.rewards[rows])
    returns = lambda_returns(rewards, dones, dones * (1 - timeouts), values, 0.9, 0.7)
    expected = {
        (buffer.observations[row, env].tobytes(), int(buffer.actions[row, env, 0])): returns[i, env]
        for i, row in enumerate(rows)
        for env in range(ENVS)
    }
    found = list(model._updates(4, 8))
    assert [len(each.actions) for each in found] == [8] * 4
    seen = set()
    for batch in found:
        for obs, action, target in zip(*batch, strict=True):
            key = obs.numpy().tobytes(), int(action)
            assert torch.equal(target, expected[key][None])
            seen.add(key)
    assert seen == expected.keys() and len(seen) == STEPS * ENVS
    # A second pass starts when the steps are used up.
    assert sum(len(each.actions) for each in model._updates(6, 8)) == 48


def test_the_trained_network_acts_and_the_averaged_network_is_the_result() -> None:
    model = agent()
    with torch.no_grad():
        for name, bias in (("q_net", 1.0), ("q_net_target", -1.0)):
            head = getattr(model, name).network.layers[-1]
            head.weight.zero_()
            head.bias.copy_(torch.tensor([bias] * 3 + [0.0] * 3))
    obs = np.array(make_state_env("CartPole-v1", 5).reset())
    actions, _ = model.predict(obs, deterministic=True)
    assert (actions == 0).all()
    assert model.evaluated is model.q_net_target


def test_it_learns_to_balance_the_pole(
    pole_scale: StateScale, count_falls: Callable[[StateQNetwork], int]
) -> None:
    np.random.seed(0)
    model = agent(
        policy_kwargs={"scale": pole_scale, "hidden": (64, 64), "quantiles": 1},
        train_freq=32,
        buffer_size=32 * ENVS,
        gradient_steps=4,
        batch_size=32,
        exploration_fraction=0.2,
        exploration_final_eps=0.05,
        learning_rate=2e-3,
        max_grad_norm=0.01,
        tau=(0.05, 0.05),
    )
    model.learn(12_000)
    assert count_falls(model.evaluated) <= 4
