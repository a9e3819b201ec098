"""The play command and the files that it writes."""

import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image

from snn_rl import play
from snn_rl.agents import plan
from snn_rl.agents.loading import load_agent
from snn_rl.agents.policies import network_spec
from snn_rl.chain import run_directory
from snn_rl.chain.records import mark_done
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
from snn_rl.core.networks import SpikingNetwork, SpikingOptions
from snn_rl.envs import make_env
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import save_network
from snn_rl.reports import video


def command(*arguments):
    """Runs the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["play", *arguments])
        run_command(Config, play.main, play.__doc__)


def finished_stage(run_dir, env):
    """Writes the files of a finished T1 stage with an untrained network."""
    config = compose(Config, [f"env={env}", "T=1", "T_start=1"])
    stage = plan.chain(config)[-1]
    venv = make_env(env, frame_stack=config.rollout.frame_stack)
    spec = network_spec(config.network, venv.observation_space, venv.action_space, config.bias)
    venv.close()
    torch.manual_seed(0)
    network = SpikingNetwork(spec, SpikingOptions(1))
    for neuron in network.neurons:
        neuron.v_threshold.data.fill_(0.02)
    directory = run_dir / stage.name
    save_network(directory / run_directory.NETWORK, network)
    write_json(directory / run_directory.SETTINGS, plan.stage_settings(config, stage))
    mark_done(directory)
    return directory


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    return finished_stage(tmp_path_factory.mktemp("cartpole"), "CartPole-v1")


@pytest.fixture(scope="module")
def pong(tmp_path_factory):
    return finished_stage(tmp_path_factory.mktemp("pong"), "PongNoFrameskip-v4")


@pytest.fixture
def no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def decode(path):
    """Returns all frames of an H.264 video, and the frames per second."""
    with av.open(path) as container:
        (stream,) = container.streams
        assert stream.codec.name == "h264"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.average_rate


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize("spelling", ["overlay=true", "play.overlay=true"])
def test_overlay_goes_to_an_mp4_without_a_display(cartpole, capsys, spelling):
    command("env=CartPole-v1", f"run_dir={cartpole.parent}", spelling, "play.fps=25", "threads=1")
    text = capsys.readouterr().out
    frames, fps = decode(cartpole / "play.mp4")
    agent = load_agent(cartpole)
    game = play.Episode(agent, 1_000_000)
    moments = list(game)
    assert game.over
    assert f"game over after {game.steps} steps, return {game.score:g}" in text
    assert len(frames) == len(moments) == game.steps + 1
    assert fps == 25
    for frame in frames:
        assert frame.shape == (*video.WIDE[::-1], 3)
    # The codec is lossy, but the picture is closer to the drawn one than to a shifted copy.
    drawn = video.overlay(moments[3], game.labels).astype(float)
    assert np.abs(frames[3] - drawn).mean() < 4 < np.abs(np.roll(drawn, 90, 1) - drawn).mean()


@pytest.mark.usefixtures("no_display")
def test_pong_is_in_color_and_ends_at_max_steps(pong, capsys):
    command(
        *("env=PongNoFrameskip-v4", f"run_dir={pong.parent}", "play.max_steps=5", "threads=1"),
        "device=cpu",
    )
    assert "stopped after 5 steps" in capsys.readouterr().out
    frames, _ = decode(pong / "play.mp4")
    assert len(frames) == 6
    assert frames[0].shape == (3 * 210, 3 * 160, 3)
    red, _, blue = frames[0][300, 240].astype(int)
    assert red > blue + 50  # Pong's background is brown


def test_gif_has_the_duration_of_the_episode(cartpole):
    game = play.Episode(load_agent(cartpole), seed=3, max_steps=6)
    play.record_video(game, cartpole / "play.gif", overlay=False, fps=20)
    with Image.open(cartpole / "play.gif") as gif:
        # Pillow merges equal pictures and adds their durations.
        lasted = 0
        for i in range(gif.n_frames):
            gif.seek(i)
            lasted += gif.info["duration"]
        assert lasted == (game.steps + 1) * 50
        assert gif.width <= 640


def test_moments_are_the_greedy_decisions_of_the_agent(pong):
    agent = load_agent(pong)
    game = play.Episode(agent, seed=5, max_steps=4)
    env = agent.make_env(1, 5)
    obs = env.reset()
    for moment in list(game)[:-1]:
        q = agent.q_net(torch.as_tensor(obs))[0].detach().numpy()
        np.testing.assert_allclose(moment.q_values, q, rtol=1e-5)
        assert moment.action == q.argmax()
        assert [a.shape for a in moment.activity] == [(32, 20, 20), (64, 9, 9), (64, 7, 7), (512,)]
        for activity, rate in zip(moment.activity, moment.spike_rates, strict=True):
            assert rate == pytest.approx(activity.mean())
        obs, _, _, _ = env.step([moment.action])
    env.close()
    assert game.labels.actions == ["noop", "fire", "right", "left", "right fire", "left fire"]


def test_last_moment_has_the_final_return(cartpole):
    game = play.Episode(load_agent(cartpole), seed=2)
    moments = list(game)
    assert game.over
    assert [m.score for m in moments] == list(range(game.steps + 1))  # 1 a step


def test_chosen_action_is_highlighted(cartpole):
    game = play.Episode(load_agent(cartpole), seed=2, max_steps=1)
    moment = next(iter(game))
    silent = [np.zeros_like(a) for a in moment.activity]
    below_game = video.HEADER + 160 + 32
    golden = []
    for action in (0, 1):
        shown = video.Moment(**{**vars(moment), "action": action, "activity": silent})
        picture = video.overlay(shown, game.labels)
        left_column = picture[below_game + 32 : below_game + 32 + 96, : video.MARGIN + 600]
        rows = np.flatnonzero((left_column == video.SPIKE).all(-1).any(1))
        golden.append(rows.mean())
    assert golden[0] < golden[1]


@pytest.mark.parametrize("name", ["x.mp4", "x.gif"])
def test_output_names_the_file(cartpole, tmp_path, name):
    output = tmp_path / "new" / name
    words = ("play.max_steps=2", f"output={output}", "threads=1")
    command("env=CartPole-v1", f"run_dir={cartpole.parent}", *words)
    assert output.read_bytes()[:3] == (b"GIF" if name == "x.gif" else bytes(3))


@pytest.mark.usefixtures("no_display")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["play.output=window"], ["no window", "play.output=mp4"]),
        (["play.output=avi"], ["play.output=avi", "mp4"]),
        (["play.fps=0"], ["play.fps=0"]),
        (["output=x.avi"], ["output=x.avi must end with .mp4 or .gif"]),
        (["output=x.gif", "play.output=mp4"], ["does not match play.output=mp4"]),
        (["output=x.mp4", "play.output=window"], ["does not match play.output=window"]),
        (["rollout.frame_stack=2"], ["does not accept rollout.frame_stack"]),
        (["eval.sticky=0.5"], ["does not accept eval.sticky"]),
        (["T=2"], ["no finished T2", "python -m snn_rl.train env=CartPole-v1 T=2"]),
    ],
)
def test_invalid_settings_give_one_line_errors(cartpole, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        command("env=CartPole-v1", f"run_dir={cartpole.parent}", *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message
