"""Load, convert, retrain: the three lines, on Catch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import iir, observe
from snn_rl.core.conversion import convert
from snn_rl.core.networks import AnalogNetwork, Conv, Dense, NetworkSpec, SpikingOptions
from snn_rl.files.importing import load_any

SPEC = NetworkSpec((2, 42, 30), (Conv(4, 8, 4), Conv(8, 4, 2), Dense(16)), 3, bias=True)


@pytest.fixture
def teacher(tmp_path: Path, make_catch: Callable[..., VecEnv]) -> AnalogNetwork:
    """Somebody else's state dict, of a network that does not always do the same."""
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


def test_the_network_is_seen_at_play(
    teacher: AnalogNetwork, make_catch: Callable[..., VecEnv]
) -> None:
    images = observe(teacher, make_catch(3), count=20, steps=15, epsilon=0.5)
    assert images.shape == (20, 2, 42, 30)
    assert images.dtype == torch.float32 and images.min() == 0 and images.max() == 1
    assert (images[:, 1].flatten(1).sum(1) > 0).all(), "every picture shows a ball and a paddle"
    assert len(torch.unique(images, dim=0)) > 5
    assert torch.equal(images, observe(teacher, make_catch(3), 20, 15, 0.5))


def test_three_lines_teach_the_student_the_teachers_actions(
    teacher: AnalogNetwork, make_catch: Callable[..., VecEnv]
) -> None:
    env = make_catch(8)
    images = observe(teacher, env, 400, 100, epsilon=0.3)
    student = convert(teacher, images, SpikingOptions(2))
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    torch.manual_seed(0)
    agent = iir(
        student, teacher, env, 1, steps=800, lr=3e-3, batch_size=64, states=400, epsilon=0.3
    )
    assert agent.network.timesteps == 1  # type: ignore[union-attr]
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())

    def agreement(network: torch.nn.Module) -> float:
        with torch.no_grad():
            same = network(images).argmax(1) == teacher(images).argmax(1)
        return float(same.float().mean())

    assert agreement(agent.network) > agreement(convert(teacher, images, SpikingOptions(1))) + 0.1


@pytest.mark.parametrize("T", [0, 3])
def test_stages_go_downwards(
    T: int, teacher: AnalogNetwork, make_catch: Callable[..., VecEnv]
) -> None:
    student = convert(teacher, torch.rand(8, 2, 42, 30), SpikingOptions(2))
    with pytest.raises(ValueError, match=f"T={T} must be between 1 and the student's 2"):
        iir(student, teacher, make_catch(), T)
