"""Agents of the stages of a chain."""

from pathlib import Path

import numpy as np
import pytest
import torch

from snn_rl.agents import CarriedDQN, SpikingDQN, plan
from snn_rl.agents.chain import AgentChain, he_initialized, learning_rate
from snn_rl.agents.objectives import DISTILL, TD
from snn_rl.chain.runner import load_stage
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config, DQNConfig
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork
from snn_rl.core.networks.q_networks import cartpole
from snn_rl.envs import make_env
from snn_rl.files.checkpoint import save_network


@pytest.mark.parametrize(
    ("remaining", "rate"), [(1.0, 1.0), (0.75, 0.6), (0.5, 0.2), (0.25, 0.2), (0.0, 0.2)]
)
def test_the_learning_rate_falls_linearly_and_then_stays_constant(
    remaining: float, rate: float
) -> None:
    schedule = learning_rate(DQNConfig(steps=8, lr=1.0, lr_end=0.2, lr_steps=4))
    assert schedule(remaining) == pytest.approx(rate)


def test_activations_of_an_untrained_student_have_similar_sizes() -> None:
    torch.manual_seed(0)
    spec = cartpole((3, 40, 120), 2)
    images = torch.rand(16, 3, 40, 120)

    def sizes(network: AnalogNetwork) -> list[float]:
        return [float(each.detach().square().mean().sqrt()) for each in network.activity(images)[1]]

    assert max(sizes(he_initialized(spec))) < 3 * min(sizes(he_initialized(spec)))
    assert max(sizes(AnalogNetwork(spec))) > 3 * min(sizes(AnalogNetwork(spec)))


SMALL = ["env=CartPole-v1", "T=1", "T_start=1", "rollout.n_envs=1", "dqn.buffer_size=100"]


def agents(directory: Path, *settings: str) -> dict[str, SpikingDQN]:
    """Builds the agent of every stage."""
    config = compose(Config, [*SMALL, *settings])
    save_network(
        directory / "ann" / "network.safetensors", AnalogNetwork(cartpole((3, 40, 120), 2))
    )
    chain = AgentChain(config, directory, {})
    return {stage.name: chain._agent(stage) for stage in plan.chain(config)}


def test_every_kind_of_stage_has_its_own_agent(tmp_path: Path) -> None:
    more = ["exact=true", "iir.gradient_steps=3"]
    built = agents(tmp_path, "finetune.steps=20000", "dqn.epsilon_end=0.01", *more)
    assert list(built) == ["ann-pretrained", "ann", "T1", "T1-exact"]
    before, ann, spiking, exact = built.values()
    for agent in (before, ann):
        assert isinstance(agent.network, AnalogNetwork)
        assert (agent.objective, agent.teacher) == (TD, None)
    assert (before.exploration_initial_eps, ann.exploration_initial_eps) == (1.0, 0.01)
    for agent in (spiking, exact):
        assert isinstance(agent.network, SpikingNetwork) and agent.network.timesteps == 1
    assert spiking.objective == DISTILL and isinstance(spiking.teacher, AnalogNetwork)
    assert (spiking.gradient_steps, spiking.learning_starts) == (3, 0)
    assert exact.network.exact and exact.teacher is None


def test_a_carried_stage_learns_from_sequences_with_one_step_targets(tmp_path: Path) -> None:
    extra = ["carry_state=true", "dqn.n_steps=3", "carry.burn_in=4", "carry.window=5"]
    built = agents(tmp_path, *extra, "dqn.learning_starts=30")
    carried, before = built["T1-carried"], built["T1"]
    assert isinstance(carried, CarriedDQN) and not isinstance(before, CarriedDQN)
    assert (carried.n_steps, carried.burn_in, carried.window) == (1, 4, 5)
    assert before.n_steps == 3


def test_an_imported_ann_is_not_trained(tmp_path: Path) -> None:
    ann = agents(tmp_path, "ann=any.safetensors", "iir.epsilon=0.3", "iir.train_freq=2")["ann"]
    assert (ann.gradient_steps, ann.learning_starts) == (0, 0)
    assert ann.exploration_initial_eps == ann.exploration_final_eps == 0.3


# 50 gradient steps of the ANN and 10 of T=5, of 8 transitions each. Networks, observations,
# optimizers, learning rates and losses are those of the presets.
SHORT = [
    *("T=5", "T_start=5", "precision=float32", "threads=1", "rollout.n_envs=1", "finetune.steps=0"),
    *("dqn.steps=60", "dqn.learning_starts=10", "dqn.batch_size=8", "dqn.buffer_size=60"),
    *("dqn.target_update_interval=20", "dqn.epsilon_steps=50", "dqn.selection_games=0"),
    *("dqn.target_return=null", "iir.steps=10", "iir.batch_size=8", "iir.gradient_steps=1"),
    *("iir.selection_games=0", "iir.conversion_samples=32"),
]


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("env", ["CartPole-v1", "PongNoFrameskip-v4"])
def test_layers_stay_alive_with_every_preset(tmp_path: Path, env: str, preset: str) -> None:
    config = compose(Config, [f"env={env}", f"preset={preset}", *SHORT])
    rollout = config.rollout
    games = make_env(env, 1, frame_stack=rollout.frame_stack, frames=rollout.frames)
    obs = [games.reset(), *(games.step(np.array([i % 2]))[0] for i in range(7))]
    chain = AgentChain(config, tmp_path, {})
    for stage in plan.chain(config):
        chain.fit(stage)
        network = load_stage(tmp_path, stage.name)
        images = network.images(torch.as_tensor(np.concatenate(obs)))
        q_values, layers = network.activity(images)
        assert all(layer.any() for layer in layers)
        (q_values[:, 0] - q_values[:, 1]).square().sum().backward()
        weights = [layer.weight for layer in (*network.synapses, network.head)]
        assert all(weight.grad.any() for weight in weights)
