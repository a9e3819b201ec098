from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from snn_rl.agents import SpikingDQNPolicy, SpikingQNetwork
from snn_rl.agents.policies import network_spec
from snn_rl.core.networks import Q_NETWORKS, AnalogNetwork, SpikingNetwork

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
def test_network_follows_from_the_spaces(name: str, bias: bool) -> None:
    images = spaces.Box(0, 255, (2, 84, 90), np.uint8)
    spec = network_spec(name, images, ACTIONS, bias)
    assert (spec.input_shape, spec.outputs, spec.bias) == ((2, 84, 90), 4, bias)


@pytest.mark.parametrize("timesteps", [None, 1, 3])
def test_q_values_are_the_networks_on_scaled_images(timesteps: int | None) -> None:
    torch.manual_seed(0)
    q_net = SpikingQNetwork(IMAGES, ACTIONS, network="cartpole", timesteps=timesteps)
    assert isinstance(q_net.network, AnalogNetwork if timesteps is None else SpikingNetwork)
    if isinstance(q_net.network, SpikingNetwork):
        assert q_net.network.timesteps == timesteps
        for neuron in q_net.network.neurons:
            neuron.v_threshold.data.fill_(0.01)  # low enough for spikes in an untrained network
    obs = observations()
    kept = obs.clone()
    with torch.no_grad():
        q = q_net(obs)
        torch.testing.assert_close(q, q_net.network(kept.float() / 255))
        assert (q_net._predict(obs) == q.argmax(1)).all()
    assert q.shape == (6, 4)
    assert q.std() > 0
    assert torch.equal(obs, kept), "observations belong to the caller"


def test_only_the_newest_frames_are_seen() -> None:
    q_net = make_policy(frames=2).q_net
    assert q_net.network.spec.input_shape == (2, 40, 120)
    obs = observations()
    other = obs.clone()
    other[:, 0] = 255 - other[:, 0]
    with torch.no_grad():
        assert torch.equal(q_net(obs), q_net(other))
        assert not torch.equal(q_net(obs), q_net(other.flip(1)))


def test_target_is_a_network_of_its_own_that_starts_equal() -> None:
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


def test_optimizer_trains_the_network_and_not_the_target() -> None:
    policy = make_policy(timesteps=2)
    trained = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in policy.q_net.parameters()}


def test_predict_takes_one_image_or_many() -> None:
    policy = make_policy()
    many, _ = policy.predict(observations().numpy())
    with torch.no_grad():
        assert (many == policy.q_net(observations()).argmax(1).numpy()).all()
    one, _ = policy.predict(observations()[2].numpy())
    assert one.shape == ()
    assert one == many[2]


def test_images_too_small_for_the_network_are_named() -> None:
    small = spaces.Box(0, 255, (3, 20, 20), np.uint8)
    with pytest.raises(ValueError, match=r"\(3, 20, 20\) are too small"):
        SpikingQNetwork(small, ACTIONS, network="cartpole")
