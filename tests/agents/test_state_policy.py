"""Numbers of the state that a privileged teacher observes, and its network."""

import numpy as np
import torch
from torch import nn

from snn_rl.agents.state_policy import StateNetwork, StateScale, explore
from snn_rl.envs.state import make_state_env


def test_scale_describes_the_columns_and_their_changes() -> None:
    states = np.array([[7, 0, 3, 255], [7, 2, 3, 255], [7, 4, 3, 0]], np.uint8)
    starts = np.array([[True, True], [False, False], [False, False]])
    scale = StateScale.of(np.stack([states, states], 1), starts, np.array([1, 3]))
    np.testing.assert_array_equal(scale.columns, [1, 3])
    np.testing.assert_allclose(scale.mean, [2, 170])
    np.testing.assert_allclose(scale.std, [np.sqrt(8 / 3), np.sqrt(2) * 85], rtol=1e-6)
    np.testing.assert_allclose(scale.change, [2, 255 / np.sqrt(2)], rtol=1e-6)
    assert len(scale.compared) == 0  # both take fewer than 8 values
    # The change to the first state of an episode does not count.
    starts[2, 1] = True
    scale = StateScale.of(np.stack([states, states], 1), starts, np.array([1, 3]))
    np.testing.assert_allclose(scale.change, [2, 255 / np.sqrt(3)], rtol=1e-6)
    # The first number only differs between the environments.
    states = np.stack([states, states + np.array([2, 0, 0, 0], np.uint8)], 1)
    scale = StateScale.of(states, starts, np.array([0, 1]))
    np.testing.assert_allclose(scale.change, [scale.std[0], 2], rtol=1e-6)


def test_exploration_visits_the_same_states_for_a_seed() -> None:
    visited = []
    for seed in (0, 0, 1):
        env = make_state_env("CartPole-v1", 2, seed, frames=1)
        states, starts = explore(env, 300, seed)
        env.close()
        visited.append(states)
        assert starts[0].all() and 1 < starts[1:].sum() < 50
        # An episode starts within 0.2, and moves by less than that.
        jumps = np.abs(np.diff(states[..., 2], axis=0)) > 0.15
        assert not (jumps & ~starts[1:]).any() and (jumps & starts[1:]).any()
    assert visited[0].shape == (1 + 150, 2, 4)  # the first states, and 150 steps of 2 environments
    np.testing.assert_array_equal(visited[0], visited[1])
    assert not np.array_equal(visited[0], visited[2])


def test_network_standardizes_the_newest_state_and_the_changes() -> None:
    torch.manual_seed(0)
    mean, std, change = (np.array(each, np.float32) for each in ([2, 170], [4, 0.5], [2, 10]))
    scale = StateScale(np.array([1, 3]), mean, std, change, np.array([0, 1]))
    network = StateNetwork(scale, 3, 3, [8, 5], 4)
    obs = torch.tensor(
        [[[4, 170], [2, 170], [10, 255]], [[0, 0], [0, 171], [1, 170]]], dtype=torch.uint8
    )
    inputs = torch.tensor(
        [
            [2.0, 10.0, -1.0, 0.0, 4.0, 8.5],  # 170 standard deviations are limited to 10
            [-0.25, 0.0, 0.0, 10.0, 0.5, -0.1],
        ]
    )
    assert [type(layer) for layer in network.layers] == [
        *(nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear)
    ]
    expected = network.layers(inputs)
    values = network(obs)
    assert values.shape == (2, 3, 4)
    torch.testing.assert_close(values.flatten(1), expected)


def test_numbers_that_take_eight_values_are_compared() -> None:
    numbers = np.arange(16)
    states = np.stack([numbers % 8, numbers % 7, numbers, numbers * 0], 1)[:, None].astype(np.uint8)
    starts = np.zeros((16, 1), np.bool_)
    scale = StateScale.of(states, starts, np.array([0, 1, 2]))
    np.testing.assert_array_equal(scale.compared, [0, 2])


def test_network_observes_limited_differences_between_the_compared_numbers() -> None:
    torch.manual_seed(0)
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    scale = StateScale(np.arange(4), zero, one, one, np.array([0, 1, 3]))
    network = StateNetwork(scale, 2, 3, [8], 4, ranges=[10, 100])
    obs = torch.zeros(1, 2, 4, dtype=torch.uint8)
    obs[0, 1] = torch.tensor([50, 45, 9, 250])
    differences = [0.5, -1, -1, 0.05, -1, -1]  # 50 - 45, 50 - 250, 45 - 250
    inputs = torch.tensor([[10.0, 10, 9, 10, 10, 10, 9, 10, *differences]])
    torch.testing.assert_close(network(obs).flatten(1), network.layers(inputs))
