"""Folder of one agent for the Hugging Face Hub: model card, settings, and network."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from snn_rl import __version__
from snn_rl.chain import run_directory
from snn_rl.chain.records import Evaluation, StageResult, read_stages
from snn_rl.chain.stages import TEACHER
from snn_rl.configs.compose import known_family
from snn_rl.files import hub
from snn_rl.files.atomic import write_json, write_text
from snn_rl.reports.markdown import block, bullets, escape, link, page, table
from snn_rl.reports.model_card import network, wrappers
from snn_rl.reports.run_report import headline, reward_section, spike_section, teacher_section
from snn_rl.utils.plugins import is_reference

_TASK = "reinforcement-learning"


def write_repository(published: Path, folder: Path, repository: str, picture: str) -> None:
    """Writes the last agent of a published folder in the layout of the Hugging Face Hub.

    Args:
        published: Folder that `snn_rl.publish` wrote.
        folder: Existing folder for the files.
        repository: Name of the repository, USER/NAME.
        picture: Name of a picture in the published folder.
    """
    stages = read_stages(published)
    last = stages[-1]
    config = {
        "library_name": "snn_rl",
        "version": __version__,
        "stage": last.name,
        "settings": last.settings,
    }
    shutil.copyfile(published / last.name / run_directory.NETWORK, folder / hub.MODEL)
    shutil.copyfile(published / picture, folder / picture)
    write_json(folder / hub.CONFIG, config)
    trials, env = last.evaluation.evaluation, last.settings["env"]
    episodes = f"episodes={trials.episodes}, seed={trials.seed}"
    if trials.epsilon:
        episodes += f", epsilon={trials.epsilon:g}"
    arguments = f'"{repository}"' + (f', env="{env}"' if is_reference(env) else "")
    parts = [
        f"# {escape(env)}: spiking agent that decides in {_timesteps(last)}",
        headline(stages),
        "!" + link(f"Episode of {last.label} with its spikes and Q-values", picture),
        block(
            "python",
            f"""import snn_rl

agent = snn_rl.load({arguments})
agent.evaluate({episodes})
agent.evaluate({episodes}, sticky={trials.sticky:g})""",
        ),
        "These calls repeat the evaluation in the table. On another CPU, results may differ.",
        table(
            ["", ""],
            [
                ["environment", f"{env}, {wrappers(last)}"],
                ["network", network(last)],
                ["seeds", f"episodes {trials.seed:,} to {trials.seed + trials.episodes - 1:,}"],
                ["sticky actions", f"probability {trials.sticky:g} in the sticky column"],
            ],
            names=2,
        ),
        *reward_section(stages),
        *teacher_section(published / TEACHER),
        *spike_section(stages),
        "## Files",
        bullets(
            [
                f"`{hub.MODEL}`: weights and thresholds, stored as float16",
                f"`{hub.CONFIG}`: settings of the training",
            ]
        ),
    ]
    front = yaml.safe_dump(front_matter(last, repository), sort_keys=False, allow_unicode=True)
    write_text(folder / hub.CARD, f"---\n{front}---\n\n{page(parts)}")


def front_matter(stage: StageResult, repository: str) -> dict[str, Any]:
    """Returns the metadata that the Hub shows and searches, with one result per column."""
    env, evaluation = stage.settings["env"], stage.evaluation
    results = [_result(env, evaluation.greedy, env)]
    sticky = f"{env}, sticky actions with probability {evaluation.evaluation.sticky:g}"
    results.append(_result(env, evaluation.sticky, sticky))
    return {
        "library_name": "snn_rl",
        "pipeline_tag": _TASK,
        "tags": [
            env,
            "deep-reinforcement-learning",
            _TASK,
            "spiking-neural-network",
            known_family(env).name,
        ],
        "model-index": [{"name": repository.rpartition("/")[2], "results": results}],
    }


def _result(env: str, column: Evaluation, name: str) -> dict[str, Any]:
    metric = {
        "type": "mean_reward",
        "value": f"{column.mean:.2f} +/- {column.std:.2f}",
        "name": "mean_reward",
        "verified": False,
    }
    return {
        "task": {"type": _TASK, "name": _TASK},
        "dataset": {"name": name, "type": env},
        "metrics": [metric],
    }


def _timesteps(stage: StageResult) -> str:
    return "one timestep" if stage.stage.timesteps == 1 else f"{stage.stage.timesteps} timesteps"
