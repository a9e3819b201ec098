"""Numbers of the state that a privileged teacher observes, and its network."""

import numpy as np
import pytest
import torch
from torch import nn

from snn_rl.agents.state_policy import StateNetwork, StateScale, explore
from snn_rl.envs.state import make_state_env


def test_scale_holds_the_numbers_that_vary() -> None:
    states = np.array([[7, 0, 3, 255], [7, 2, 3, 255], [7, 4, 3, 0]], np.uint8)
    scale = StateScale.of(states)
    np.testing.assert_array_equal(scale.columns, [1, 3])
    np.testing.assert_allclose(scale.mean, [2, 170])
    np.testing.assert_allclose(scale.std, [np.sqrt(8 / 3), np.sqrt(2) * 85], rtol=1e-6)
    with pytest.raises(ValueError, match="no state variable varies"):
        StateScale.of(states[:1])


def test_exploration_visits_the_same_states_for_a_seed() -> None:
    visited = []
    for seed in (0, 0, 1):
        env = make_state_env("CartPole-v1", 2, seed, frames=1)
        visited.append(explore(env, 31, seed))
        env.close()
    assert visited[0].shape == (2 + 32, 4)  # the first states, and 16 steps of 2 environments
    np.testing.assert_array_equal(visited[0], visited[1])
    assert not np.array_equal(visited[0], visited[2])
    np.testing.assert_array_equal(StateScale.of(visited[0]).columns, np.arange(4))


def test_exploration_finds_the_bytes_of_the_ball_and_the_paddle() -> None:
    env = make_state_env("PongNoFrameskip-v4", 2, 0, frames=1, sticky=0.25)
    columns = StateScale.of(explore(env, 300, 0)).columns
    env.close()
    assert {49, 51, 54} <= set(columns.tolist())  # ball x, player's paddle, and ball y
    assert len(columns) < 40


def test_network_standardizes_the_states_and_encodes_the_last_action() -> None:
    torch.manual_seed(0)
    scale = StateScale(np.array([1, 3]), np.array([2, 170], np.float32), np.float32([4, 0.5]))
    network = StateNetwork(scale, 2, 3, [8, 5], 4)
    obs = torch.tensor([[[2, 170, 1], [10, 255, 2]], [[0, 171, 0], [2, 170, 0]]], dtype=torch.uint8)
    inputs = torch.tensor(
        [
            [0.0, 0.0, 2.0, 10.0, 0.0, 0.0, 1.0],  # 170 standard deviations are limited to 10
            [-0.5, 2.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        ]
    )
    assert [type(layer) for layer in network.layers] == [
        *(nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear)
    ]
    expected = network.layers(inputs)
    values = network(obs)
    assert values.shape == (2, 3, 4)
    torch.testing.assert_close(values.flatten(1), expected)
