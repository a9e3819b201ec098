"""The model card of agents that ship: what they are, what they score, and how to use them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snn_rl.chain import run_directory
from snn_rl.chain.records import StageResult, read_invocations, read_stages
from snn_rl.chain.stages import ANN, PRETRAINED
from snn_rl.envs import ATARI, family
from snn_rl.files.atomic import read_json, write_text
from snn_rl.reports.markdown import table
from snn_rl.reports.run_report import (
    command_section,
    energy_section,
    headline,
    returns_table,
    reward_section,
    spike_section,
)

CARD = "MODEL_CARD.md"
GAME = "game.json"  # one whole game of a stage's agent, beside its weights


def write_card(folder: Path, commands: Sequence[str], picture: str) -> Path:
    """Writes the model card of one environment's agents.

    Args:
        folder: Of the agents, laid out like a run's directory, every stage evaluated.
        commands: Command lines that use the last agent.
        picture: Name of a picture of it in the folder.

    Returns:
        The path of the card.
    """
    stages = read_stages(folder)
    last = stages[-1]
    env = last.settings["env"]
    parts = [
        f"# {env}: trained agents",
        headline(stages),
        f"![{last.label} at play: the game, its spikes and its Q-values]({picture})",
        table(["", ""], _facts(stages), names=2),
        "## Use",
        "\n".join(f"    {command}" for command in commands),
        "From Python, for a batch of observations (uint8 tensors, from environments as the agent's "
        "`make_env` makes them; only a carried stage has a state that matters):",
        _python(env, last.name),
        *reward_section(stages),
        "## Returns",
        returns_table(stages),
        *(_game(stage, folder / stage.name / GAME) for stage in stages),
        *spike_section(stages),
        *energy_section(stages),
        *command_section(read_invocations(folder)),
    ]
    path = folder / CARD
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _facts(stages: Sequence[StageResult]) -> list[list[str]]:
    last = stages[-1].settings
    files = (f"`{stage.name}/{run_directory.NETWORK}`" for stage in stages)
    return [
        ["files", f"{', '.join(files)}: safetensors, float16, computed in float32"],
        ["evaluated", "these files, not the float32 weights that they were made from"],
        ["environment", f"{last['env']}, {_wrappers(last)}"],
        ["network", _network(stages[-1])],
        ["training", "; ".join(_training(stage) for stage in stages)],
        ["sticky actions in training", _sticky(stages)],
        ["seed", str(last["seed"])],
        ["all settings", "`settings.json` beside each file"],
        ["licence", "MIT, as the code"],
    ]


def _sticky(stages: Sequence[StageResult]) -> str:
    of_stages = {stage.label: f"{stage.settings['rollout.sticky']:g}" for stage in stages}
    if len(set(of_stages.values())) == 1:
        return next(iter(of_stages.values()))
    return ", ".join(f"{label}: {sticky}" for label, sticky in of_stages.items())


def _wrappers(settings: dict[str, Any]) -> str:
    cap = f"cut off after {settings['rollout.cap']:,} decisions"
    if family(settings["env"]).name == ATARI:
        return (
            "through Stable-Baselines3's AtariWrapper (up to 30 no-ops at the start, 4 frames a "
            f"decision, 84x84 grey); played whole and unclipped, {cap}; trained with clipped "
            "rewards"
        )
    return f"drawn as 40x120 grey pixels, {cap} or at the game's own limit"


def _network(stage: StageResult) -> str:
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
    settings, metrics = stage.settings, stage.evaluation
    amount = f"{stage.label} {metrics.steps:,} agent steps, {metrics.updates:,} updates"
    if stage.name == ANN and settings.get("ann"):
        return f"{amount}, imported: its steps only fill the replay buffer"
    if settings.get("teacher"):
        amount += ", taught by another ANN"
    if settings.get("source") == PRETRAINED:
        sticky = settings["rollout.sticky"]
        amount += f" (trained further, sticky actions {sticky:g}; besides those of {PRETRAINED})"
    if stage.name == ANN:
        return (
            f"{amount}, epsilon {settings['dqn.epsilon_start']:g} to "
            f"{settings['dqn.epsilon_end']:g} over {settings['dqn.epsilon_steps']:,} steps"
        )
    return f"{amount}, {settings['iir.objective']}, epsilon {settings['iir.epsilon']:g}"


def _game(stage: StageResult, path: Path) -> str:
    if not path.exists():
        return ""
    game = read_json(path)
    return (
        f"Alone (in a batch of one, whose sums may be rounded otherwise), {stage.label} plays the "
        f"game of seed {game['seed']:,} to {game['return']:g} points in "
        f"{game['decisions']:,} decisions."
    )


def _python(env: str, stage: str) -> str:
    return f"""```python
from snn_rl import zoo
from snn_rl.agents.loading import load_agent

q_net = load_agent(zoo.ROOT / "{env}" / "{stage}").q_net
decision = q_net.decide(observations)  # uint8 [N, channels, height, width]
print(decision.actions, decision.q_values)
```"""
