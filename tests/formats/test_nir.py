"""NIR graphs, and simulators that run them."""

import itertools

import numpy as np
import pytest
import torch

from snn_rl import zoo
from snn_rl.agents.evaluation import greedy_observations
from snn_rl.agents.loading import load_agent
from snn_rl.core.conversion import quantize
from snn_rl.core.conversion.integer_grid import integers
from snn_rl.formats import nir, simulators


@pytest.fixture(scope="module")
def cartpole():
    """Returns an exact agent's network, and observations."""
    agent = load_agent(zoo.ROOT / "CartPole-v1" / "T1", "cpu")
    return quantize(agent.q_net.network), greedy_observations(agent, 60, 11)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("snnTorch", "snntorch"),
        ("Norse", "norse"),
        ("SpikingJelly", "spikingjelly"),
        ("sinabs", "sinabs"),
    ],
)
def test_simulators_fire_the_same_spikes(name, package, cartpole, tmp_path):
    pytest.importorskip(package, reason=f"{name} is not installed")
    network, frames = cartpole
    engine = simulators.export(network, tmp_path / "network.nir", {})[name]
    outputs, layers = engine(frames)
    expected, spikes = network.activity(network.images(frames))
    assert torch.equal(outputs, expected)
    for mine, theirs in zip(layers, spikes, strict=True):
        assert theirs.any() and torch.equal(mine, theirs)


@pytest.mark.parametrize("exact", [False, True])
def test_graph_describes_the_network(exact, tmp_path, random_network):
    network = random_network()
    if exact:
        network = quantize(network)
    nir.write(network, tmp_path / "network.nir", {"env": "none"})
    graph = nir.read(tmp_path / "network.nir")
    chain = ["input", "conv1", "conv1_spikes", "conv2", "conv2_spikes", "fc1_flatten", "fc1"]
    chain += ["fc1_spikes", "head", "output"]
    assert graph.edges == list(itertools.pairwise(chain))
    first = network.synapses[0].weight.detach() / (1 if exact else 255)
    np.testing.assert_allclose(graph.nodes["conv1"].weight, first, rtol=1e-6)
    assert tuple(graph.nodes["conv1"].padding) == (1, 1)
    np.testing.assert_array_equal(graph.nodes["head"].bias, network.head.bias.detach())
    for i, layer in enumerate(network.spec.names()[:-1]):
        node = graph.nodes[f"{layer}_spikes"]
        assert node.v_threshold.shape == network.spec.shapes()[i]
        mine = network.neurons[i].v_threshold.item()
        half = integers(network)[i].unit / 2 if exact else 0.0
        assert np.unique(node.v_threshold) == [mine + half]
        assert np.unique(node.tau) == np.float32(nir.DT)
