"""Callbacks of a stage's training: progress bar and record of the episodes."""

import math
import time
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from snn_rl.agents.dqn import SpikingDQN
from snn_rl.core.conversion import spike_rates
from snn_rl.core.networks import SpikingNetwork

_RECENT = 100  # episodes in the mean return of the progress bar
_REFRESH_S = 1.0


class Episodes(BaseCallback):
    """Records [step, return, length] of each full game, and stops the rollout at a step.

    Args:
        history: List that is extended in place.
        stop: Number of steps at which the rollout stops.
    """

    def __init__(self, history: list[list[float]], stop: float = math.inf):
        super().__init__()
        self.history = history
        self.stop = stop

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                episode = info["episode"]
                self.history.append([self.num_timesteps, float(episode["r"]), int(episode["l"])])
        return self.num_timesteps < self.stop


class Progress(BaseCallback):
    """Progress bar with mean return, epsilon, loss and spike rates, refreshed once per second.

    Args:
        name: Name of the stage.
        total: Steps of the stage.
        history: Episodes recorded by `Episodes`.
        report: Function that also receives the step and the numbers.
        every: Steps between two reports.
    """

    def __init__(
        self,
        name: str,
        total: int,
        history: list[list[float]],
        report: Callable[[int, dict[str, float]], None] | None = None,
        every: int = 2_000,
    ):
        super().__init__()
        self.history = history
        self.report = report
        self.every = every
        self.next_report = 0
        self.next_refresh = 0.0
        self.bar = tqdm(
            total=total, desc=name, unit="step", dynamic_ncols=True, mininterval=_REFRESH_S
        )

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        # Reports follow the steps and not the clock, so the log has the same length everywhere.
        report = self.report if self.num_timesteps >= self.next_report else None
        if report is not None or time.monotonic() >= self.next_refresh:
            numbers = self.numbers()
            self.bar.set_postfix({key: f"{value:.3g}" for key, value in numbers.items()})
            self.next_refresh = time.monotonic() + _REFRESH_S
            if report is not None:
                self.next_report = self.num_timesteps + self.every
                report(self.num_timesteps, numbers)
        return True

    def numbers(self) -> dict[str, float]:
        """Returns the numbers of the progress bar; loss and return are missing before the first."""
        model = self.model
        assert isinstance(model, SpikingDQN)
        numbers = {"eps": model.exploration_rate}
        if model.last_loss is not None:
            numbers["loss"] = model.last_loss
        if self.history:
            numbers["reward"] = float(np.mean([row[1] for row in self.history[-_RECENT:]]))
        if isinstance(model.network, SpikingNetwork):
            rates = spike_rates(model.activity())
            names = model.network.spec.names()
            numbers |= {f"spikes/{n}": r for n, r in zip(names, rates, strict=False)}
        return numbers

    def close(self) -> None:
        """Closes the progress bar and leaves it on the screen."""
        self.bar.close()
