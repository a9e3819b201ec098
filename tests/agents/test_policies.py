"""Q-networks and policies."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from snn_rl.agents import SpikingDQNPolicy, SpikingQNetwork
from snn_rl.agents.policies import network_kwargs, network_spec
from snn_rl.core.networks import (
    Q_NETWORKS,
    AnalogNetwork,
    AvgPool,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.core.networks.spec import Layer

IMAGES = spaces.Box(0, 255, (3, 40, 120), np.uint8)
ACTIONS = spaces.Discrete(4)


def observations(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 40, 120), generator=generator).to(torch.uint8)


def make_policy(**kwargs: Any) -> SpikingDQNPolicy:
    torch.manual_seed(0)
    return SpikingDQNPolicy(IMAGES, ACTIONS, lambda _: 1e-3, network="cartpole", **kwargs)


@pytest.mark.parametrize("name", sorted(Q_NETWORKS))
@pytest.mark.parametrize("bias", [False, True])
def test_network_spec_follows_the_spaces(name: str, bias: bool) -> None:
    images = spaces.Box(0, 255, (2, 84, 90), np.uint8)
    spec = network_spec(name, images, ACTIONS, bias)
    assert (spec.input_shape, spec.outputs, spec.bias) == ((2, 84, 90), 4, bias)


@pytest.mark.parametrize("timesteps", [None, 1, 3])
def test_q_values_are_the_network_s_at_scaled_images(timesteps: int | None) -> None:
    torch.manual_seed(0)
    q_net = SpikingQNetwork(IMAGES, ACTIONS, network="cartpole", timesteps=timesteps)
    assert isinstance(q_net.network, AnalogNetwork if timesteps is None else SpikingNetwork)
    if isinstance(q_net.network, SpikingNetwork):
        assert q_net.network.timesteps == timesteps
        for neuron in q_net.network.neurons:
            neuron.v_threshold.data.fill_(0.01)  # an untrained network fires
    obs = observations()
    kept = obs.clone()
    with torch.no_grad():
        q = q_net(obs)
        torch.testing.assert_close(q, q_net.network(kept.float() / 255))
        assert (q_net._predict(obs) == q.argmax(1)).all()
    assert q.shape == (6, 4)
    assert q.std() > 0
    assert torch.equal(obs, kept), "observations were modified"


def test_network_sees_only_the_newest_frames() -> None:
    q_net = make_policy(frames=2).q_net
    assert q_net.network.spec.input_shape == (2, 40, 120)
    obs = observations()
    other = obs.clone()
    other[:, 0] = 255 - other[:, 0]
    with torch.no_grad():
        assert torch.equal(q_net(obs), q_net(other))
        assert not torch.equal(q_net(obs), q_net(other.flip(1)))


def test_target_network_starts_as_an_equal_copy() -> None:
    policy = make_policy(timesteps=2)
    own, target = (
        dict(policy.q_net.named_parameters()),
        dict(policy.q_net_target.named_parameters()),
    )
    assert own.keys() == target.keys()
    for name in own:
        assert torch.equal(own[name], target[name])
        assert own[name].data_ptr() != target[name].data_ptr()


@pytest.mark.parametrize("timesteps", [None, 2])
def test_policy_is_rebuilt_from_its_constructor_parameters(timesteps: int | None) -> None:
    policy = make_policy(
        timesteps=timesteps,
        bias=True,
        surrogate="boxcar",
        optimizer_class=torch.optim.RMSprop,
        optimizer_kwargs={"alpha": 0.9},
    )
    twin = SpikingDQNPolicy(**policy._get_constructor_parameters())
    twin.load_state_dict(policy.state_dict())
    assert torch.equal(twin.q_net(observations()), policy.q_net(observations()))
    assert twin.network_kwargs == policy.network_kwargs
    assert isinstance(twin.optimizer, torch.optim.RMSprop)
    assert twin.optimizer.defaults["alpha"] == 0.9


def test_optimizer_excludes_the_target_network() -> None:
    policy = make_policy(timesteps=2)
    trained = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in policy.q_net.parameters()}


@pytest.mark.parametrize("timesteps", [None, 2])
def test_decide_returns_actions_q_values_and_spikes(timesteps: int | None) -> None:
    q_net = make_policy(timesteps=timesteps).q_net
    with torch.no_grad():
        q_values, spikes = q_net.network.activity(q_net.images(observations()))
    for obs in (observations(), observations().numpy()):
        decision = q_net.decide(obs)
        assert torch.equal(decision.q_values, q_values)
        assert (decision.actions == q_values.argmax(1).numpy()).all()
        assert all(torch.equal(*pair) for pair in zip(decision.spikes, spikes, strict=True))
        assert decision.state == []


def test_decide_and_predict_carry_the_membranes() -> None:
    q_net = make_policy(timesteps=1, carry_state=True).q_net
    assert isinstance(q_net.network, SpikingNetwork)
    obs, state, membranes = observations(), None, None
    for episode_start in (None, np.array([True] + [False] * 5)):
        if episode_start is not None:
            membranes = [torch.cat([torch.zeros_like(m[:1]), m[1:]]) for m in membranes]
        expected = q_net.decide(obs, membranes)
        actions, state = q_net.predict(obs.numpy(), state, episode_start)
        membranes = expected.state
        assert (actions == expected.actions).all()
        assert all(np.array_equal(*pair) for pair in zip(state, membranes, strict=True))
    assert any(m.any() for m in membranes)
    assert not torch.equal(expected.q_values, q_net.decide(obs).q_values)


def test_unknown_options_are_rejected() -> None:
    with pytest.raises(TypeError, match="timestep"):
        SpikingQNetwork(IMAGES, ACTIONS, network="cartpole", timestep=3)


def test_predict_accepts_single_and_batched_images() -> None:
    policy = make_policy()
    many, _ = policy.predict(observations().numpy())
    with torch.no_grad():
        assert (many == policy.q_net(observations()).argmax(1).numpy()).all()
    one, _ = policy.predict(observations()[2].numpy())
    assert one.shape == ()
    assert one == many[2]


def test_images_too_small_for_the_network_are_rejected() -> None:
    small = spaces.Box(0, 255, (3, 20, 20), np.uint8)
    with pytest.raises(ValueError, match=r"\(3, 20, 20\) are too small"):
        SpikingQNetwork(small, ACTIONS, network="cartpole")


@pytest.mark.parametrize("layers", [(Conv(4, 5, 2), Dense(6)), (Conv(4, 5, 2), AvgPool(2))])
@pytest.mark.parametrize("options", [None, SpikingOptions(2, "boxcar", "poisson")])
def test_network_kwargs_describe_any_network(
    layers: tuple[Layer, ...], options: SpikingOptions | None
) -> None:
    spec = NetworkSpec((3, 40, 120), layers, 4, bias=True)
    network = AnalogNetwork(spec) if options is None else SpikingNetwork(spec, options)
    kwargs = network_kwargs(network)
    json.dumps(kwargs)  # `SpikingDQN.save` writes them as JSON
    built = SpikingQNetwork(IMAGES, ACTIONS, **kwargs).network
    assert built.spec == spec
    assert options is None or built.options == options  # type: ignore[union-attr]
