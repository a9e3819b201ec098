"""Loads trained agents from files, run directories, and the zoo."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from snn_rl import zoo
from snn_rl.agents.episodes import evaluate, progress_bar, summary
from snn_rl.agents.policies import SpikingQNetwork, network_spec
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    GREEDY,
    STICKY,
    Evaluation,
    Record,
    Settings,
    flat,
    read_settings,
    section,
    settings_from,
    stages_in,
)
from snn_rl.chain.stages import ANN
from snn_rl.configs.schema import RolloutConfig
from snn_rl.core.networks import AnalogNetwork, SpikingNetwork
from snn_rl.envs import STACK, make_env
from snn_rl.files import hub
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_network, load_tensors, save_network
from snn_rl.files.importing import load_any
from snn_rl.formats.event import EventDriven
from snn_rl.utils.errors import UserError
from snn_rl.utils.plugins import is_reference


@dataclass(frozen=True)
class Agent:
    """A trained network and the settings of its environment.

    Attributes:
        stage: Name of the stage.
        q_net: Q-network, on its device.
        settings: Settings of the stage's training, keyed by full name.
    """

    stage: str
    q_net: SpikingQNetwork
    settings: dict[str, Any]

    @classmethod
    def of_network(
        cls, network: AnalogNetwork | SpikingNetwork, env: str | None = None, device: str = "auto"
    ) -> "Agent":
        """Returns an agent for stacked frames; `evaluate` requires `env`, the environment id."""
        rollout = RolloutConfig(frame_stack=network.spec.input_shape[0])
        stage = f"T{network.timesteps}" if isinstance(network, SpikingNetwork) else ANN
        q_net = _q_network(network).to(get_device(device))
        return cls(stage, q_net, {"env": env, **flat("rollout", rollout)})

    @property
    def network(self) -> AnalogNetwork | SpikingNetwork:
        """Network inside the Q-network."""
        return self.q_net.network

    @property
    def timesteps(self) -> int | None:
        """Number of timesteps per decision; None for an ANN."""
        return self.network.timesteps if isinstance(self.network, SpikingNetwork) else None

    @property
    def env(self) -> str:
        """Id of the environment."""
        if self.settings["env"] is None:
            raise UserError("the environment of this agent is unknown: pass its id as env=")
        return str(self.settings["env"])

    @property
    def rollout(self) -> RolloutConfig:
        """Settings of the observations and the step limit."""
        return section(self.settings, "rollout", RolloutConfig)

    @property
    def cap(self) -> int:
        """Agent steps at which an episode is truncated."""
        return self.rollout.cap

    def make_env(self, n_envs: int, seed: int, sticky: float = 0.0) -> VecEnv:
        """Creates environments for evaluation, see `evaluation_env`."""
        return evaluation_env(self.env, self.rollout, n_envs, seed, sticky)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns greedy actions and the network's state, see `SpikingQNetwork.predict`."""
        return self.q_net.predict(*args, **kwargs)

    def evaluate(
        self,
        episodes: int = 20,
        seed: int = 1_000_000,
        sticky: float = 0.0,
        epsilon: float = 0.0,
        ann: "Agent | None" = None,
    ) -> Evaluation:
        """Plays full episodes with unclipped rewards, and prints the mean return ± std.

        Args:
            episodes: Number of episodes.
            seed: Seed of the first episode; the next episodes use seed + 1, seed + 2, ...
            sticky: Sticky-action probability, commonly 0.25. Without sticky actions, episodes of
                Atari games are nearly deterministic.
            epsilon: Probability of a random action.
            ann: Agent whose actions are compared with this agent's, see `Evaluation.agreement`.

        Raises:
            UserError: The environment of the agent is unknown.
        """
        title = f"{self.stage} {STICKY if sticky else GREEDY}"
        with progress_bar(title, episodes, partial(self.make_env, sticky=sticky)) as make_env:
            teacher = ann.q_net if ann else None
            results = evaluate(self.q_net, make_env, episodes, seed, epsilon, teacher=teacher)
        print(f"{title}: {summary(results)}", flush=True)
        return results

    def save(self, path: str | Path) -> None:
        """Saves the network to a safetensors file for `load` and `SpikingDQN.load`."""
        save_network(Path(path), self.network, {"env": self.settings["env"]})


def _q_network(network: AnalogNetwork | SpikingNetwork) -> SpikingQNetwork:
    images = spaces.Box(0, 255, network.spec.input_shape, np.uint8)
    q_net = SpikingQNetwork(images, spaces.Discrete(network.spec.outputs), network)
    q_net.set_training_mode(False)
    return q_net


def load(
    source: str | Path,
    T: int | None = None,
    env: str | None = None,
    device: str = "auto",
    **options: Any,
) -> Agent:
    """Loads an included agent, or an agent from a run directory or a file.

    Args:
        source: One of

            - the environment id of an included agent;
            - the directory of a run, of one of its stages, or of a downloaded agent;
            - a repository on the Hugging Face Hub, USER/NAME, that `snn_rl.publish` uploaded;
            - a file: network.safetensors, a zip file of a Stable-Baselines3 DQN with CnnPolicy, or
              a PyTorch state dict.
        T: Number of timesteps of the agent, for a run or an environment id; None for the smallest.
        env: Environment id. For a file, `Agent.evaluate` requires it; other agents must have been
            trained in this environment.
        device: "auto", "cpu", "cuda", ...
        **options: Options of `snn_rl.files.importing.load_any` for files of other libraries.

    Raises:
        UserError: The agent does not exist, or its files are damaged.
    """
    path = Path(source)
    if path.name == run_directory.NETWORK and (path.parent / run_directory.SETTINGS).exists():
        path = path.parent
    if path.is_file():
        network = load_any(path, **options)
        return Agent.of_network(network, env or _noted_env(path), device)
    if not path.exists() and not (zoo.ROOT / source).exists() and hub.is_repository(str(source)):
        path = _downloaded(str(source))
    if (path / hub.CONFIG).exists():
        agent = _load_shared(path, env, device)
    else:
        if not (path / run_directory.SETTINGS).exists():
            path = _stage_of(path if path.is_dir() else zoo.ROOT / source, str(source), T)
        agent = load_agent(path, device)
    if env not in (None, agent.env):
        raise UserError(f"{source} was trained in {agent.env}, not in env={env}")
    if T not in (None, agent.timesteps):
        kind = f"an agent with T={agent.timesteps}" if agent.timesteps else "an ANN"
        raise UserError(f"{source} is {kind}, not an agent with T={T}")
    return agent


def _stage_of(run: Path, name: str, T: int | None) -> Path:
    """Returns the directory of a run's finished stage with T timesteps, or with the fewest."""
    done = stages_in(run, run_directory.DONE)
    spiking = [each for each in done if each.timesteps and T in (None, each.timesteps)]
    if spiking:
        return run / min(spiking, key=lambda each: (each.timesteps, each.order)).name
    if done:
        names = ", ".join(each.name for each in done)
        wanted = "spiking agent" if T is None else f"agent with T={T}"
        raise UserError(f"{name} has no finished {wanted}, only the stages {names}")
    included = ", ".join(sorted(each.name for each in zoo.ROOT.iterdir() if each.is_dir()))
    raise UserError(
        f"no agent {name}: expected a file, the directory of a run or a stage, or the environment "
        f"of an included agent ({included})"
    )


def _noted_env(path: Path) -> str | None:
    """Returns the environment id in the metadata of a network file, if any."""
    try:
        env = load_tensors(path)[1].get("env")
    except UserError:
        return None
    return None if env is None else str(env)


def evaluation_env(
    env: str,
    rollout: RolloutConfig,
    n_envs: int,
    seed: int,
    sticky: float = 0.0,
) -> VecEnv:
    """Creates environments with full episodes and unclipped rewards; ignores rollout.sticky."""
    return make_env(
        env,
        n_envs,
        seed,
        training=False,
        frame_stack=rollout.frame_stack,
        frames=rollout.frames,
        sticky=sticky,
        cap=rollout.cap,
        full_action_space=rollout.full_action_space,
    )


@dataclass(frozen=True)
class _NetworkSettings(Record):
    """Settings of a stage that determine its network."""

    env: str
    network: str
    bias: bool


def load_agent(directory: Path, device: str = "auto", engine: str = "dense") -> Agent:
    """Loads the agent of a finished stage.

    Args:
        directory: Directory of the stage.
        device: "auto", "cpu", "cuda", ...; the event engine always runs on the CPU.
        engine: "dense", or "event" for an exact stage on `snn_rl.event.engine`.
    """
    paths = directory / run_directory.SETTINGS, directory / run_directory.NETWORK
    return _agent(directory.name, read_settings(directory), *paths, device, engine)


def _downloaded(source: str) -> Path:
    """Returns the folder of a repository on the Hugging Face Hub."""
    try:
        folder = hub.download(source)
    except UserError as error:
        raise UserError(f"there is no file or directory {source}, and {error}") from None
    if not (folder / hub.CONFIG).exists():
        raise UserError(
            f"the repository {source} holds no agent of snn_rl: {hub.CONFIG} is missing"
        )
    return folder


def _load_shared(folder: Path, env: str | None, device: str) -> Agent:
    """Loads the agent of a repository on the Hugging Face Hub.

    Names of modules in its files are not imported, except for the environment that the user names.
    """
    path = folder / hub.CONFIG
    config = read_json(path)
    if not isinstance(config, dict) or config.get("library_name") != "snn_rl":
        raise UserError(f"{path} does not describe an agent of snn_rl")
    settings = settings_from(config.get("settings"), path)
    trained_in = str(settings["env"])
    if is_reference(trained_in) and trained_in != env:
        module = trained_in.partition(":")[0]
        raise UserError(f"this agent needs your module {module}: pass env={trained_in!r}")
    network = load_tensors(folder / hub.MODEL)[1].get("network")
    if isinstance(network, dict) and is_reference(str(network.get("surrogate"))):
        raise UserError(f"{folder / hub.MODEL} names a module: surrogate={network['surrogate']}")
    return _agent(str(config.get("stage", "agent")), settings, path, folder / hub.MODEL, device)


def _agent(
    stage: str, settings: Settings, origin: Path, path: Path, device: str, engine: str = "dense"
) -> Agent:
    """Loads an agent from a network file and its settings, which were read from `origin`."""
    own = _NetworkSettings.from_json(settings, origin)
    rollout = section(settings, "rollout", RolloutConfig)
    network, _ = load_network(path)
    channels = network.spec.input_shape[0]
    if rollout.frames == STACK and rollout.frame_stack > channels:
        raise UserError(
            f"{path} does not fit rollout.frame_stack={rollout.frame_stack}: the network expects "
            f"{channels} channels"
        )
    # The file stores the layers of a module:function network, which may not be importable.
    layers = network.spec.to_dict() if is_reference(own.network) else own.network
    try:
        env = evaluation_env(own.env, rollout, 1, 0)
        needed = network_spec(layers, env.observation_space, env.action_space, own.bias)
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from None
    if network.spec != needed:
        raise UserError(
            f"{path} does not fit env={own.env}: its input shape is {network.spec.input_shape} "
            f"with {network.spec.outputs} outputs, expected {needed.input_shape} with "
            f"{needed.outputs} outputs and the layers of network={own.network}"
        )
    env.close()
    if engine == "event":
        assert isinstance(network, SpikingNetwork)
        network, device = EventDriven(network), "cpu"
    return Agent(stage, _q_network(network).to(get_device(device)), settings)
