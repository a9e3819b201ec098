"""Agents of the stages of a chain."""

from pathlib import Path

import pytest

from snn_rl.agents import CarriedDQN, SpikingDQN, plan
from snn_rl.agents.chain import AgentChain, learning_rate
from snn_rl.agents.objectives import DISTILL, TD
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config, DQNConfig
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork
from snn_rl.core.networks.q_networks import cartpole
from snn_rl.files.checkpoint import save_network


@pytest.mark.parametrize(
    ("remaining", "rate"), [(1.0, 1.0), (0.75, 0.6), (0.5, 0.2), (0.25, 0.2), (0.0, 0.2)]
)
def test_the_learning_rate_falls_linearly_and_then_stays_constant(
    remaining: float, rate: float
) -> None:
    schedule = learning_rate(DQNConfig(steps=8, lr=1.0, lr_end=0.2, lr_steps=4))
    assert schedule(remaining) == pytest.approx(rate)


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
