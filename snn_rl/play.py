"""Watch a trained agent play an episode.

    python -m snn_rl.play env=CartPole-v1 T=1
    python -m snn_rl.play env=PongNoFrameskip-v4 T=1 overlay=true

Opens a window if there is a display (q closes it). Writes play.mp4 to the
stage's directory otherwise, or the file of output=PATH, which ends with .mp4 or
.gif. overlay=true shows the spikes of every layer and
the Q-value of every action beside the game.

T, seed, run_dir, direct, stages, carry_state, exact and bits select the agent,
as in snn_rl.train. If the run does not exist, the included agent plays, and its
video goes to runs/<env>/zoo/<stage>.
"""

from snn_rl.agents.checks import output_file, prepare
from snn_rl.agents.finding import WHICH_AGENT, find_stage
from snn_rl.agents.loading import load_agent
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.reports import video
from snn_rl.reports.gameplay import Episode, pictures, record_video
from snn_rl.utils.errors import UserError

_ACCEPTED = (*WHICH_AGENT, "engine", "overlay", "play", "output", "eval.seed", "eval.epsilon")


def main(config: Config) -> None:
    """Plays one episode."""
    prepare(config, "snn_rl.play", _ACCEPTED)
    stage = find_stage(config)
    play, overlay = config.play, config.overlay or config.play.overlay
    path = output_file(config, stage.output / "play.mp4")
    output = play.output
    if config.output is not None:
        output = path.suffix.lstrip(".")
        if output not in ("mp4", "gif"):
            raise UserError(f"output={path} must end with .mp4 or .gif")
        if play.output not in ("auto", output):
            raise UserError(
                f"output={path} does not match play.output={play.output}: leave play.output at auto"
            )
    if output == "auto":
        output = "window" if video.has_display() else "mp4"
    elif output == "window" and not video.has_display():
        raise UserError(
            "play.output=window: no window can be opened (no display, or an OpenCV without "
            "windows, such as opencv-python-headless); use play.output=mp4"
        )
    agent = load_agent(stage.directory, config.device, config.engine)
    episode = Episode(agent, config.eval.seed, config.eval.epsilon, play.max_steps)
    if output == "window":
        video.show(pictures(episode, overlay), play.fps, f"{config.env} T={config.T}")
    else:
        path = path.with_suffix(f".{output}")
        record_video(episode, path, overlay, play.fps)
        print(f"written to {path}")
    end = "game over" if episode.over else "stopped"
    print(f"{end} after {episode.steps} steps, return {episode.score:g}")


if __name__ == "__main__":
    run_command(Config, main, __doc__, _ACCEPTED)
