"""Estimates of the training time."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from snn_rl.agents import plan, timing
from snn_rl.chain.records import mark_done
from snn_rl.chain.run_directory import NETWORK, SETTINGS
from snn_rl.configs.compose import compose
from snn_rl.configs.schema import Config
from snn_rl.envs.cartpole import CartPolePixels

SMALL = [
    *("network=4c5s4", "device=cpu", "state.hidden=8", "state.n_envs=4"),
    *("T_start=2", "iir.t1_steps=30000"),
]


def config(*overrides: str) -> Config:
    return compose(Config, ["env=CartPole-v1", *SMALL, *overrides])


def printed(settings: Config, run: Path, capsys: Any) -> dict[str, tuple[int, float]]:
    timing.print_estimate(settings, run, plan.chain(settings), {})
    rows = re.findall(r"^  (\S+) +([0-9,]+) steps +([0-9.]+) min$", capsys.readouterr().out, re.M)
    return {name: (int(steps.replace(",", "")), float(minutes)) for name, steps, minutes in rows}


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SECONDS", 0.02)


@pytest.mark.parametrize("more", [(), ("teacher=state",), ("carry_state=true", "carry.steps=9000")])
def test_the_estimate_lists_the_remaining_steps_of_all_stages(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(*more)
    stages = plan.chain(settings)
    rows = printed(settings, tmp_path, capsys)
    total = rows.pop("total")
    assert {name: steps for name, (steps, _) in rows.items()} == {
        stage.name: plan.stage_steps(settings, stage) for stage in stages
    }
    assert total[0] == sum(steps for steps, _ in rows.values())
    assert total[1] == pytest.approx(sum(minutes for _, minutes in rows.values()), abs=0.3)
    assert list(tmp_path.iterdir()) == []
    finished = tmp_path / stages[0].name
    mark_done(finished)
    for file in (NETWORK, SETTINGS):
        (finished / file).touch()
    assert printed(settings, tmp_path, capsys).keys() == rows.keys() - {stages[0].name} | {"total"}


def test_a_short_run_is_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config("dqn.steps=3000", "iir.t1_steps=0")
    assert printed(settings, tmp_path, capsys) == {}


def test_a_slow_environment_takes_longer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CartPolePixels.step

    def slow(self: CartPolePixels, action: Any) -> Any:
        time.sleep(0.01)
        return step(self, action)

    monkeypatch.setattr(CartPolePixels, "step", slow)
    steps, minutes = printed(config("stages=none"), tmp_path, capsys)["ann"]
    assert minutes >= 0.99 * steps * 0.01 / 60
