"""One episode of an agent as images, and its video."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from snn_rl.agents.loading import Agent
from snn_rl.core.networks import SpikingNetwork, State
from snn_rl.envs import family
from snn_rl.reports import video
from snn_rl.reports.video import Labels, Moment, Picture


class Episode:
    """Episode of a spiking agent, played while it is iterated over, once.

    Yields a `Moment` for every decision, and a last one with the final return.

    Attributes:
        score: Return so far.
        steps: Number of decisions so far.
        over: True if the episode has ended.
        labels: Names of the layers and actions in the images.
    """

    def __init__(self, agent: Agent, seed: int, epsilon: float = 0.0, max_steps: int = 2_000):
        self.q_net = agent.q_net
        self.epsilon = epsilon
        self.max_steps = max_steps
        self.score, self.steps, self.over = 0.0, 0, False
        self._rng = np.random.default_rng([seed, 1])
        self._env = agent.make_env(1, seed)
        self._family, self._unwrapped = family(agent.env), self._env.get_attr("unwrapped")[0]
        network = agent.q_net.network
        assert isinstance(network, SpikingNetwork)
        self._state: State | None = None
        actions = self._family.action_names(self._unwrapped)
        self.labels = Labels(agent.env, network.timesteps, network.spec.names()[:-1], actions)

    def __iter__(self) -> Iterator[Moment]:
        try:
            obs = np.asarray(self._env.reset())
            while not self.over and self.steps < self.max_steps:
                moment = self._decide(obs)
                yield moment
                stepped, rewards, dones, _ = self._env.step(np.array([moment.action]))
                obs = np.asarray(stepped)
                self.score += float(rewards[0])
                self.steps += 1
                self.over = bool(dones[0])
            # the environment resets itself at the end, so the last image is shown twice
            yield replace(moment, score=self.score, step=self.steps)
        finally:
            self._env.close()

    def _decide(self, obs: NDArray[np.uint8]) -> Moment:
        actions, q_values, layers, self._state = self.q_net.decide(obs, self._state)
        q, action = q_values[0].cpu().numpy(), int(actions[0])
        if self.epsilon > 0 and self._rng.random() < self.epsilon:
            action = int(self._rng.integers(len(q)))
        spikes = [layer[:, 0].mean(0).cpu().numpy() for layer in layers]
        rates = [float(layer[:, 0].sum(0).mean()) for layer in layers]
        picture = self._family.picture(self._unwrapped)
        return Moment(picture, spikes, rates, q, action, self.score, self.steps)


def pictures(episode: Episode, overlay: bool) -> Iterator[Picture]:
    """Plays an episode and yields its images, with a progress bar."""
    with tqdm(total=episode.max_steps, desc="play", unit="step", dynamic_ncols=True) as bar:
        for moment in episode:
            enlarged = video.enlarge(moment.picture, 1200, 640)
            yield video.overlay(moment, episode.labels) if overlay else enlarged
            bar.update(moment.step - bar.n)


def record_video(episode: Episode, path: Path, overlay: bool = True, fps: int = 30) -> None:
    """Plays an episode and writes its video."""
    write = video.write_gif if path.suffix == ".gif" else video.write_mp4
    write(path, pictures(episode, overlay), fps)
