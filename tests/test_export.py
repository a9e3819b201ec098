"""The export command, and what other engines make of its files."""

import importlib.util
import io
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from stable_baselines3.common.atari_wrappers import NoopResetEnv

from snn_rl import export, train, zoo
from snn_rl.agents.loading import find_stage, load_agent
from snn_rl.configs.compose import compose, run_command
from snn_rl.configs.schema import Config
from snn_rl.core.conversion.integer_grid import integers, quantize
from snn_rl.core.networks import (
    AnalogNetwork,
    AvgPool,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.envs import make_env
from snn_rl.formats import nir as nir_format
from snn_rl.formats import onnx as onnx_format
from snn_rl.formats import program, simulators
from snn_rl.utils.errors import UserError

PONG = "PongNoFrameskip-v4"
EXAMPLE = Path(__file__).parents[1] / "examples" / "play_pong_onnx.py"
SPEC = NetworkSpec((2, 20, 24), (Conv(8, 5, 2, 1), Conv(16, 3), Dense(32)), 3, bias=True)


def command(*arguments, main=export.main, name="export"):
    """Runs the command as its command line would, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        run_command(Config, main, export.__doc__)


def random_network(timesteps=1, **kwargs):
    torch.manual_seed(0)
    network = SpikingNetwork(SPEC, SpikingOptions(timesteps, **kwargs))
    with torch.no_grad():
        for synapse in network.synapses:
            synapse.weight.mul_(3.0)
        for neuron in network.neurons:
            neuron.v_threshold.fill_(0.4)
            neuron.leak.fill_(0.8)
    return network


def pixels(count=16, spec=SPEC):
    return torch.randint(0, 256, (count, *spec.input_shape), dtype=torch.uint8)


@pytest.fixture(scope="module")
def pong(tmp_path_factory):
    """The shipped Pong agent, exact, in a folder with its ONNX file, and what was printed."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        text = io.StringIO()
        patch.setattr(sys, "stdout", text)
        words = ("T=1", "exact=true", "format=onnx", "check_frames=200", "threads=1")
        command(f"env={PONG}", *words, f"runs={folder}")
    return folder / PONG / "zoo" / "T1-exact", text.getvalue()


def test_an_exact_agent_has_the_same_bits_in_onnxruntime_in_every_batch_and_layout(pong):
    directory, text = pong
    lines = re.findall(r"^(.*): (\d+) frames: same spikes ([\d.]+)%.* Q-value (\S+)$", text, re.M)
    assert {name for name, *_ in lines} == {
        *("onnxruntime", "onnxruntime, batch 1"),
        *(f"torch.{x}, batch {n}" for x in ("channels_last", "contiguous_format") for n in (1, 32)),
    }
    for _, frames, spikes, error in lines:
        assert (frames, spikes, error) == ("200", "100.0000", "0")
    # the same without the command's own comparison
    agent = load_agent(directory, "cpu")
    frames = export.real_frames(agent, 64, 5)
    assert len(np.unique(frames.numpy(), axis=0)) > 32
    session = onnxruntime.InferenceSession(directory / "network.onnx")
    with torch.no_grad():
        expected = agent.q_net(frames).numpy()
    for batch in (1, 32, 64):
        parts = [session.run(None, {"pixels": part.numpy()})[0] for part in frames.split(batch)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_the_exact_agent_of_one_that_ships_has_its_ann_beside_it(tmp_path):
    config = compose(Config, ["env=CartPole-v1", "T=1", "exact=true", f"runs={tmp_path}"])
    stage, own = find_stage(config), tmp_path / "CartPole-v1" / "zoo"
    shipped = load_agent(zoo.ROOT / "CartPole-v1" / "T1", "cpu").q_net.network
    made = load_agent(stage.directory, "cpu").q_net.network
    assert stage.directory == stage.output == own / "T1-exact"
    assert torch.equal(made.head.weight, quantize(shipped).head.weight)
    ann = stage.beside("ann")
    assert (ann.directory, ann.output) == (zoo.ROOT / "CartPole-v1" / "ann", own / "ann")


def test_an_exact_network_that_gives_other_bits_is_an_error():
    network, frames = quantize(random_network()), pixels()
    engine = export.in_torch(network, torch.channels_last)

    def wrong(part):
        q_values, spikes = engine(part)
        return torch.nextafter(q_values, torch.tensor(torch.inf)), spikes

    def flipped(part):
        q_values, spikes = engine(part)
        return q_values, [*spikes[:-1], spikes[-1].flip(-1)]

    export.check(network, {"right": engine}, frames)
    for each in (wrong, flipped):
        with pytest.raises(RuntimeError, match="other bits in that"):
            export.check(network, {"that": each}, frames)


def test_agreement_counts_spikes_and_actions():
    ours = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), [torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])]
    theirs = torch.tensor([[1.0, 0.5], [2.0, 1.0]]), [torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])]
    assert export.compare(ours, theirs) == export.Agreement(2, 0.75, 0.5, 2.0)
    assert export.compare(ours, (ours[0], [])) == export.Agreement(2, None, 1.0, 0.0)


@pytest.mark.parametrize(
    ("words", "least"),
    [(("T=5", "format=onnx"), 0.999), (("T=1", "format=torch"), None)],
    ids=["onnx", "torch"],
)
def test_a_shipped_agent_is_exported_and_checked(words, least, tmp_path, capsys):
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


@pytest.mark.parametrize("timesteps", [1, 3])
def test_onnx_has_bias_padding_leak_and_reset(timesteps, tmp_path):
    network, frames = random_network(timesteps), pixels()
    path = tmp_path / "network.onnx"
    onnx_format.write(network, path, {"env": "none"})
    outputs, layers = onnx_format.Runner(path, network)(frames)
    expected, spikes = network.activity(network.images(frames))
    for mine, theirs in zip(layers, spikes, strict=True):
        assert mine.shape == theirs.shape and 0.01 < theirs.mean() < 0.99
        assert (mine == theirs).float().mean() > 0.999
    pairs = zip(layers, spikes, strict=True)
    same = torch.stack([(a == b).flatten(2).all(2).all(0) for a, b in pairs]).all(0)
    assert same.float().mean() > 0.8
    torch.testing.assert_close(outputs[same], expected[same].detach())
    model = onnx.load(path)
    (value,) = model.graph.input
    assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {entry.key: entry.value for entry in model.metadata_props} == {"env": "none"}
    if timesteps == 1:
        assert not {node.op_type for node in model.graph.node} & {"Add", "Mul", "Sub"}


def test_onnx_holds_the_analog_network_too(tmp_path):
    network, frames = AnalogNetwork(SPEC), pixels()
    path = tmp_path / "network.onnx"
    onnx_format.write(network, path)
    outputs, layers = onnx_format.Runner(path, network)(frames)
    expected, activity = network.activity(network.images(frames))
    torch.testing.assert_close(outputs, expected.detach())
    for mine, theirs in zip(layers, activity, strict=True):
        torch.testing.assert_close(mine, theirs.detach())


def test_a_program_takes_any_batch(tmp_path):
    network = quantize(random_network())
    loaded = program.write(network, tmp_path / "network.pt2")
    again = torch.export.load(tmp_path / "network.pt2").module()
    for count in (1, 2, 33):
        frames = pixels(count)
        expected = network(network.images(frames))
        assert torch.equal(loaded(frames), expected)
        assert torch.equal(again(frames), expected)


@pytest.fixture(scope="module")
def cartpole():
    """An exact agent, and real frames."""
    agent = load_agent(zoo.ROOT / "CartPole-v1" / "T1", "cpu")
    return quantize(agent.q_net.network), export.real_frames(agent, 60, 11)


@pytest.mark.parametrize(
    ("name", "package"),
    [("snnTorch", "snntorch"), ("Norse", "norse"), ("SpikingJelly", "spikingjelly")],
)
def test_simulators_fire_the_same_spikes(name, package, cartpole, tmp_path):
    pytest.importorskip(package, reason=f"{name} is not installed")
    network, frames = cartpole
    nir_format.write(network, tmp_path / "network.nir")
    engine = simulators.installed(nir_format.read(tmp_path / "network.nir"), network.spec)[name]
    outputs, layers = engine(frames)
    expected, spikes = network.activity(network.images(frames))
    assert torch.equal(outputs, expected)
    for mine, theirs in zip(layers, spikes, strict=True):
        assert theirs.any() and torch.equal(mine, theirs)


@pytest.mark.parametrize("exact", [False, True])
def test_a_nir_file_holds_the_network(exact, tmp_path):
    network = random_network()
    if exact:
        network = quantize(network)
    nir_format.write(network, tmp_path / "network.nir", {"env": "none"})
    graph = nir_format.read(tmp_path / "network.nir")
    chain = ["input", "conv1", "conv1_spikes", "conv2", "conv2_spikes", "fc1_flatten", "fc1"]
    chain += ["fc1_spikes", "head", "output"]
    assert graph.edges == list(itertools.pairwise(chain))
    first = network.synapses[0].weight.detach() / (1 if exact else 255)
    np.testing.assert_allclose(graph.nodes["conv1"].weight, first, rtol=1e-6)
    assert tuple(graph.nodes["conv1"].padding) == (1, 1)
    np.testing.assert_array_equal(graph.nodes["head"].bias, network.head.bias.detach())
    for i, layer in enumerate(network.spec.names()[:-1]):
        node = graph.nodes[f"{layer}_spikes"]
        assert node.v_threshold.shape == network.spec.shapes()[i]
        mine = network.neurons[i].v_threshold.item()
        half = integers(network)[i].unit / 2 if exact else 0.0
        assert np.unique(node.v_threshold) == [mine + half]
        assert np.unique(node.tau) == np.float32(nir_format.DT)


@pytest.mark.parametrize("write", [onnx_format.write, nir_format.write, program.write])
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (random_network(encoding="poisson"), "random numbers"),
        (random_network(carry_state=True), "live on from image to image"),
        (
            SpikingNetwork(replace(SPEC, layers=(Conv(4, 3), AvgPool())), SpikingOptions(1)),
            "other than plain conv",
        ),
    ],
    ids=["poisson", "carried", "pooling"],
)
def test_what_a_file_cannot_hold_is_refused(write, network, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        write(network, tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["format=tflite"], ["format=tflite", "onnx, nir, torch"]),
        (["check_frames=0"], ["check_frames=0"]),
        (["T=5", "format=nir"], ["5 timesteps", "reset by subtraction"]),
        (["dqn.lr=1"], ["snn_rl.export does not take dqn.lr"]),
        (["device=cuda"], ["does not take device"]),
        (["T=3"], ["no finished T3", "python -m snn_rl.train env=CartPole-v1 T=3"]),
        (["T=2", "exact=true"], ["exact=true", "T=1"]),
        (["output=FOLDER"], ["is a folder"]),
    ],
)
def test_what_cannot_be_exported_is_one_line(arguments, words, tmp_path, capsys):
    arguments = [each.replace("FOLDER", str(tmp_path)) for each in arguments]
    with pytest.raises(SystemExit) as stop:
        command("env=CartPole-v1", f"runs={tmp_path}", *arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for word in words:
        assert word in message


def test_training_refuses_what_is_for_export(capsys, tmp_path):
    with pytest.raises(SystemExit):
        command(
            *("env=CartPole-v1", f"runs={tmp_path}", "output=net.onnx"),
            main=train.main,
            name="train",
        )
    assert "output=net.onnx: only for snn_rl.export" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(UserError, match=r"onnx.*pip install 'snn_rl\[export\]'"):
        onnx_format.write(random_network(), tmp_path / "file")
    with pytest.raises(UserError, match=r"nir.*pip install 'snn_rl\[interop\]'"):
        nir_format.write(random_network(), tmp_path / "file")


@pytest.mark.parametrize("noops", [1, 30])
def test_the_example_sees_what_the_agent_was_trained_on(noops):
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


def test_the_example_needs_neither_torch_nor_gymnasium(pong):
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
