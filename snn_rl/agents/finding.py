"""Finds the finished stage that the settings of a command select, in runs and in the zoo."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snn_rl import zoo
from snn_rl.agents import plan
from snn_rl.chain import run_directory
from snn_rl.chain.records import AgentNotes, is_done, mark_done, read_settings
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import on_command_line
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import SpikingNetwork
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.utils.errors import UserError

# Settings that distinguish the stages of a run
KIND_OF_CHAIN = ("direct", "stages", "carry_state", "exact", "bits", "T_start", "T_step")
# Settings that select an agent and the device
WHICH_AGENT = ("env", "T", "seed", "run_dir", "runs", *KIND_OF_CHAIN, "device", "threads")


def selection(config: Config) -> str:
    """Returns the words of a command line that select the agent of a run."""
    words = {"env": config.env, "T": config.T}
    for name in WHICH_AGENT:
        value = getattr(config, name)
        if name not in ("device", "threads") and value != getattr(Config, name):
            words[name] = value
    return " ".join(f"{name}={on_command_line(value)}" for name, value in words.items())


@dataclass(frozen=True)
class FinishedStage:
    """Finished stage of a run or of the zoo.

    Attributes:
        directory: Directory of the stage.
        output: Directory for output files of commands; differs from `directory` for the zoo.
        chain: Parent directory of the other stages; None for the parent of `directory`.
    """

    directory: Path
    output: Path
    chain: Path | None = None

    def beside(self, name: str) -> "FinishedStage":
        """Returns another stage of the same chain."""
        chain = self.chain or self.directory.parent
        return FinishedStage(chain / name, self.output.parent / name)


def find_stage(config: Config) -> FinishedStage:
    """Finds the finished stage that the settings select, in the user's runs or in the zoo.

    If the run has no such stage and neither run_dir nor seed is set, prints a message and returns
    the stage of the zoo. The exact stage of a T=1 agent in the zoo is created on demand.
    """
    stage, run = plan.chain(config)[-1], plan.directory_of(config)
    folder = zoo.ROOT / config.env
    shipped = folder / (stage.source if stage.exact and stage.source else stage.name)
    names_a_run = config.run_dir is not None or config.seed != Config.seed
    if names_a_run or is_done(run / stage.name) or not is_done(shipped):
        directory = stage_directory(config)
        return FinishedStage(directory, directory)
    print(f"{run} has no finished {stage.name}: using the included agent {shipped}")
    name = "zoo" if config.bits == Config.bits else f"zoo-{config.bits}-bits"
    output = run.parent / name / stage.name
    if not stage.exact:
        return FinishedStage(shipped, output)
    put_on_grid(shipped, output, config.bits)
    return FinishedStage(output, output, folder)


def put_on_grid(source: Path, target: Path, bits: int = Config.bits) -> None:
    """Writes the exact stage of the T=1 stage in directory `source` to directory `target`."""
    path = source / run_directory.NETWORK
    network, notes = load_network(path)
    assert isinstance(network, SpikingNetwork)
    own = AgentNotes.from_json(notes, path).to_json()
    save_network(target / run_directory.NETWORK, quantize(network, bits, bits), own)
    settings = read_settings(source) | {"exact": True, "source": source.name}
    if bits != Config.bits:
        settings["bits"] = bits
    write_json(target / run_directory.SETTINGS, settings)
    mark_done(target)


def stage_directory(config: Config) -> Path:
    """Returns the directory of the finished stage that the settings select."""
    stage = plan.chain(config)[-1]
    directory = plan.directory_of(config) / stage.name
    if not is_done(directory):
        train = agent_command("train", config, ("seed", "run_dir", "runs", *KIND_OF_CHAIN))
        raise UserError(f"{directory.parent} has no finished {stage.name}: train it with `{train}`")
    settings = read_settings(directory)
    trained_on, bits = settings["env"], settings.get("bits", Config.bits)
    if trained_on != config.env:
        raise UserError(f"{directory.parent}: expected a run of {config.env}, got {trained_on}")
    if stage.exact and bits != config.bits:
        raise UserError(f"{directory} has weights with bits={bits}, not bits={config.bits}")
    return directory


def agent_command(command: str, config: Config, keys: Sequence[str] = KIND_OF_CHAIN) -> str:
    """Returns a command line with env, T, and those settings of `keys` that are not at default."""
    words = [f"python -m snn_rl.{command} env={config.env} T={config.T}"]
    for key in keys:
        value = getattr(config, key)
        if value != getattr(Config, key):
            words.append(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(words)
