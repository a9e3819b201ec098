"""Finds the finished stage that the settings name, and loads its agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from snn_rl import zoo
from snn_rl.agents import plan
from snn_rl.agents.policies import SpikingQNetwork, network_kwargs, network_spec
from snn_rl.chain import run_directory
from snn_rl.chain.records import AgentNotes, is_done, mark_done, read_settings, section
from snn_rl.configs.schema import Config, RolloutConfig
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import SpikingNetwork
from snn_rl.envs import make_env
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.formats.event import EventDriven
from snn_rl.utils.errors import UserError
from snn_rl.utils.plugins import is_reference

# Settings that tell the stages of a run from each other
KIND_OF_CHAIN = ("direct", "stages", "carry_state", "exact", "T_start", "T_step")
# Settings that name an agent and the device
WHICH_AGENT = ("env", "T", "seed", "run_dir", "runs", *KIND_OF_CHAIN, "device", "threads")


@dataclass(frozen=True)
class Agent:
    """Network of a finished stage, with the settings of its environment.

    Attributes:
        stage: Name of the stage.
        q_net: Q-network, on its device.
        settings: Settings that the stage was trained with, by their full names.
    """

    stage: str
    q_net: SpikingQNetwork
    settings: dict[str, Any]

    @property
    def env(self) -> str:
        """Id of the environment."""
        return str(self.settings["env"])

    @property
    def rollout(self) -> RolloutConfig:
        """Settings of the environment's observations and step limit."""
        return section(self.settings, "rollout", RolloutConfig)

    @property
    def cap(self) -> int:
        """Agent steps at which an episode is cut off."""
        return self.rollout.cap

    def make_env(self, n_envs: int, seed: int, sticky: float = 0.0) -> VecEnv:
        """Makes environments for evaluation, see `evaluation_env`."""
        return evaluation_env(self.env, self.rollout, n_envs, seed, sticky)


def evaluation_env(
    env: str,
    rollout: RolloutConfig,
    n_envs: int,
    seed: int,
    sticky: float = 0.0,
) -> VecEnv:
    """Makes environments with whole episodes and unclipped rewards.

    Args:
        env: Id of the environment.
        rollout: Settings of the observations and the step limit; its sticky-action probability is
            not used.
        n_envs: See `make_env`.
        seed: See `make_env`.
        sticky: See `make_env`.
    """
    return make_env(
        env,
        n_envs,
        seed,
        training=False,
        frame_stack=rollout.frame_stack,
        frames=rollout.frames,
        sticky=sticky,
        cap=rollout.cap,
    )


def load_agent(directory: Path, device: str = "auto", engine: str = "dense") -> Agent:
    """Loads the agent of a finished stage.

    Args:
        directory: Directory of the stage.
        device: "auto", "cpu", "cuda", ...; the event-driven engine runs on the CPU.
        engine: "dense", or "event" for an exact stage on `snn_rl.event.engine`.

    Raises:
        UserError: A file is missing or damaged, the network does not fit the environment, or the
            engine does not support the network.
    """
    settings = read_settings(directory)
    path = directory / run_directory.NETWORK
    network, _ = load_network(path)
    env = evaluation_env(settings["env"], section(settings, "rollout", RolloutConfig), 1, 0)
    # the file has the layers of module:function, which may not be importable here
    named = not is_reference(settings["network"])
    layers = settings["network"] if named else network.spec.to_dict()
    needed = network_spec(layers, env.observation_space, env.action_space, settings["bias"])
    if network.spec != needed:
        raise UserError(
            f"{path} does not fit env={settings['env']}: it maps {network.spec.input_shape} to "
            f"{network.spec.outputs} Q-values, but {needed.input_shape} to {needed.outputs} is "
            f"required, with the layers of network={settings['network']}"
        )
    q_net = SpikingQNetwork(
        env.observation_space,
        env.action_space,  # type: ignore[arg-type]
        **network_kwargs(network),
    )
    env.close()
    q_net.network.load_state_dict(network.state_dict())
    q_net.set_training_mode(False)
    if engine == "event":
        assert isinstance(network, SpikingNetwork)
        q_net.network = EventDriven(network)
        device = "cpu"
    return Agent(directory.name, q_net.to(get_device(device)), settings)


@dataclass(frozen=True)
class FinishedStage:
    """Finished stage of a run or of the zoo.

    Attributes:
        directory: Directory of the stage.
        output: Directory for the files of commands; differs from `directory` for the zoo.
        chain: Directory of the chain's other stages, if not the parent of `directory`.
    """

    directory: Path
    output: Path
    chain: Path | None = None

    def beside(self, name: str) -> "FinishedStage":
        """Returns another stage of the same chain, by name."""
        chain = self.chain or self.directory.parent
        return FinishedStage(chain / name, self.output.parent / name)


def find_stage(config: Config) -> FinishedStage:
    """Finds the finished stage that the settings name, in the user's runs or in the zoo.

    A stage of the zoo is used, and announced, if the user's run has no such stage and neither
    run_dir nor seed is set. The exact stage of the zoo's T=1 agent is made on the spot.

    Raises:
        UserError: There is no such stage.
    """
    stage, run = plan.chain(config)[-1], plan.directory_of(config)
    folder = zoo.ROOT / config.env
    shipped = folder / (stage.source if stage.exact and stage.source else stage.name)
    names_a_run = config.run_dir is not None or config.seed != Config.seed
    if names_a_run or is_done(run / stage.name) or not is_done(shipped):
        directory = stage_directory(config)
        return FinishedStage(directory, directory)
    print(f"{run} has no finished {stage.name}: using the agent that ships with snn_rl, {shipped}")
    output = run.parent / "zoo" / stage.name
    if not stage.exact:
        return FinishedStage(shipped, output)
    put_on_grid(shipped, output)
    return FinishedStage(output, output, folder)


def put_on_grid(source: Path, target: Path) -> None:
    """Makes the exact stage of a finished T=1 stage.

    Args:
        source: Directory of the T=1 stage.
        target: Directory of the exact stage.

    Raises:
        UserError: A file is damaged, or cannot be written.
    """
    path = source / run_directory.NETWORK
    network, notes = load_network(path)
    assert isinstance(network, SpikingNetwork)
    own = AgentNotes.from_json(notes, path).to_json()
    save_network(target / run_directory.NETWORK, quantize(network), own)
    settings = read_settings(source) | {"exact": True, "source": source.name}
    write_json(target / run_directory.SETTINGS, settings)
    mark_done(target)


def stage_directory(config: Config) -> Path:
    """Returns the directory of the finished stage that the settings name in a run.

    Raises:
        UserError: The run has no such stage, or belongs to another environment.
    """
    stage = plan.chain(config)[-1]
    directory = plan.directory_of(config) / stage.name
    if not is_done(directory):
        train = agent_command("train", config, ("seed", "run_dir", "runs", *KIND_OF_CHAIN))
        raise UserError(f"{directory.parent} has no finished {stage.name}: train it with `{train}`")
    trained_on = read_settings(directory)["env"]
    if trained_on != config.env:
        raise UserError(f"{directory.parent} is a run of env={trained_on}, not of {config.env}")
    return directory


def agent_command(command: str, config: Config, keys: Sequence[str] = KIND_OF_CHAIN) -> str:
    """Returns a command line for the agent that the settings name.

    Args:
        command: train, evaluate, ...
        config: Resolved settings.
        keys: Settings that are added to env and T where they are not at their defaults.
    """
    words = [f"python -m snn_rl.{command} env={config.env} T={config.T}"]
    for key in keys:
        value = getattr(config, key)
        if value != getattr(Config, key):
            words.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(words)
