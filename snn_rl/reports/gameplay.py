"""One episode of an agent as pictures, and its video."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from snn_rl.agents.loading import Agent, load_agent
from snn_rl.core.networks import SpikingNetwork, State
from snn_rl.envs import family
from snn_rl.reports import video
from snn_rl.reports.video import Labels, Moment, Picture


class Game:
    """One game of a spiking agent, to be iterated over once.

    Yields a `Moment` for every decision, and a last one with the final return.

    Args:
        agent: Who plays.
        seed: Of the game.
        epsilon: Probability of a random action.
        max_steps: Decisions at most.

    Attributes:
        score: Return so far.
        steps: Decisions so far.
        over: Whether the game has ended.
        labels: The names of what is seen.
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
        self.labels = Labels(
            agent.env,
            network.timesteps,
            network.spec.names()[:-1],
            self._family.action_names(self._unwrapped),
        )

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
            # a finished game's own last picture is gone: its environment has started the next one
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
        return Moment(
            self._family.picture(self._unwrapped), spikes, rates, q, action, self.score, self.steps
        )


def pictures(game: Game, overlay: bool) -> Iterator[Picture]:
    """The game's pictures, with a progress bar.

    Args:
        game: Played as the pictures are taken.
        overlay: Whether spikes and Q-values stand beside the game.
    """
    with tqdm(total=game.max_steps, desc="play", unit="step", dynamic_ncols=True) as bar:
        for moment in game:
            yield video.overlay(moment, game.labels) if overlay else video.plain(moment)
            bar.update(moment.step - bar.n)


def record_video(
    directory: Path,
    path: Path,
    seed: int,
    epsilon: float = 0.0,
    overlay: bool = True,
    max_steps: int = 2_000,
    fps: int = 30,
    device: str = "auto",
    engine: str = "dense",
) -> Game:
    """Writes a finished stage's agent at play as mp4, or as gif by the suffix of the path.

    Args:
        directory: Of the stage.
        path: The file.
        seed: Of the game.
        epsilon: Probability of a random action.
        overlay: Whether spikes and Q-values stand beside the game.
        max_steps: Decisions at most.
        fps: Pictures a second.
        device: See `load_agent`.
        engine: See `load_agent`.

    Returns:
        The game that was played.

    Raises:
        UserError: The stage's files are damaged, or the video cannot be written.
    """
    game = Game(load_agent(directory, device, engine), seed, epsilon, max_steps)
    write = video.write_gif if path.suffix == ".gif" else video.write_mp4
    write(path, pictures(game, overlay), fps)
    return game
