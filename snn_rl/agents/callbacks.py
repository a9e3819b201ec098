"""Training callbacks: progress bar and episode history."""

import math
import time
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.resumable import ResumableDQN
from snn_rl.core.conversion import spike_rates
from snn_rl.core.networks import SpikingNetwork

_RECENT = 100  # number of episodes in the mean return of the progress bar
_REFRESH_S = 1.0


class Episodes(BaseCallback):
    """Appends [step, return, length] of each full episode to `history`; ends at step `stop`."""

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
        total: Number of steps of the stage.
        history: Episodes recorded by `Episodes`.
        report: Function that receives the step and the numbers of the progress bar.
        every: Number of steps between two calls of `report`.
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
        # Reports depend on steps, not on time, so the length of the log is reproducible.
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
        """Returns the numbers of the progress bar; loss and return are omitted until available."""
        model = self.model
        assert isinstance(model, ResumableDQN)
        numbers = {"eps": model.exploration_rate}
        if model.last_loss is not None:
            numbers["loss"] = model.last_loss
        if self.history:
            numbers["reward"] = float(np.mean([row[1] for row in self.history[-_RECENT:]]))
        if isinstance(model, SpikingDQN) and isinstance(model.network, SpikingNetwork):
            rates = spike_rates(model.activity())
            names = model.network.spec.names()
            numbers |= {f"spikes/{n}": r for n, r in zip(names, rates, strict=False)}
        return numbers

    def close(self) -> None:
        """Closes the progress bar and leaves it on the screen."""
        self.bar.close()
