"""Training callbacks: progress bar and episode history."""

import math
import time
from collections.abc import Callable

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from tqdm import tqdm

from snn_rl.agents.dqn import SpikingDQN
from snn_rl.agents.resumable import ResumableDQN
from snn_rl.core.conversion import spike_rates
from snn_rl.core.lif import LIF
from snn_rl.core.networks import SpikingNetwork

_RECENT = 100  # number of episodes in the mean return of the progress bar
_REFRESH_S = 1.0
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


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
    """Progress bar with mean return, epsilon and spike rate, refreshed once per second.

    Args:
        name: Name of the stage.
        total: Number of steps of the stage.
        history: Episodes recorded by `Episodes`.
        report: Function that receives the step and the numbers of the TensorBoard log.
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
        self.before = 0  # number of steps at the last call
        self.next_refresh = 0.0
        self.last_report: tuple[int, float] | None = None  # step and time
        self.bar = tqdm(
            total=total,
            desc=name,
            unit_scale=True,
            bar_format=_BAR,
            dynamic_ncols=True,
            mininterval=_REFRESH_S,
        )

    def _on_training_start(self) -> None:
        self.before = self.model.num_timesteps

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        now = time.monotonic()
        if now >= self.next_refresh:
            self.bar.set_postfix({key: f"{value:.3g}" for key, value in self._short().items()})
            self.next_refresh = now + _REFRESH_S
        # Reports depend on steps only, so a resumed run reports at the same steps.
        if self.report and self.num_timesteps // self.every > self.before // self.every:
            self.report(self.num_timesteps, self.numbers())
        self.before = self.num_timesteps
        return True

    def numbers(self) -> dict[str, float]:
        """Returns the numbers of the TensorBoard log; returns are omitted until available.

        The numbers of a layer are the spikes per neuron and decision, the share of neurons that do
        not fire in any environment at the last step, and the threshold.
        """
        found = {}
        if self.history:
            _, returns, lengths = zip(*self.history[-_RECENT:], strict=True)
            found["rollout/ep_rew_mean"] = float(np.mean(returns))
            found["rollout/ep_len_mean"] = float(np.mean(lengths))
        now = time.monotonic()
        if self.last_report is not None and now > self.last_report[1]:
            step, then = self.last_report
            found["time/fps"] = (self.num_timesteps - step) / (now - then)
        self.last_report = self.num_timesteps, now
        for name, rate, layer, neurons in self._layers():
            found[f"spikes/{name}"] = rate
            found[f"silent/{name}"] = float((layer.flatten(0, 1) == 0).all(0).double().mean())
            found[f"threshold/{name}"] = float(neurons.v_threshold.detach())
        return found

    def _short(self) -> dict[str, float]:
        """Returns the numbers of the progress bar."""
        assert isinstance(self.model, ResumableDQN)
        found = {}
        if self.history:
            found["reward"] = float(np.mean([row[1] for row in self.history[-_RECENT:]]))
        found["eps"] = self.model.exploration_rate
        layers = self._layers()
        if layers:
            spikes = sum(rate * layer[0, 0].numel() for _, rate, layer, _ in layers)
            found["spikes"] = spikes / sum(layer[0, 0].numel() for _, _, layer, _ in layers)
        return found

    def _layers(self) -> list[tuple[str, float, Tensor, LIF]]:
        """Returns name, spike rate, activity and neurons of each hidden layer of an SNN."""
        model = self.model
        if not isinstance(model, SpikingDQN) or not isinstance(model.network, SpikingNetwork):
            return []
        activity, network = model.activity(), model.network
        rates = spike_rates(activity)
        return list(zip(network.spec.names()[:-1], rates, activity, network.neurons, strict=True))

    def close(self) -> None:
        """Closes the progress bar and leaves it on the screen."""
        self.bar.close()
