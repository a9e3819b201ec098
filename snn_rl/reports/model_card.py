"""Model card of shipped agents: their files, training, scores and use."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snn_rl.agents import plan
from snn_rl.chain import run_directory
from snn_rl.chain.records import Game, StageResult, read_invocations, read_stages
from snn_rl.chain.stages import ANN, PRETRAINED, TEACHER, Stage
from snn_rl.configs.compose import known_family
from snn_rl.envs import ATARI
from snn_rl.files.atomic import write_text
from snn_rl.reports.markdown import Markdown, block, code, escape, link, page, table
from snn_rl.reports.run_report import (
    command_section,
    energy_section,
    headline,
    returns_table,
    reward_section,
    spike_section,
    teacher_section,
)
from snn_rl.utils.errors import printable

CARD = "MODEL_CARD.md"
_PRIVILEGED = ", distilled from a privileged teacher that observes the emulator's state"
GAME = "game.json"  # one episode of a stage's agent, beside its weights


def write_card(folder: Path, commands: Sequence[str], picture: str) -> Path:
    """Writes the model card of one environment's agents and returns its path.

    All stages in the folder have been evaluated. The commands use the last agent, which the picture
    in the folder shows.
    """
    stages = read_stages(folder)
    last = stages[-1]
    env = last.settings["env"]
    parts = [
        f"# {escape(env)}: trained agents",
        headline(stages),
        "!" + link(f"Episode of {last.label} with its spikes and Q-values", picture),
        table(["", ""], _facts(stages), names=2),
        "## Use",
        "\n".join(f"    {printable(command)}" for command in commands),
        "In Python:",
        block("python", _program(env, last.stage)),
        *reward_section(stages),
        *teacher_section(folder / TEACHER),
        "## Returns",
        returns_table(stages),
        *(_episode(stage, folder / stage.name / GAME) for stage in stages),
        *spike_section(stages),
        *energy_section(stages),
        *command_section(read_invocations(folder)),
    ]
    path = folder / CARD
    write_text(path, page(parts))
    return path


def _facts(stages: Sequence[StageResult]) -> list[list[str]]:
    settings = stages[-1].settings
    files = ", ".join(code(f"{stage.name}/{run_directory.NETWORK}") for stage in stages)
    sticky = {stage.label: _sticky(stage.settings) for stage in stages}
    same = len(set(sticky.values())) == 1
    each = list(sticky.values())[:1] if same else [f"{k}: {v}" for k, v in sticky.items()]
    return [
        ["files", Markdown(f"{files}: safetensors, stored as float16, computed in float32")],
        ["evaluation", "of these files, not of the float32 weights before rounding"],
        ["environment", f"{settings['env']}, {wrappers(stages[-1])}"],
        ["network", network(stages[-1])],
        ["training", "; ".join(_training(stage) for stage in stages)],
        ["sticky actions in training", ", ".join(each)],
        ["seed", str(settings["seed"])],
        ["all settings", Markdown("`settings.json` beside each file")],
        ["license", "MIT, as the code"],
    ]


def _sticky(settings: dict[str, Any]) -> str:
    probability, steady = settings["rollout.sticky"], settings.get("state.steady", 0.0)
    others = f", none in {steady:.0%} of the environments" if probability and steady else ""
    return f"{probability:g}{others}"


def wrappers(stage: StageResult) -> str:
    """Returns how the environment of an agent is wrapped."""
    settings, (_, height, width) = stage.settings, stage.spec.input_shape
    cap = f"cut off after {settings['rollout.cap']:,} decisions"
    if known_family(settings["env"]).name == ATARI:
        return (
            "with Stable-Baselines3's AtariWrapper (up to 30 no-ops at the start, 4 frames per "
            "decision, 84x84 grayscale); evaluated on unclipped rewards over all lives, "
            f"{cap}; trained with clipped rewards"
        )
    return f"drawn as {height}x{width} grayscale pixels, {cap} or at the environment's own limit"


def network(stage: StageResult) -> str:
    """Returns the layers, inputs, and outputs of an agent's network."""
    settings, spec = stage.settings, stage.spec
    channels, height, width = spec.input_shape
    frames = "frames"
    if settings["rollout.frames"] == "difference":
        frames = "channels (the newest frame and its change)"
    return (
        f"{settings['network']}, {'with' if settings['bias'] else 'without'} biases: {channels} "
        f"{frames} of {height}x{width} to {spec.outputs} Q-values; spiking stages: "
        f"{settings['iir.encoding']} encoding"
    )


def _training(stage: StageResult) -> str:
    settings, result = stage.settings, stage.evaluation
    amount = (
        f"{stage.label} {result.steps or 0:,} agent steps, {result.updates or 0:,} gradient steps"
    )
    if stage.name == ANN and settings.get("ann"):
        return f"{amount}, imported: its agent steps only fill the replay buffer"
    teacher = settings.get("teacher")
    if plan.taught(teacher, stage.stage):
        amount += _PRIVILEGED
    elif teacher and teacher != plan.STATE:
        amount += ", distilled from another ANN"
    if settings.get("source") == PRETRAINED:
        sticky = settings["rollout.sticky"]
        amount += f", fine-tuned from {PRETRAINED} with sticky actions {sticky:g}"
    if stage.name != ANN:
        return f"{amount}, {settings['iir.objective']}, epsilon {settings['iir.epsilon']:g}"
    if settings.get("teacher") == plan.STATE:
        return f"{amount}, epsilon {settings['iir.epsilon']:g}"
    first, last = settings["dqn.epsilon_start"], settings["dqn.epsilon_end"]
    if first == last:
        return f"{amount}, epsilon {last:g}"
    return f"{amount}, epsilon {first:g} to {last:g} over {settings['dqn.epsilon_steps']:,} steps"


def _episode(stage: StageResult, path: Path) -> str:
    if not path.exists():
        return ""
    game = Game.read(path)
    return (
        f"In a batch of one, where sums may be rounded differently, the episode of {stage.label} "
        f"with seed {game.seed:,} returns {game.score:g} points in {game.decisions:,} decisions."
    )


def _program(env: str, stage: Stage) -> str:
    if stage.name == f"T{stage.timesteps}":
        imports, source = "import snn_rl\n", f'"{env}", T={stage.timesteps}'
    else:
        imports = "import snn_rl\nfrom snn_rl import zoo\n"
        source = f'zoo.ROOT / "{env}" / "{stage.name}"'
    return f"""{imports}
agent = snn_rl.load({source})
env = agent.make_env(1, seed=0)
actions, state = agent.predict(env.reset())"""
