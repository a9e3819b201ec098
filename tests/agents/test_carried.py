"""`CarriedDQN`, compared with a network that is stepped by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from snn_rl.agents import CarriedDQN
from snn_rl.agents.objectives import OBJECTIVES, TD
from snn_rl.agents.replay.sequences import SequenceReplayBuffer, SequenceSamples
from snn_rl.core.networks import AnalogNetwork, NetworkSpec, clear
from snn_rl.core.networks.q_networks import cartpole

MakeCatch = Callable[..., VecEnv]


def make_model(env: VecEnv, **kwargs: Any) -> CarriedDQN:
    policy_kwargs = {
        "network": "cartpole",
        "timesteps": 1,
        "bias": True,
        "carry_state": True,
        "frames": 1,
    }
    settings: dict[str, Any] = {
        "learning_rate": 1e-3,
        "buffer_size": 400,
        "learning_starts": 40,
        "batch_size": 12,
        "burn_in": 3,
        "window": 4,
        "seed": 0,
        "device": "cpu",
    }
    model = CarriedDQN("SpikingDQNPolicy", env, policy_kwargs=policy_kwargs, **settings | kwargs)
    with torch.no_grad():
        for neuron in model.network.neurons:
            neuron.v_threshold.fill_(0.05)  # an untrained network fires
            neuron.leak.fill_(0.5)
    model.q_net_target.load_state_dict(model.q_net.state_dict())
    return model


def teacher() -> AnalogNetwork:
    return AnalogNetwork(NetworkSpec((2, 42, 30), cartpole((2, 42, 30), 3).layers, 3))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_all_parameters(make_catch: MakeCatch, objective: str) -> None:
    model = make_model(make_catch(), objective=objective, teacher=teacher())
    before = {name: p.clone() for name, p in model.q_net.named_parameters()}
    model.learn(120)
    changed = {n for n, p in model.q_net.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(before), "weights, biases, thresholds and leaks are trained"
    assert np.isfinite(model.last_loss)


def test_stored_membranes_equal_a_replay_of_the_frames(make_catch: MakeCatch) -> None:
    model = make_model(make_catch(), learning_starts=10_000, teacher=teacher())
    model.learn(100)
    buffer = model.replay_buffer
    assert isinstance(buffer, SequenceReplayBuffer)
    membranes = model.network.initial_state(2)
    compared = 0
    for row in range(buffer.pos):
        if row % buffer.window == 0:
            for stored, rest in zip(buffer._states, membranes, strict=True):
                kept = torch.as_tensor(stored[row // buffer.window]).float()
                torch.testing.assert_close(kept, rest, atol=1e-3, rtol=1e-3)
                compared += int(rest.any())
        obs = torch.as_tensor(buffer.observations[row])
        with torch.no_grad():
            _, _, membranes = model.network.step(model.q_net.images(obs), membranes)
        membranes = clear(membranes, torch.as_tensor(buffer.dones[row]).bool())
    assert compared > 3


def naive_td_loss(model: CarriedDQN, batch: SequenceSamples) -> torch.Tensor:
    """Computes the loss sequence by sequence and frame by frame."""
    losses = []
    for n in range(batch.observations.shape[1]):
        q: list[torch.Tensor] = []
        for q_net in (model.q_net, model.q_net_target):
            state = [rest[n : n + 1] for rest in batch.state]
            values = []
            for t in range(len(batch.observations)):
                if t and batch.dones[t - 1, n]:
                    state = q_net.network.initial_state(1)
                image = q_net.images(batch.observations[t, n : n + 1])
                values.append(q_net.network.step(image, state))
                state = values[-1][2]
            q.append(torch.cat([value for value, _, _ in values]))
        for t in range(model.burn_in, len(batch.observations) - 1):
            if batch.timeouts[t, n]:
                continue
            chosen = (q[0] if model.double else q[1])[t + 1].argmax()
            value = q[1][t + 1, chosen]
            target = batch.rewards[t, n] + (1 - batch.dones[t, n]) * model.gamma * value
            losses.append(F.smooth_l1_loss(q[0][t, int(batch.actions[t, n])], target))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("double", [False, True])
def test_td_loss_equals_a_naive_loop(make_catch: MakeCatch, double: bool) -> None:
    model = make_model(make_catch(), objective=TD, double=double, gamma=0.9)
    model.learn(150)
    assert isinstance(model.replay_buffer, SequenceReplayBuffer)
    model.replay_buffer.timeouts[20] = 1.0
    batch = model.replay_buffer.sample(60)
    assert batch.dones[model.burn_in : -1].any() and batch.timeouts.any()
    assert any(rest.any() for rest in batch.state)
    with torch.no_grad():
        torch.testing.assert_close(model._loss(batch), naive_td_loss(model, batch))


def test_predict_carries_membranes_and_resets_them_at_episode_starts(
    make_catch: MakeCatch,
) -> None:
    model = make_model(make_catch())
    frames = np.random.default_rng(0).integers(0, 255, (4, 2, 2, 42, 30), np.uint8)
    state, membranes = None, model.network.initial_state(2)
    starts = np.array([[True, True], [False, False], [False, True], [False, False]])
    for t in range(4):
        membranes = clear(membranes, torch.as_tensor(starts[t]))
        with torch.no_grad():
            q_values, _, membranes = model.network.step(
                model.q_net.images(torch.as_tensor(frames[t])), membranes
            )
        actions, state = model.predict(frames[t], state, starts[t], deterministic=True)
        assert actions.tolist() == q_values.argmax(1).tolist()
        assert state is not None
        for one, other in zip(state, membranes, strict=True):
            assert torch.equal(torch.as_tensor(one), other)
    one, _ = model.predict(frames[0, 0], deterministic=True)
    assert one.shape == ()


def test_load_restores_what_save_wrote(make_catch: MakeCatch, tmp_path: Path) -> None:
    model = make_model(make_catch(), gamma=0.9)
    model.save(tmp_path / "agent")
    loaded = CarriedDQN.load(tmp_path / "agent", make_catch())
    assert (loaded.burn_in, loaded.window, loaded.gamma) == (3, 4, 0.9)
    assert isinstance(loaded.replay_buffer, SequenceReplayBuffer)
    assert loaded.replay_buffer.length == 7
    before, after = model.tensors(), loaded.tensors()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_evaluate_policy(make_catch: MakeCatch) -> None:
    mean, _ = evaluate_policy(make_model(make_catch()), make_catch(), n_eval_episodes=4)
    assert -1 <= mean <= 1


def test_network_without_carry_state_is_rejected(make_catch: MakeCatch) -> None:
    with pytest.raises(ValueError, match="carry_state=True"):
        CarriedDQN("SpikingDQNPolicy", make_catch(), policy_kwargs={"timesteps": 1})


def test_n_steps_above_1_is_rejected(make_catch: MakeCatch) -> None:
    with pytest.raises(ValueError, match="got n_steps=3"):
        make_model(make_catch(), n_steps=3)
