"""Watch an agent that `snn_rl.train` has trained play a game.

    python -m snn_rl.play env=CartPole-v1 T=1
    python -m snn_rl.play env=PongNoFrameskip-v4 T=1 overlay=true

Opens a window where there is a screen (q closes it); otherwise writes play.mp4 into the stage's
directory. overlay=true shows, beside the game, every layer's spikes and the Q-value of every
action.

Which agent (say what you said to snn_rl.train; without a run of your own, one that ships with
snn_rl is taken, where there is one, and its video goes to runs/<env>/zoo/<stage>):
  env=ID  T=1  seed=0           its environment, timesteps and seed
  run_dir=PATH                  instead of runs/<env>/seed<k>
  direct=true, stages=none, carry_state=true, exact=true
                                the agent of that kind of chain
  engine=dense                  or event, with T=1 exact=true, see snn_rl.evaluate
How it is shown:
  overlay=true                  spikes and Q-values beside the game
  play.output=auto              auto, window, mp4 or gif
  play.max_steps=2000           decisions at most; a game that ends earlier ends the show
  play.fps=30                   pictures a second, one for every decision (Atari itself: 15)
  eval.seed=1000000             seed of the game
  eval.epsilon=0                probability of a random action
  device=auto  threads=0        auto, cpu or cuda; processor threads (0: all cores; Pong: 1)
"""

from snn_rl.agents.checks import prepare
from snn_rl.agents.loading import WHICH_AGENT, find_stage, load_agent
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.reports import video
from snn_rl.reports.gameplay import Game, pictures, record_video
from snn_rl.utils.errors import UserError

_ACCEPTED = (*WHICH_AGENT, "engine", "overlay", "play", "eval.seed", "eval.epsilon")


def main(config: Config) -> None:
    """Plays one game."""
    prepare(config, "snn_rl.play", _ACCEPTED)
    stage = find_stage(config)
    play, overlay = config.play, config.overlay or config.play.overlay
    output = play.output
    if output == "auto":
        output = "window" if video.has_display() else "mp4"
    elif output == "window" and not video.has_display():
        raise UserError(
            "play.output=window: no window can be opened here (no display, or OpenCV without "
            "windows, as in opencv-python-headless); take play.output=mp4"
        )
    if output == "window":
        agent = load_agent(stage.directory, config.device, config.engine)
        game = Game(agent, config.eval.seed, config.eval.epsilon, play.max_steps)
        video.show(pictures(game, overlay), play.fps, f"{config.env} T={config.T}")
    else:
        path = stage.output / f"play.{output}"
        game = record_video(
            stage.directory,
            path,
            config.eval.seed,
            config.eval.epsilon,
            overlay,
            play.max_steps,
            play.fps,
            config.device,
            config.engine,
        )
        print(f"written to {path}")
    end = "game over" if game.over else "stopped"
    print(f"{end} after {game.steps} steps, return {game.score:g}")


if __name__ == "__main__":
    run_command(Config, main, __doc__)
