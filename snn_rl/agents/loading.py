"""Trials of a finished stage: its agent as the run's directory describes it, and its games."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from tqdm import tqdm

from snn_rl import zoo
from snn_rl.agents import Evaluation, SpikingQNetwork, evaluate, plan
from snn_rl.agents.policies import network_spec
from snn_rl.chain import run_directory
from snn_rl.chain.runner import DONE, SETTINGS, is_done
from snn_rl.chain.stages import ANALOG, ANN
from snn_rl.configs.schema import Config
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import SpikingNetwork
from snn_rl.envs import make_env
from snn_rl.files.atomic import read_json, write_json
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.formats.event import EventDriven
from snn_rl.utils.errors import UserError


@dataclass(frozen=True)
class Trials:
    """Which games are played.

    Attributes:
        episodes: Games of each column.
        seed: Of the first game.
        epsilon: Probability of a random action.
        sticky: Sticky-action probability of the sticky column; the greedy column has none.
    """

    episodes: int
    seed: int
    epsilon: float
    sticky: float

    @classmethod
    def chosen(cls, config: Config) -> "Trials":
        """The trials that the settings ask for."""
        return cls(config.episodes, config.eval.seed, config.eval.epsilon, config.eval.sticky)


@dataclass(frozen=True)
class Agent:
    """A finished stage's network, with the environment it was made for.

    Attributes:
        stage: ann, T1, ...
        q_net: Q-values from observations, on its device.
        settings: What the stage was trained with, flat, from its settings.json.
        notes: What stands beside the weights: steps, updates, wall_s, ...
    """

    stage: str
    q_net: SpikingQNetwork
    settings: dict[str, Any]
    notes: dict[str, Any]

    @property
    def env(self) -> str:
        """The environment's id."""
        return str(self.settings["env"])

    @property
    def cap(self) -> int:
        """Agent steps after which a game is cut off."""
        return int(self.settings["rollout.cap"])

    def make_env(self, n_envs: int, seed: int, sticky: float = 0.0, render: bool = False) -> VecEnv:
        """Whole, unclipped games with the observations that the agent was trained on."""
        return whole_games(self.settings, n_envs, seed, sticky, render)


def whole_games(
    settings: dict[str, Any], n_envs: int, seed: int, sticky: float = 0.0, render: bool = False
) -> VecEnv:
    """Whole, unclipped games with the observations of a stage.

    Args:
        settings: The stage's env and rollout, flat.
        n_envs: See `make_env`.
        seed: See `make_env`.
        sticky: See `make_env`; what the stage was trained with plays no part.
        render: See `make_env`.
    """
    return make_env(
        settings["env"],
        n_envs,
        seed,
        training=False,
        frame_stack=settings["rollout.frame_stack"],
        frames=settings["rollout.frames"],
        sticky=sticky,
        cap=settings["rollout.cap"],
        render=render,
    )


def load_agent(directory: Path, device: str = "auto", engine: str = "dense") -> Agent:
    """Loads a stage's network and what it was trained with.

    Args:
        directory: Of the stage.
        device: "auto", "cpu", "cuda", ...; the event-driven engine runs on the processor.
        engine: "dense", or "event": the stage is on the grid and decides by `snn_rl.event.engine`.

    Raises:
        UserError: A file is missing or damaged, the network does not fit the environment, or the
            engine cannot run it.
    """
    settings = read_json(directory / SETTINGS)
    path = directory / run_directory.NETWORK
    network, notes = load_network(path)
    env = whole_games(settings, 1, 0)
    needed = network_spec(
        settings["network"], env.observation_space, env.action_space, settings["bias"]
    )
    if network.spec != needed:
        raise UserError(
            f"{path} does not fit env={settings['env']}: it takes images "
            f"{network.spec.input_shape} to {network.spec.outputs} Q-values, needed are "
            f"{needed.input_shape} and {needed.outputs}, with the layers of "
            f"network={settings['network']}"
        )
    spiking: dict[str, Any] = {}
    if isinstance(network, SpikingNetwork):
        spiking = asdict(network.options)
    q_net = SpikingQNetwork(
        env.observation_space,
        env.action_space,  # type: ignore[arg-type]
        settings["network"],
        bias=settings["bias"],
        **spiking,
    )
    env.close()
    q_net.network.load_state_dict(network.state_dict())
    q_net.set_training_mode(False)
    if engine == "event":
        assert isinstance(network, SpikingNetwork)
        q_net.network = EventDriven(network)
        device = "cpu"
    return Agent(directory.name, q_net.to(get_device(device)), settings, notes)


def evaluate_stage(directory: Path, trials: Trials, device: str = "auto") -> None:
    """Plays the trials of a finished stage and writes what came of them to its metrics.json.

    Args:
        directory: Of the stage.
        trials: The games.
        device: See `load_agent`.

    Raises:
        UserError: See `load_agent`.
    """
    agent = load_agent(directory, device)
    ann = directory.parent / ANN
    teacher = load_agent(ann, device) if directory.name not in ANALOG and is_done(ann) else None
    results = evaluate_agent(agent, trials, teacher)
    results |= {key: agent.notes[key] for key in ("steps", "updates", "wall_s")}
    for column in ("greedy", "sticky"):
        print(f"{agent.stage} {column}: {summary(results[column])}", flush=True)
    write_json(directory / run_directory.METRICS, results)


def evaluate_agent(agent: Agent, trials: Trials, ann: Agent | None = None) -> dict[str, Any]:
    """Plays the greedy and the sticky trials, with a progress bar.

    Args:
        agent: Who plays.
        trials: The games.
        ann: Whose actions the agent's are compared with, see `Evaluation.agreement`.

    Returns:
        "evaluation": the trials; "greedy" and "sticky": each an `Evaluation.to_dict`.
    """
    results: dict[str, Any] = {"evaluation": asdict(trials)}
    for column, sticky in (("greedy", 0.0), ("sticky", trials.sticky)):
        results[column] = _play(agent, trials, column, sticky, ann).to_dict()
    return results


def summary(column: dict[str, Any]) -> str:
    """One line on one column of `evaluate_agent`."""
    text = (
        f"{column['mean']:.2f} ± {column['std']:.2f} over {column['episodes']} games, "
        f"{column['distinct']} of them distinct"
    )
    agreement = column.get("agreement")
    return text if agreement is None else f"{text}; {agreement:.1%} of its actions are the ANN's"


def _play(
    agent: Agent, trials: Trials, column: str, sticky: float, ann: Agent | None
) -> Evaluation:
    with tqdm(
        total=trials.episodes, desc=f"{agent.stage} {column}", unit="game", dynamic_ncols=True
    ) as bar:

        def make_watched(n_envs: int, seed: int) -> VecEnv:
            return _Watched(agent.make_env(n_envs, seed, sticky), bar)

        return evaluate(
            agent.q_net,
            make_watched,
            trials.episodes,
            trials.seed,
            trials.epsilon,
            teacher=ann.q_net if ann else None,
        )


class _Watched(VecEnvWrapper):
    """Moves a progress bar when an environment's first game ends."""

    def __init__(self, venv: VecEnv, bar: "tqdm[Any]"):
        super().__init__(venv)
        self.bar = bar
        self.steps = 0
        self.playing = set(range(venv.num_envs))

    def reset(self) -> Any:
        """Resets all environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step and counts the games that it ended."""
        result = self.venv.step_wait()
        self.steps += 1
        for i in list(self.playing):
            episode = result[3][i].get("episode")
            if episode is not None:
                self.playing.remove(i)
                self.bar.update()
        if self.steps % 50 == 0:
            self.bar.set_postfix_str(f"{self.steps} steps into {self.num_envs} games")
        return result


EVALUATION = "evaluation.json"


KIND_OF_CHAIN = ("direct", "stages", "carry_state", "exact", "T_start", "T_step")


# the settings that say which agent is meant and where it runs
WHICH_AGENT = ("env", "T", "seed", "run_dir", "runs", *KIND_OF_CHAIN, "device", "threads")


@dataclass(frozen=True)
class FinishedStage:
    """A stage that is done.

    Attributes:
        directory: Where it is, to be read.
        output: Where to write what it does: the same, unless the agent ships with the package.
        chain: Where the other stages of its chain are, if not beside it.
    """

    directory: Path
    output: Path
    chain: Path | None = None

    def beside(self, name: str) -> "FinishedStage":
        """Another stage of the same chain, by name."""
        chain = self.chain or self.directory.parent
        return FinishedStage(chain / name, self.output.parent / name)


def find_stage(config: Config) -> FinishedStage:
    """The finished stage that is asked for, of the user's own run or of those that ship.

    One that ships is taken, and a line says so, if neither run_dir nor another seed than the
    default asks for a certain run, and that run has no such stage. Of one that ships, the exact
    stage is made on the spot.

    Raises:
        UserError: There is none; see `stage_directory`.
    """
    stage, run = plan.chain(config)[-1], plan.directory_of(config)
    name, folder = stage.name, zoo.ROOT / config.env
    shipped = folder / (stage.source if stage.exact and stage.source else name)
    asked_for = config.run_dir is not None or config.seed != Config.seed
    if asked_for or is_done(run / name) or not is_done(shipped):
        directory = stage_directory(config)
        return FinishedStage(directory, directory)
    print(f"{run} has no finished {name}: this is the one that ships with snn_rl, {shipped}")
    output = run.parent / "zoo" / name
    if not stage.exact:
        return FinishedStage(shipped, output)
    put_on_grid(shipped, output)
    return FinishedStage(output, output, folder)


def put_on_grid(source: Path, target: Path) -> None:
    """Makes the exact stage of a finished T=1 stage.

    Args:
        source: Directory of the T=1 stage.
        target: Directory of the exact one.

    Raises:
        UserError: A file is damaged, or cannot be written.
    """
    network, notes = load_network(source / run_directory.NETWORK)
    assert isinstance(network, SpikingNetwork)
    own = {key: note for key, note in notes.items() if key not in ("schema", "network")}
    save_network(target / run_directory.NETWORK, quantize(network), own)
    settings = read_json(source / SETTINGS) | {"exact": True, "source": source.name}
    write_json(target / SETTINGS, settings)
    write_json(target / DONE, {"stage": target.name})


def stage_directory(config: Config) -> Path:
    """Directory of the finished stage of a run that env, T, seed, run_dir, ... name.

    Raises:
        UserError: The run has no such stage, or it is another environment's.
    """
    stage = plan.chain(config)[-1]
    directory = plan.directory_of(config) / stage.name
    if not is_done(directory):
        train = agent_command("train", config, ("seed", "run_dir", "runs", *KIND_OF_CHAIN))
        raise UserError(f"{directory.parent} has no finished {stage.name}: train it with `{train}`")
    trained_on = read_json(directory / SETTINGS)["env"]
    if trained_on != config.env:
        raise UserError(f"{directory.parent} is a run of env={trained_on}, not of {config.env}")
    return directory


def agent_command(command: str, config: Config, keys: Sequence[str] = KIND_OF_CHAIN) -> str:
    """A command line for the agent that the settings mean.

    Args:
        command: train, evaluate, ...
        config: The settings.
        keys: Those that are named besides env and T, if they are not at their defaults.
    """
    words = [f"python -m snn_rl.{command} env={config.env} T={config.T}"]
    for key in keys:
        value = getattr(config, key)
        if value != getattr(Config, key):
            words.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(words)
