"""Publish the agents of a finished run as agents that ship with snn_rl.

    python -m snn_rl.publish env=PongNoFrameskip-v4 T=1 eval.seed=3000000

Stores the ANN, the first spiking stage and the stages with T timesteps as
float16. Evaluates the stored files on seeds that the run has not used. Also
writes a model card, a gif of the last agent, and one recorded episode per agent
with T timesteps, against which the tests compare the agent. Replaces the folder
of the environment only when everything is written.

repo=USER/NAME also uploads the last agent to the Hugging Face Hub, from which
`snn_rl.load("USER/NAME")` loads it. Log in before with `hf auth login`.

T, seed, run_dir, direct, stages, carry_state, exact and bits select the agents,
as in snn_rl.train. eval.seed must differ from the seeds of the run's
evaluations.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from snn_rl import zoo
from snn_rl.agents import plan
from snn_rl.agents.checks import prepare
from snn_rl.agents.evaluation import evaluate_stage
from snn_rl.agents.finding import WHICH_AGENT, agent_command, stage_directory
from snn_rl.agents.loading import Agent, load_agent
from snn_rl.chain import run_directory
from snn_rl.chain.records import (
    AgentNotes,
    Invocation,
    Trials,
    is_done,
    mark_done,
    read_invocations,
    read_settings,
    read_trials,
    write_invocations,
)
from snn_rl.chain.stages import PRETRAINED, TEACHER, Stage
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.files import hub
from snn_rl.files.atomic import disk_errors, make_directory, read_json, sync_directory, write_json
from snn_rl.files.checkpoint import load_network, save_network
from snn_rl.reports.gameplay import Episode, record_video
from snn_rl.reports.hub_card import write_repository
from snn_rl.reports.model_card import GAME, write_card
from snn_rl.utils.errors import UserError

GIF = "play.gif"
_GIF_BYTES, _GIF_DECISIONS, _GIF_FPS = 1_500_000, 200, 15
_GAME_Q_VALUES = 20
_ACCEPTED = (*WHICH_AGENT, "zoo", "repo", "episodes", "eval")
_PATHS = ("run_dir", "ann", "init", "teacher", "zoo")  # settings with a file or a folder


def stages_to_ship(config: Config, run: Path) -> list[Stage]:
    """Returns the ANN, the first spiking stage if finished, and all stages with T timesteps."""
    ann, first, *others = (stage for stage in plan.chain(config) if stage.name != PRETRAINED)
    chosen = [ann, *(stage for stage in (first, *others) if stage.timesteps == config.T)]
    if first not in chosen and is_done(run / first.name):
        chosen.insert(1, first)
    return chosen


def refuse_played_seeds(run: Path, trials: Trials) -> None:
    """Refuses episodes of the run's evaluations, because they may have selected the run."""
    end = trials.seed + trials.episodes
    files = (run_directory.METRICS, run_directory.EVALUATION)
    for path in sorted(path for file in files for path in run.glob(f"*/{file}")):
        played = read_trials(path)
        first, last = played.seed, played.seed + played.episodes - 1
        if first < end and trials.seed <= last:
            raise UserError(
                f"eval.seed={trials.seed}: the run was evaluated on the seeds {first} to {last} "
                f"({path}), which may have selected it; use other seeds, for example "
                "eval.seed=3000000"
            )


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a new folder that replaces the target when the block ends without an error."""
    try:
        make_directory(target.parent)
        for leftover in target.parent.glob(f".{target.name}.*.tmp"):  # left by killed commands
            shutil.rmtree(leftover)
        name = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise UserError(f"cannot write to zoo={target.parent}: {error.strerror}") from None
    aside = Path(name)
    try:
        new = aside / target.name
        new.mkdir()
        yield new
        before = aside / "before"
        with disk_errors(target):
            if target.exists():
                target.rename(before)
            try:
                new.rename(target)
            except OSError:
                if before.exists():
                    before.rename(target)
                raise
            sync_directory(target.parent)
    finally:
        shutil.rmtree(aside)


def store_stage(source: Path, target: Path) -> None:
    """Copies a finished stage: its settings, and its network with notes as float16."""
    network, notes = load_network(source / run_directory.NETWORK)
    own = AgentNotes.from_json(notes, source / run_directory.NETWORK).to_json()
    save_network(target / run_directory.NETWORK, network, own, torch.float16)
    write_json(target / run_directory.SETTINGS, read_settings(source))
    mark_done(target)


def portable(invocation: Invocation) -> Invocation:
    """Returns a command with the last part of each absolute path in place of the path."""
    words = []
    for word in invocation.command.split(" "):
        key, _, value = word.partition("=")
        words.append(f"{key}={_name(value)}" if key in _PATHS else word)
    settings = invocation.settings
    names = {key: _name(settings[key]) for key in _PATHS if settings.get(key)}
    return replace(invocation, command=" ".join(words), settings=settings | names)


def record_game(agent: Agent, trials: Trials) -> dict[str, Any]:
    """Plays the first evaluation episode alone and returns its result and first Q-values."""
    episode = Episode(agent, trials.seed, trials.epsilon, agent.cap)
    # the last moment has no decision
    q_values = [[float(q) for q in moment.q_values] for moment in episode][:-1]
    return {
        "seed": trials.seed,
        "epsilon": trials.epsilon,
        "return": episode.score,
        "decisions": episode.steps,
        "q_values": q_values[:_GAME_Q_VALUES],
    }


def record_gif(agent: Agent, path: Path, trials: Trials) -> None:
    """Records the beginning of the first evaluation episode as a gif of at most 1.5 MB."""
    decisions = _GIF_DECISIONS
    while True:
        record_video(Episode(agent, trials.seed, trials.epsilon, decisions), path, fps=_GIF_FPS)
        if path.stat().st_size <= _GIF_BYTES or decisions == 1:
            return
        decisions //= 2


def main(config: Config) -> None:
    """Publishes the agents of a run."""
    prepare(config, "snn_rl.publish", _ACCEPTED)
    if config.repo is not None:
        if not hub.is_repository(config.repo):
            raise UserError(f"repo={config.repo}: expected the form USER/NAME")
        hub.check_upload(config.repo)
    run, trials = stage_directory(config).parent, plan.trials(config)
    refuse_played_seeds(run, trials)
    commands = [*read_invocations(run), Invocation.current(config)]
    target = (Path(config.zoo) if config.zoo else zoo.ROOT) / config.env
    with replacing(target) as folder:
        for stage in stages_to_ship(config, run):
            directory = folder / stage.name
            store_stage(run / stage.name, directory)
            evaluate_stage(directory, trials, config.device)
            if stage.timesteps == config.T:
                agent = load_agent(directory, config.device)
                write_json(directory / GAME, record_game(agent, trials))
        teacher = Path(TEACHER, run_directory.METRICS)
        if (run / teacher).exists():
            write_json(folder / teacher, read_json(run / teacher))
        write_invocations(folder, map(portable, commands))
        record_gif(agent, folder / GIF, trials)  # the last agent
        usage = [
            f"{agent_command('play', config)} overlay=true",
            agent_command("evaluate", config),
        ]
        write_card(folder, usage, GIF)
    print(f"written to {target}")
    if config.repo is not None:
        with tempfile.TemporaryDirectory() as name:
            write_repository(target, Path(name), config.repo, GIF)
            print(f"uploaded to {hub.upload(Path(name), config.repo)}")


def _name(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


if __name__ == "__main__":
    run_command(Config, main, __doc__, _ACCEPTED)
