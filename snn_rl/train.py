"""Train an agent that decides in one timestep.

    python -m snn_rl.train env=CartPole-v1 T=1
    python -m snn_rl.train env=PongNoFrameskip-v4 T=1

An ordinary deep Q-network (ANN) is trained from pixels, converted into a spiking network, and
retrained stage by stage with fewer timesteps (T=5, 4, 3, 2, 1). Every stage is then evaluated over
20 games; runs/<env>/seed<k>/report.md shows the result, with a video of the last agent beside it.
The same command resumes where it was stopped; a smaller T goes on from where the chain is.

The settings that matter first (key=value, any order):
  env=ID              CartPole-v1 (seen as pixels), or any Atari game as <Game>NoFrameskip-v4
  T=1                 timesteps at which the chain stops
  seed=0              of everything random
  run_dir=PATH        instead of runs/<env>/seed<k>
  preset=paper        the papers' own settings instead of the ones tuned for two cores
  ann=FILE            start from this network instead of training an ANN: a network.safetensors,
                      a zip of Stable-Baselines3's DQN("CnnPolicy"), or a PyTorch state dict (.pth,
                      .safetensors) of convolutions and fully connected layers with ReLU
  init=FILE           train the ANN further from this network
  strides=[4,2,1]     of a state dict's convolutions, if they are not the Mnih nets'
  pixel_max=255       a state dict's network was trained on pixels from 0 to 255, not 0 to 1
  direct=true         retrain at T at once, without the stages between
  T_start=5 T_step=1  where the spiking stages start, and by how much T falls
  teacher=FILE        this ANN teaches the run's, and in its place the spiking stages; it may see
                      more frames than they do
  carry_state=true    go on from T=1 to an agent whose membranes live on from frame to frame
  exact=true          end with the T=1 agent on an integer grid, which every engine (batch size,
                      memory layout, ONNX) computes to the same bits
  stages=none         convert only, without retraining (any T, for example T=100)
  episodes=20         games of each evaluation
  threads=0           processor threads (0: all cores; Pong: 1)
  dqn.steps=N         length of the ANN stage, in agent steps
  dqn.selection_games=N  games that its checkpoints play, once epsilon has fallen; the best one is
                         kept (0: the last)
  dqn.target_return=X    a mean return in those games that ends it
  finetune.steps=N    then trains the ANN further under sticky actions, before it is converted
  iir.steps=N         length of each spiking stage
  iir.t1_steps=N      length of the T=1 stage
  iir.sticky=P        sticky-action probability of the games that the spiking stages learn from
  iir.selection_games=N  games that the checkpoints of a long spiking stage play, to keep the best
  iir.selection_sticky_games=N  and games with the sticky actions that the stage learns from
  iir.objective=X     distill (the ANN teaches), td (Q-learning), or distill+td

All of them, with their defaults: snn_rl/configs/compose.py; what a game family changes:
snn_rl/configs/settings/. Sweeps: -m seed=0,1,2 (Hydra).
"""

import warnings
from functools import partial

from snn_rl.agents import plan
from snn_rl.agents.chain import ChainTrainer
from snn_rl.agents.checks import check_values, import_networks, refuse_settings_of_other_commands
from snn_rl.chain import run_directory
from snn_rl.chain.records import record_invocation
from snn_rl.chain.runner import run_chain
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.reports.gameplay import record_video
from snn_rl.reports.run_report import write_report
from snn_rl.utils.process_memory import keep_freed_memory
from snn_rl.utils.threads import use_threads


def main(config: Config) -> None:
    """Runs the chain, the evaluations, the report and the video."""
    check_values(config)
    use_threads(config.threads)
    config, networks = import_networks(config)
    keep_freed_memory()
    refuse_settings_of_other_commands(config)
    stages = plan.chain(config)
    directory = plan.directory_of(config)
    with run_directory.lock(directory):
        trainer = ChainTrainer(config, directory, networks)
        settings = partial(plan.stage_settings, config)
        record = partial(record_invocation, directory, config)
        run_chain(directory, stages, settings, trainer.fit, record)
        for stage in stages:
            trainer.evaluate(stage)
        last = directory / stages[-1].name
        video = last / f"play.{'gif' if config.play.output == 'gif' else 'mp4'}"
        if config.video and not video.exists():
            record_video(
                last,
                video,
                config.eval.seed,
                max_steps=config.play.max_steps,
                fps=config.play.fps,
                device=config.device,
            )
        print(f"report: {write_report(directory)}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    run_command(Config, main, __doc__)
