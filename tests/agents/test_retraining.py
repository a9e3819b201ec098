"""Conversion and retraining from Python, on Catch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import convert, iir, observe, retraining
from snn_rl.agents.retraining import cosine, trapezoid
from snn_rl.core.networks import (
    AnalogNetwork,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.envs import make_env
from snn_rl.files.importing import load_any
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec((2, 42, 30), (Conv(4, 8, 4), Conv(8, 4, 2), Dense(16)), 3, bias=True)


@pytest.fixture
def teacher(tmp_path: Path, make_catch: Callable[..., VecEnv]) -> AnalogNetwork:
    """An imported network whose actions vary."""
    torch.manual_seed(1)
    theirs = AnalogNetwork(SPEC)
    env = make_catch(40)
    seen = [env.reset(), *(env.step([step % 3] * 40)[0] for step in range(6))]
    with torch.no_grad():
        theirs.head.bias -= theirs(torch.as_tensor(np.concatenate(seen)) / 255).mean(0)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    network = load_any(tmp_path / "net.pth", (42, 30))
    assert isinstance(network, AnalogNetwork) and network.spec == SPEC
    return network


def test_observe_samples_inputs_of_an_acting_network(
    teacher: AnalogNetwork, make_catch: Callable[..., VecEnv]
) -> None:
    images = observe(teacher, make_catch(3), count=20, steps=15, epsilon=0.5)
    assert images.shape == (20, 2, 42, 30)
    assert images.dtype == torch.float32 and images.min() == 0 and images.max() == 1
    assert (images[:, 1].flatten(1).sum(1) > 0).all(), "an image without ball and paddle"
    assert len(torch.unique(images, dim=0)) > 5
    assert torch.equal(images, observe(teacher, make_catch(3), 20, 15, 0.5))


def test_retraining_increases_the_agreement_with_the_teacher(
    teacher: AnalogNetwork,
    make_catch: Callable[..., VecEnv],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(retraining, "observe", partial(observe, count=128, steps=40))
    env = make_catch(8)
    images = observe(teacher, env, 400, 60, epsilon=0.3)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    torch.manual_seed(0)
    settings = {"exploration_initial_eps": 0.3, "exploration_final_eps": 0.3}
    agent = iir(
        *(teacher, env, 1),
        steps=400,
        teacher_steps=400,
        learning_rate=3e-3,
        batch_size=64,
        **settings,
    )
    assert isinstance(agent.network, SpikingNetwork) and agent.network.timesteps == 1
    assert agent.stage == "T1"
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    bars = capsys.readouterr().err
    assert all(f"{name}: 100%" in bars for name in ("observations", "ann", "T2", "T1"))

    def agreement(network: torch.nn.Module) -> float:
        with torch.no_grad():
            same = network(images).argmax(1) == teacher(images).argmax(1)
        return float(same.float().mean())

    assert agreement(agent.network) > agreement(convert(teacher, env, 1).network) + 0.1


def test_agents_of_stable_baselines3_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining, "observe", partial(observe, count=32, steps=40))
    env = make_env("CartPole-v1", n_envs=2, frame_stack=2)
    kwargs = {"features_extractor_kwargs": {"features_dim": 16}, "net_arch": []}
    dqn = DQN("CnnPolicy", env, buffer_size=10, policy_kwargs=kwargs, device="cpu", seed=0)
    agent = convert(dqn, env, T=50, surrogate="boxcar")
    assert isinstance(agent.network, SpikingNetwork)
    assert agent.network.options == SpikingOptions(50, "boxcar")
    obs = np.concatenate([env.reset(), *(env.step([step % 2] * 2)[0] for step in range(20))])
    expected, _ = dqn.predict(obs, deterministic=True)
    actions, state = agent.predict(obs)
    assert (actions == expected).mean() > 0.8 and state is None
    evaluate_policy(agent, env, n_eval_episodes=2)
    with pytest.raises(UserError, match="pass its id as env="):
        agent.evaluate(episodes=1)

    dqn.save(tmp_path / "dqn")
    agent = convert(tmp_path / "dqn.zip", "CartPole-v1", T=5)
    assert agent.network.spec.input_shape == (2, 40, 120)
    results = agent.evaluate(episodes=2)
    assert results.episodes == 2 and results.mean >= 1


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (cosine(2.0), {1.0: 2.0, 0.5: 1.0, 0.0: 0.0}),
        (
            trapezoid(2.0, rise=0.2, fall=0.4),
            {1.0: 0.0, 0.9: 1.0, 0.8: 2.0, 0.4: 2.0, 0.2: 1.0, 0.0: 0.0},
        ),
    ],
)
def test_learning_rate_schedules(schedule: Schedule, rates: dict[float, float]) -> None:
    assert {left: schedule(left) for left in rates} == pytest.approx(rates)


def test_spiking_networks_are_rejected(make_catch: Callable[..., VecEnv]) -> None:
    spiking = SpikingNetwork(SPEC, SpikingOptions(2))
    with pytest.raises(UserError, match="expected an analog network, got SpikingNetwork"):
        convert(spiking, make_catch(2), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("T", [0, 3])
def test_stages_go_downwards(
    T: int, teacher: AnalogNetwork, make_catch: Callable[..., VecEnv]
) -> None:
    with pytest.raises(ValueError, match=f"T={T} must be between 1 and T_start=2"):
        iir(teacher, make_catch(), T)
