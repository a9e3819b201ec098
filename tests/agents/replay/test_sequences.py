"""Sequences of the replay buffer, compared with the added rows."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from snn_rl.agents.replay.sequences import SequenceReplayBuffer

ENVS = 2


def filled(rows: int, size: int = 24, burn_in: int = 3, window: int = 4) -> SequenceReplayBuffer:
    """Returns a buffer in which row r of environment e has pixels r, reward and state r + e / 2."""
    buffer = SequenceReplayBuffer(
        size * ENVS,
        spaces.Box(0, 255, (1, 2, 2), np.uint8),
        spaces.Discrete(3),
        device="cpu",
        n_envs=ENVS,
        burn_in=burn_in,
        window=window,
    )
    games = np.arange(ENVS)
    for r in range(rows):
        buffer.remember([torch.as_tensor(r + games / 2).float().view(ENVS, 1).expand(ENVS, 5)])
        image = np.full((ENVS, 1, 2, 2), r, np.uint8)
        done = np.full(ENVS, r % 7 == 6)
        infos = [{"TimeLimit.truncated": r % 14 == 6}] * ENVS
        buffer.add(image, image + 1, np.full(ENVS, r % 3), r + games / 2, done, infos)
    return buffer


@pytest.mark.parametrize("rows", [7, 8, 23, 24, 25, 31, 48, 50])
def test_only_complete_sequences_are_sampled(rows):
    size, length, window = 24, 7, 4
    held = range(max(0, rows - size), rows)
    expected = {r % size for r in held if (r % size) % window == 0 and r + length - 1 in held}
    assert set(filled(rows).starts().tolist()) == expected


@pytest.mark.parametrize("rows", [20, 24, 37, 61])
def test_sequence_is_consecutive_and_has_its_stored_state(rows):
    np.random.seed(0)
    batch = filled(rows).sample(4 * 100)
    assert batch.observations.shape == (7, 100, 1, 2, 2)
    first = batch.rewards[0]
    assert torch.equal(batch.rewards, first + torch.arange(7.0).view(7, 1))
    row = batch.rewards.floor()
    assert torch.equal(batch.observations[..., 0, 0, 0].float(), row)
    assert torch.equal(batch.actions.float(), row % 3)
    assert torch.equal(batch.dones, (row % 7 == 6).float())
    assert torch.equal(batch.timeouts, (row % 14 == 6).float())
    (state,) = batch.state
    assert torch.equal(state, first.view(100, 1).expand(100, 5))
    assert len(first.unique()) > 2, "sequences of both environments, from several rows"


def test_row_after_an_end_belongs_to_another_episode():
    batch = filled(24).sample(4 * 50)
    assert torch.equal(batch.keep[1:], 1 - batch.dones[:-1])
    assert batch.keep[0].all(), "the stored state is already the new episode's"


def test_forget_removes_stored_states():
    buffer = filled(24)
    buffer.forget()
    assert buffer.sample(8).state == []
    buffer.remember([torch.ones(ENVS, 5)])
    assert set(buffer.sample(400).state[0].unique().tolist()) <= {0.0, 1.0}


def test_too_few_rows_raise_an_error():
    with pytest.raises(ValueError, match="not yet contain a sequence of 7 rows"):
        filled(6).sample(8)
