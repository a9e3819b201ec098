"""The export command, and the example that runs its file."""

import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from stable_baselines3.common.atari_wrappers import NoopResetEnv

from snn_rl import export, train, zoo
from snn_rl.agents.evaluation import greedy_observations
from snn_rl.agents.finding import find_stage, stage_directory
from snn_rl.agents.loading import load_agent
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
from snn_rl.core.conversion.integer_grid import integers, quantize
from snn_rl.envs import make_env
from snn_rl.utils.errors import UserError

PONG = "PongNoFrameskip-v4"
EXAMPLE = Path(__file__).parents[1] / "examples" / "play_pong_onnx.py"


def command(*arguments, main=export.main, name="export"):
    """Runs the command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        run_command(Config, main, export.__doc__)


@pytest.fixture(scope="module")
def pong(tmp_path_factory):
    """Exports the shipped Pong agent exactly, and returns its directory and the output."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        text = io.StringIO()
        patch.setattr(sys, "stdout", text)
        words = ("T=1", "exact=true", "format=onnx", "check_frames=200", "threads=1")
        command(f"env={PONG}", *words, f"runs={folder}")
    return folder / PONG / "zoo" / "T1-exact", text.getvalue()


def test_exact_agent_has_the_same_bits_in_every_engine_batch_and_layout(pong):
    directory, text = pong
    lines = re.findall(
        r"^(.*): (\d+) frames: same spikes ([\d.]+)%.* Q-value error (\S+)$", text, re.M
    )
    assert {name for name, *_ in lines} == {
        *("onnxruntime", "onnxruntime, batch 1"),
        *(f"torch.{x}, batch {n}" for x in ("channels_last", "contiguous_format") for n in (1, 32)),
    }
    for _, frames, spikes, error in lines:
        assert (frames, spikes, error) == ("200", "100.0000", "0")
    # The same check without the command
    agent = load_agent(directory, "cpu")
    frames = greedy_observations(agent, 64, 5)
    assert len(np.unique(frames.numpy(), axis=0)) > 32
    session = onnxruntime.InferenceSession(directory / "network.onnx")
    with torch.no_grad():
        expected = agent.q_net(frames).numpy()
    for batch in (1, 32, 64):
        parts = [session.run(None, {"pixels": part.numpy()})[0] for part in frames.split(batch)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_exact_form_of_a_shipped_agent_finds_its_ann(tmp_path):
    config = compose(Config, ["env=CartPole-v1", "T=1", "exact=true", f"runs={tmp_path}"])
    stage, own = find_stage(config), tmp_path / "CartPole-v1" / "zoo"
    shipped = load_agent(zoo.ROOT / "CartPole-v1" / "T1", "cpu").q_net.network
    made = load_agent(stage.directory, "cpu").q_net.network
    assert stage.directory == stage.output == own / "T1-exact"
    assert torch.equal(made.head.weight, quantize(shipped).head.weight)
    ann = stage.beside("ann")
    assert (ann.directory, ann.output) == (zoo.ROOT / "CartPole-v1" / "ann", own / "ann")


def test_weights_have_at_most_the_given_bits(tmp_path):
    settings = ["env=CartPole-v1", "T=1", "exact=true", f"runs={tmp_path}"]
    stage = find_stage(compose(Config, [*settings, "bits=8"]))
    network = load_agent(stage.directory, "cpu").q_net.network
    sizes = [int(layer.weight.abs().max()) for layer in integers(network)]
    assert max(sizes) < 128 and 64 < min(sizes)
    with pytest.raises(UserError, match="T1-exact has weights with bits=8, not bits=12"):
        stage_directory(compose(Config, [*settings, f"run_dir={stage.directory.parent}"]))


@pytest.mark.parametrize(
    ("words", "least"),
    [(("T=5", "format=onnx"), 0.999), (("T=1", "format=torch"), None)],
    ids=["onnx", "torch"],
)
def test_shipped_agent_is_exported_and_checked(words, least, tmp_path, capsys):
    path = tmp_path / "deep" / "agent"
    command(
        *("env=CartPole-v1", *words, f"output={path}", f"runs={tmp_path}"),
        *("check_frames=40", "threads=1"),
    )
    text = capsys.readouterr().out
    assert f"written to {path}, {path.stat().st_size:,} bytes" in text
    actions = re.search(r": 40 frames: (?:same spikes ([\d.]+)%, )?same action ([\d.]+)%", text)
    assert actions and float(actions[2]) >= 95
    if least is not None:
        assert float(actions[1]) >= 100 * least


def test_own_format_is_exported(tmp_path, monkeypatch, capsys):
    (tmp_path / "exported_names.py").write_text(
        "def names(network, path, notes):\n"
        "    path.write_text(notes['stage'] + ' ' + ' '.join(network.spec.names()))\n"
        "    return {}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ("T=1", "format=exported_names:names", "check_frames=2", "threads=1")
    command("env=CartPole-v1", *words, f"runs={tmp_path}")
    path = tmp_path / "CartPole-v1" / "zoo" / "T1" / "network.names"
    assert path.read_text().startswith("T1 conv1 ")
    assert "no engine that runs this format" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=tflite"], ["format=tflite", "onnx, nir, torch"]),
        (["format=nowhere:csv"], ["format=nowhere:csv", "cannot be imported"]),
        (["check_frames=0"], ["check_frames=0"]),
        (["T=5", "format=nir"], ["5 timesteps", "reset by subtraction"]),
        (["dqn.lr=1"], ["snn_rl.export does not accept dqn.lr"]),
        (["device=cuda"], ["does not accept device"]),
        (["T=3"], ["no finished T3", "python -m snn_rl.train env=CartPole-v1 T=3"]),
        (["T=2", "exact=true"], ["exact=true", "T=1"]),
        (["T=1", "bits=8"], ["bits=8 requires exact=true"]),
        (["output=FOLDER"], ["is a directory"]),
    ],
)
def test_invalid_exports_give_one_line_errors(arguments, words, tmp_path, capsys):
    arguments = [each.replace("FOLDER", str(tmp_path)) for each in arguments]
    with pytest.raises(SystemExit) as stop:
        command("env=CartPole-v1", f"runs={tmp_path}", *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_training_rejects_settings_of_export(capsys, tmp_path):
    with pytest.raises(SystemExit):
        command(
            *("env=CartPole-v1", f"runs={tmp_path}", "output=net.onnx"),
            main=train.main,
            name="train",
        )
    commands = "snn_rl.export, snn_rl.evaluate, snn_rl.play"
    assert f"output=net.onnx is only supported by {commands}\n" in capsys.readouterr().err


@pytest.mark.parametrize("noops", [1, 30])
def test_example_gives_the_observations_of_training(noops):
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    game = example.Pong(noops)
    venv = make_env(PONG, 1, seed=noops, training=False)
    env = venv.unwrapped.envs[0]
    while not isinstance(env, NoopResetEnv):
        env = env.env
    env.override_num_noops = noops
    obs, rng, score = venv.reset(), np.random.default_rng(noops), 0.0
    for _ in range(150):
        np.testing.assert_array_equal(game.pixels, obs)
        action = int(rng.integers(6))
        game.see(game.skip(action))
        obs, rewards, _, _ = venv.step([action])
        score += rewards[0]
    assert game.score == score < 0
    venv.close()


def test_example_runs_without_torch_and_gymnasium(pong):
    program_text = f"""
import runpy, sys
for name in ("torch", "gymnasium", "stable_baselines3", "snn_rl"):
    sys.modules[name] = None
import ale_py
decisions = iter(range(40))
class Short(ale_py.ALEInterface):
    def game_over(self):
        return next(decisions, None) is None
ale_py.ALEInterface = Short
sys.argv = ["play", {str(pong[0] / "network.onnx")!r}]
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program_text], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"-?\d+ points", done.stdout.strip().splitlines()[-1])
