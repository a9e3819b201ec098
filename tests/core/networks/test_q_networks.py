"""Q-networks: the papers' weights, spelled-out layers, and registered networks."""

import pytest
import torch

from snn_rl.core.networks import (
    Q_NETWORKS,
    AnalogNetwork,
    AvgPool,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
    layers_name,
    q_network,
    q_networks,
    register_network,
)
from snn_rl.utils.plugins import Registry


def conv_size(size: int, *layers: tuple[int, int]) -> int:
    """Returns the side of an image after (kernel, stride) convolutions without padding."""
    for kernel, stride in layers:
        size = (size - kernel) // stride + 1
    return size


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frames", [1, 4])
def test_mnih_has_weights_of_paper(frames, bias):
    actions = 6
    side = conv_size(84, (8, 4), (4, 2), (3, 1))
    weights = [
        frames * 32 * 8**2,
        32 * 64 * 4**2,
        64 * 64 * 3**2,
        64 * side**2 * 512,
        512 * actions,
    ]
    units = [32, 64, 64, 512, actions]
    network = AnalogNetwork(Q_NETWORKS["mnih"]((frames, 84, 84), actions, bias))
    expected = sum(weights) + (sum(units) if bias else 0)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert network.spec.names() == ["conv1", "conv2", "conv3", "fc1", "head"]


@pytest.mark.parametrize("bias", [False, True])
def test_cartpole_has_weights_of_paper(bias):
    frames, height, width, actions = 3, 40, 120, 2
    left = [conv_size(n, (5, 2), (5, 2), (5, 2)) for n in (height, width)]
    weights = [frames * 16 * 25, 16 * 32 * 25, 32 * 32 * 25, 32 * left[0] * left[1] * actions]
    units = [16, 32, 32, actions]
    network = AnalogNetwork(Q_NETWORKS["cartpole"]((frames, height, width), actions, bias))
    expected = sum(weights) + (sum(units) if bias else 0)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert network.spec.names() == ["conv1", "conv2", "conv3", "head"]


@pytest.mark.parametrize("name", Q_NETWORKS)
def test_no_bias_by_default(name):
    assert not Q_NETWORKS[name]((1, 84, 84), 3).bias


@pytest.mark.parametrize("name", Q_NETWORKS)
def test_one_q_value_per_action(name):
    spec = Q_NETWORKS[name]((2, 60, 60), 5)
    x = torch.rand(3, 2, 60, 60)
    assert AnalogNetwork(spec)(x).shape == (3, 5)
    assert SpikingNetwork(spec, SpikingOptions(2))(x).shape == (3, 5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("16c8s4-32c4s2-256", (Conv(16, 8, 4), Conv(32, 4, 2), Dense(256))),
        ("7c3s1", (Conv(7, 3, 1),)),
        ("12", (Dense(12),)),
        ("9-10", (Dense(9), Dense(10))),
    ],
)
def test_spelled_out_layers(name, layers, bias):
    spec = q_network(name, (2, 40, 30), 5, bias)
    assert (spec.input_shape, spec.layers, spec.outputs, spec.bias) == (
        (2, 40, 30),
        layers,
        5,
        bias,
    )
    assert layers_name(layers) == name


@pytest.mark.parametrize("name", Q_NETWORKS)
def test_built_in_networks_have_names(name):
    spec = q_network(name, (1, 84, 84), 4)
    assert spec == Q_NETWORKS[name]((1, 84, 84), 4)
    assert layers_name(spec.layers) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "mnhi",
            "network=mnhi: must be one of cartpole, mnih, hidden layers .*; did you mean mnih",
        ),
        ("", "must be one of"),
        ("32c8", "must be one of"),
        ("32c8s4-", "must be one of"),
        ("-5", "must be one of"),
        ("9999999", "must be one of"),
        ("3c5s0", "at least 1"),
        ("0", "at least 1"),
        ("3c50s1", "too small"),
        ("5-3c5s1", "cannot follow a dense layer"),
    ],
)
def test_invalid_names_are_rejected(name, words):
    with pytest.raises(ValueError, match=words):
        q_network(name, (1, 40, 30), 4)


@pytest.mark.parametrize("layer", [AvgPool(2), Conv(3, 5, 2, padding=1)])
def test_unnameable_layers_are_rejected(layer):
    with pytest.raises(ValueError, match="cannot express the layer"):
        layers_name((Conv(3, 5, 2), layer))


def pooled(input_shape, actions, bias):
    return NetworkSpec(input_shape, (Conv(4, 3), AvgPool(2)), actions, bias)


def test_registered_networks_are_built(monkeypatch):
    monkeypatch.setattr(q_networks, "Q_NETWORKS", Registry("network", dict(Q_NETWORKS)))
    register_network("pooled", pooled)
    assert q_network("pooled", (1, 9, 9), 3, True) == pooled((1, 9, 9), 3, True)
    with pytest.raises(ValueError, match="the name is taken"):
        register_network("mnih", pooled)


def test_imported_networks_are_built(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    lines = ["from snn_rl.core.networks import Dense, NetworkSpec"]
    specs = {
        "good": "shape, (Dense(5),), actions, bias",
        "swapped": "shape, (Dense(5),), actions + 1, bias",
        "clipped": "shape, (Dense(5),), actions, bias, clip=True",
    }
    for name, arguments in specs.items():
        lines.append(f"def {name}(shape, actions, bias): return NetworkSpec({arguments})")
    (tmp_path / "own_q_networks.py").write_text("\n".join(lines))
    expected = NetworkSpec((1, 9, 9), (Dense(5),), 3, bias=True)
    assert q_network("own_q_networks:good", (1, 9, 9), 3, True) == expected
    for name, message in (
        ("swapped", "expected a NetworkSpec"),
        ("clipped", "neither batch norm nor clipped ReLUs"),
        ("missing", "cannot be imported"),
    ):
        with pytest.raises(ValueError, match=f"network=own_q_networks:{name}: .*{message}"):
            q_network(f"own_q_networks:{name}", (1, 9, 9), 3)
