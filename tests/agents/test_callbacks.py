"""Numbers of the progress bar, and the times of its updates."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import VecEnv

from snn_rl.agents import SpikingDQN, callbacks
from snn_rl.agents.callbacks import Progress

MakeCatch = Callable[..., VecEnv]
ENVS = 2


class Clock(BaseCallback):
    """A clock that advances by the same time at every step of the environments."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds
        self.now = 0.0

    def _on_step(self) -> bool:
        self.now += self.seconds
        return True


def shown(
    make_catch: MakeCatch, monkeypatch: pytest.MonkeyPatch, seconds: float, **settings: Any
) -> tuple[list[tuple[int, dict[str, str]]], list[tuple[int, dict[str, float]]]]:
    """Returns the bar's and the reported numbers of 200 steps, each with its step."""
    model = SpikingDQN(
        "SpikingDQNPolicy",
        make_catch(ENVS),
        policy_kwargs={"network": "cartpole", "timesteps": 1},
        buffer_size=200,
        learning_starts=100,
        batch_size=4,
        train_freq=1,
        seed=0,
        device="cpu",
    )
    reported: list[tuple[int, dict[str, float]]] = []
    progress = Progress(
        "stage", 200, [], lambda step, numbers: reported.append((step, numbers)), **settings
    )
    clock = Clock(seconds)
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: clock.now))
    lines: list[tuple[int, dict[str, str]]] = []
    monkeypatch.setattr(
        progress.bar, "set_postfix", lambda numbers: lines.append((model.num_timesteps, numbers))
    )
    model.learn(200, callback=CallbackList([clock, progress]))
    progress.close()
    return lines, reported


def test_numbers_of_the_bar_and_of_the_log(make_catch, monkeypatch):
    lines, reported = shown(make_catch, monkeypatch, 1.0, every=50)
    assert [step for step, _ in lines] == list(range(ENVS, 202, ENVS))
    assert all(set(numbers) == {"eps", "spikes"} for _, numbers in lines)
    assert [step for step, _ in reported] == [50, 100, 150, 200]
    layers = ("conv1", "conv2", "conv3")
    expected = {f"{key}/{layer}" for key in ("spikes", "silent", "threshold") for layer in layers}
    assert set(reported[0][1]) == expected
    assert set(reported[1][1]) == expected | {"time/fps"}
    # 25 steps of two environments in 25 seconds
    assert reported[1][1]["time/fps"] == ENVS
    for _, numbers in reported:
        for layer in layers:
            # A layer's neurons fire at most once; all that fire in one environment are not silent.
            rate, silent = numbers[f"spikes/{layer}"], numbers[f"silent/{layer}"]
            assert rate - 1e-6 <= 1 - silent <= ENVS * rate + 1e-6
            assert numbers[f"threshold/{layer}"] > 0


def test_bar_follows_the_clock_and_reports_follow_the_steps(make_catch, monkeypatch):
    lines, reported = shown(make_catch, monkeypatch, 0.125, every=100_000)
    assert [step for step, _ in lines] == list(range(ENVS, 202, 8 * ENVS))
    assert reported == []


def test_a_resumed_run_reports_at_the_same_steps(make_catch, monkeypatch):
    reported: list[int] = []
    progress = Progress("stage", 200, [], lambda step, _: reported.append(step), every=50)
    model = SpikingDQN(
        "SpikingDQNPolicy", make_catch(ENVS), policy_kwargs={"network": "cartpole"}, buffer_size=100
    )
    model.num_timesteps = 48  # a checkpoint
    model.learn(100, callback=progress, reset_num_timesteps=False)
    progress.close()
    assert reported == [50, 100, 150]
