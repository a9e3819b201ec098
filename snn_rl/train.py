"""Train an agent that decides in one timestep.

    python -m snn_rl.train env=CartPole-v1 T=1
    python -m snn_rl.train env=PongNoFrameskip-v4 T=1

Trains a deep Q-network (ANN) from pixels, converts it into a spiking network,
and retrains the spiking network in stages with fewer timesteps (T=5, 4, 3, 2,
1). Evaluates every stage over 20 episodes. Writes the results to
runs/<env>/seed<seed>/report.md, with a video of the last stage.

Rerun the same command to resume an interrupted run. A smaller T continues the
chain of a finished run. -m seed=0,1,2 runs a sweep (Hydra).

Presets in snn_rl/configs/settings override the defaults below for an
environment. --help all lists all settings, and --cfg job prints the settings of
a run without starting it.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from snn_rl.agents import plan
from snn_rl.agents.chain import AgentChain
from snn_rl.agents.checks import check_values, import_networks, refuse_settings_of_other_commands
from snn_rl.agents.finding import selection
from snn_rl.agents.loading import load_agent
from snn_rl.agents.timing import print_estimate
from snn_rl.chain import run_directory
from snn_rl.chain.records import StageEvaluation, read_metrics, record_invocation
from snn_rl.chain.runner import run_chain
from snn_rl.chain.stages import ANN, Stage
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.reports.gameplay import Episode, record_video
from snn_rl.reports.run_report import write_report
from snn_rl.utils.process_memory import keep_freed_memory
from snn_rl.utils.threads import use_threads

_MAIN_SETTINGS = (
    *("env", "T", "seed", "preset", "T_start", "T_step", "direct", "stages", "run_dir"),
    *("ann", "init", "teacher", "carry_state", "exact", "network", "threads", "episodes"),
    *("dqn.steps", "dqn.selection_games", "dqn.target_return", "finetune.steps"),
    *("state.steps", "student.steps"),
    *("iir.objective", "iir.steps", "iir.t1_steps", "iir.sticky", "iir.selection_games"),
    "iir.surrogate",
)


def results(config: Config) -> dict[Path, dict[str, Any]]:
    """Returns the directories of the stages and the settings that their results depend on."""
    directory = plan.directory_of(config)
    others: dict[str, Any] = {"evaluation": plan.trials(config), "threads": config.threads}
    return {directory / s.name: plan.stage_settings(config, s) | others for s in plan.chain(config)}


def main(config: Config) -> None:
    """Trains and evaluates all stages, and writes the video and the report."""
    check_values(config)
    use_threads(config.threads)
    config, networks = import_networks(config)
    keep_freed_memory()
    refuse_settings_of_other_commands(config)
    stages = plan.chain(config)
    directory = plan.directory_of(config)
    with run_directory.lock(directory):
        trainer = AgentChain(config, directory, networks)
        settings = partial(plan.stage_settings, config)

        def begin() -> None:
            record_invocation(directory, config)
            print_estimate(config, directory, stages, networks)

        run_chain(directory, stages, settings, trainer.fit, begin)
        for stage in stages:
            trainer.evaluate(stage)
        last = directory / stages[-1].name
        video = last / f"play.{'gif' if config.play.output == 'gif' else 'mp4'}"
        if config.video and not video.exists():
            agent = load_agent(last, config.device)
            episode = Episode(agent, config.eval.seed, max_steps=config.play.max_steps)
            record_video(episode, video, fps=config.play.fps)
        report = write_report(directory)
        _print_end(config, stages, report, video if video.exists() else None)


def _print_end(config: Config, stages: Sequence[Stage], report: Path, video: Path | None) -> None:
    """Prints the returns of the ANN and of the last stage, the files, and what to do next."""
    last = stages[-1]
    for stage in stages:
        if stage is last or stage.name == ANN:
            metrics = read_metrics(report.parent / stage.name)
            assert isinstance(metrics, StageEvaluation)
            greedy, sticky = metrics.greedy.mean, metrics.sticky.mean
            print(
                f"{stage.name}: mean return {greedy:.1f} greedy, {sticky:.1f} with sticky actions"
            )
    print(f"report: {report}")
    if video is not None:
        print(f"video:  {video}")
    if not last.analog:
        which = selection(config)
        print("next:")
        print(f"  snn-rl play {which} overlay=true")
        print(f"  snn-rl evaluate {which} episodes=100 eval.seed=3000000")
        print(f"  snn-rl export {which} format=onnx")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    run_command(Config, main, __doc__, _MAIN_SETTINGS, results=results)
