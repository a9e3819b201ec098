"""Callbacks: the progress bar, and the record of finished episodes."""

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from snn_rl.agents.dqn import SpikingDQN
from snn_rl.convert import spike_rates
from snn_rl.networks import SpikingNetwork

_RECENT = 100


class Episodes(BaseCallback):
    """Records [step, return, length] of every whole, unclipped episode; stops at a step.

    Args:
        history: Extended in place.
        stop: Ends the rollout once this many steps are taken.
    """

    def __init__(self, history: list[list[float]], stop: int):
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
    """A progress bar with reward, epsilon, loss and spike rates; time left comes with the bar.

    Args:
        name: The stage's name.
        total: Steps of the whole stage.
        history: From `Episodes`.
        report: Also receives each line's numbers, by step.
        every: Steps between two refreshes of the numbers.
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
        self.next_refresh = 0
        self.bar = tqdm(total=total, desc=name, unit="step", dynamic_ncols=True, mininterval=1.0)

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        if self.num_timesteps >= self.next_refresh:
            self.next_refresh = self.num_timesteps + self.every
            numbers = self.numbers()
            self.bar.set_postfix({key: f"{value:.3g}" for key, value in numbers.items()})
            if self.report is not None:
                self.report(self.num_timesteps, numbers)
        return True

    def numbers(self) -> dict[str, float]:
        """What the bar shows."""
        model = self.model
        assert isinstance(model, SpikingDQN)
        numbers = {"eps": model.exploration_rate, "loss": model.last_loss}
        if self.history:
            numbers["reward"] = float(np.mean([row[1] for row in self.history[-_RECENT:]]))
        if isinstance(model.network, SpikingNetwork):
            rates = spike_rates(model.activity())
            names = model.network.spec.names()
            numbers |= {f"spikes/{n}": r for n, r in zip(names, rates, strict=False)}
        return numbers

    def close(self) -> None:
        """Leaves the finished bar on the screen."""
        self.bar.close()
