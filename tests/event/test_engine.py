"""Event-driven decisions compared with naive loops and with the network in torch."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from snn_rl import evaluate, export, play, zoo
from snn_rl.agents.finding import put_on_grid
from snn_rl.agents.loading import load_agent
from snn_rl.chain import run_directory
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.core.conversion import quantize
from snn_rl.core.energy import FLOAT32, macs
from snn_rl.core.networks import Conv, Dense, NetworkSpec, SpikingNetwork, SpikingOptions
from snn_rl.event import network as event
from snn_rl.event.engine import EventEngine
from snn_rl.event.network import EventLayer, EventNetwork
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_network
from snn_rl.formats import event as event_file
from snn_rl.utils.errors import UserError

# Kernels that are no multiple of the stride, smaller than the stride, padded or out of bounds
SPECS = [
    NetworkSpec((3, 9, 11), (Conv(4, 5, 2), Conv(6, 3, 1, 1), Dense(8), Dense(5)), 3, bias=True),
    NetworkSpec((2, 13, 10), (Conv(5, 2, 3), Conv(3, 3, 2, 2)), 4),
    NetworkSpec((1, 7, 5), (Dense(9),), 2, bias=True),
    NetworkSpec((1, 6, 6), (), 2),
]


def naive(network, image):
    """Returns integer outputs and spikes of all layers, neuron by neuron."""
    x, spikes = image.astype(int), []
    for layer in network.layers:
        if layer.weight.ndim == 4:
            p, s, k = layer.padding, layer.stride, layer.weight.shape[2]
            padded = np.pad(x, ((0, 0), (p, p), (p, p)))
            _, height, width = padded.shape
            u = np.array(
                [
                    [
                        [
                            int((w.astype(int) * padded[:, y : y + k, a : a + k]).sum())
                            for a in range(0, width - k + 1, s)
                        ]
                        for y in range(0, height - k + 1, s)
                    ]
                    for w in layer.weight
                ]
            )
        else:
            u = layer.weight.astype(int) @ x.reshape(-1)
        if layer.bias is not None:
            u = u + layer.bias.reshape(-1, *[1] * (u.ndim - 1))
        if layer.v_threshold is None:
            return u * layer.unit, spikes
        x = (u > layer.v_threshold).astype(int)
        spikes.append(x)
    raise AssertionError


def synapses(layer, x):
    """Returns the number of weights that the nonzero entries of x meet."""
    if layer.weight.ndim == 2:
        return int(np.count_nonzero(x)) * len(layer.weight)
    p, s, k = layer.padding, layer.stride, layer.weight.shape[2]
    padded = np.pad(x != 0, ((0, 0), (p, p), (p, p)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (1, 2))[:, ::s, ::s]
    return int(windows.sum()) * len(layer.weight)


@pytest.fixture(scope="module")
def numba():
    return pytest.importorskip("numba")


@pytest.mark.usefixtures("numba")
@pytest.mark.parametrize("spec", SPECS, ids=["mixed", "padded", "dense", "head"])
@pytest.mark.parametrize("incremental", [True, False])
def test_results_equal_naive_integer_loops(spec, incremental, grid_network, changing_images):
    network = event_file.event_network(grid_network(spec))
    engine = EventEngine(network, incremental)
    fired = np.zeros(len(network.layers) - 1)
    for image in changing_images(spec.input_shape, 30):
        q_values, spikes = naive(network, image)
        assert engine(image).dtype == np.float32
        np.testing.assert_array_equal(engine(image), q_values)
        for mine, right in zip(engine.spikes, spikes, strict=True):
            np.testing.assert_array_equal(mine, right)
        fired += [x.mean() for x in spikes]
        # The second decision sees no change.
        again = engine.operations
        assert again.macs == 0
        expected = [synapses(*pair) for pair in zip(network.layers[1:], spikes, strict=True)]
        assert list(again.layers[1:]) == ([0] * len(expected) if incremental else expected)
    assert ((fired > 0) & (fired < 30)).all()


@pytest.mark.usefixtures("numba")
@pytest.mark.parametrize("spec", SPECS, ids=["mixed", "padded", "dense", "head"])
def test_operations_are_the_synapses_of_the_changes(spec, grid_network, changing_images):
    network = event_file.event_network(grid_network(spec))
    engine = EventEngine(network)
    before = None
    for image in changing_images(spec.input_shape, 20):
        engine(image)
        entered = [image.astype(int), *(x.astype(int) for x in engine.spikes)]
        if before is not None:
            changes = [now - then for now, then in zip(entered, before, strict=True)]
            expected = [synapses(*pair) for pair in zip(network.layers, changes, strict=True)]
            assert list(engine.operations.layers) == expected
            assert engine.operations.macs == expected[0]
            assert engine.operations.acs == sum(expected[1:])
        before = entered


def test_dense_pass_has_the_operations_of_the_energy_model(grid_network):
    for spec in SPECS:
        network = event_file.event_network(grid_network(spec))
        assert network.macs == macs(spec)
        assert network.shapes == [*spec.shapes(), (spec.outputs,)]


@pytest.mark.usefixtures("numba")
@pytest.mark.parametrize(("env", "count"), [("PongNoFrameskip-v4", 200), ("CartPole-v1", 150)])
def test_shipped_agents_decide_as_in_torch(env, count, tmp_path):
    agent = load_agent(zoo.ROOT / env / "T1", "cpu")
    exact = quantize(agent.q_net.network)
    event_file.export(exact, tmp_path / "net.event", {})
    network = EventNetwork.load(tmp_path / "net.event")
    engine, anew = EventEngine(network), EventEngine(network, incremental=False)
    venv = agent.make_env(1, 3)
    obs, taken = venv.reset(), []
    for _ in range(count):
        with torch.no_grad():
            q_values, layers = exact.activity(exact.images(torch.as_tensor(obs)))
        assert np.array_equal(engine(obs[0]), q_values[0].numpy())
        assert np.array_equal(anew(obs[0]), q_values[0].numpy())
        for mine, right in zip(engine.spikes, layers, strict=True):
            assert np.array_equal(mine, right[0, 0].numpy())
        taken.append(engine.operations.macs + engine.operations.acs)
        assert engine.action(obs[0]) == int(q_values.argmax())
        obs = venv.step([int(q_values.argmax())])[0]
    venv.close()
    assert np.median(taken) < sum(network.macs) / 10


def test_network_is_read_back(tmp_path, grid_network):
    for spec in SPECS:
        network = event_file.event_network(grid_network(spec))
        (tmp_path / "net.event").write_bytes(network.to_bytes())
        loaded = EventNetwork.load(tmp_path / "net.event")
        assert loaded.input_shape == network.input_shape
        for mine, right in zip(loaded.layers, network.layers, strict=True):
            for field in dataclasses.fields(EventLayer):
                one, other = getattr(mine, field.name), getattr(right, field.name)
                assert np.array_equal(one, other), field.name
        assert loaded.to_bytes() == network.to_bytes()


@pytest.mark.usefixtures("numba")
def test_engine_runs_without_torch_and_sb3(tmp_path, grid_network):
    (tmp_path / "net.event").write_bytes(
        event_file.event_network(grid_network(SPECS[0])).to_bytes()
    )
    code = (
        "import sys, numpy as np\n"
        "sys.modules.update(dict.fromkeys(['torch', 'stable_baselines3', 'gymnasium']))\n"
        "from snn_rl.event.engine import EventEngine\n"
        "from snn_rl.event.network import EventNetwork\n"
        f"engine = EventEngine(EventNetwork.load({str(tmp_path / 'net.event')!r}))\n"
        "print(engine.action(np.zeros((3, 9, 11), np.uint8)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    q_values = grid_network(SPECS[0])(torch.zeros(1, 3, 9, 11))
    assert int(done.stdout) == int(q_values.argmax())


@pytest.mark.usefixtures("numba")
def test_images_of_another_type_or_shape_are_rejected(grid_network, changing_images):
    engine = EventEngine(event_file.event_network(grid_network(SPECS[0])))
    for image in (np.zeros((3, 9, 12), np.uint8), np.zeros((3, 9, 11), np.float32)):
        with pytest.raises(ValueError, match=r"uint8 \(3, 9, 11\)"):
            engine(image)
    rotated = np.ascontiguousarray(next(changing_images((3, 11, 9), 1))).transpose(0, 2, 1)
    assert np.array_equal(engine(rotated), engine(np.ascontiguousarray(rotated)))


def ones(*shape):
    return np.ones(shape, np.int32)


def conv(name, padding):
    return EventLayer(name, 1.0, ones(2, 2, 3, 3), None, 1, padding=padding)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((), "have 1 to"),
        ((EventLayer("head", 0.3, ones(2, 18)),), "power of two"),
        ((EventLayer("head", 1.0, ones(2, 17)),), "do not match"),
        ((EventLayer("head", 1.0, ones(2, 18), ones(3)),), "do not match"),
        ((EventLayer("head", 1.0, ones(2, 18).astype(float)),), "signed integers"),
        ((EventLayer("head", 1.0, ones(2, 18), None, 4),), "every layer except the head"),
        ((EventLayer("fc1", 1.0, ones(2, 18)), EventLayer("head", 1.0, ones(2, 2))), "threshold"),
        ((EventLayer("head", 1.0, 4000 * ones(2, 18)),), "not on the grid"),
        ((EventLayer("head", 1.0, 2**15 * ones(2, 18)),), "16 bits"),
        (
            (
                EventLayer("conv1", 1.0, ones(1, 2, 4, 4), None, 1),
                EventLayer("head", 1.0, ones(1, 1)),
            ),
            "do not match",
        ),
        (
            (EventLayer("fc1", 1.0, ones(2, 18), None, -1), EventLayer("head", 1.0, ones(2, 2))),
            "0 to",
        ),
        ((EventLayer("head", 1.0, ones(2, 18), np.full(2, -(2**63))),), "biases"),
        ((EventLayer("fc1", 1.0, ones(18, 18), None, 1),) * 2, "distinct names"),
        ((conv("conv1", 15_000), EventLayer("head", 1.0, ones(2, 2))), "do not match"),
        ((*(conv(f"conv{i}", 2) for i in range(998)), conv("head", 0)), "pixels and neurons"),
    ],
)
def test_invalid_layers_are_rejected(layers, words):
    with pytest.raises(ValueError, match=words):
        EventNetwork((2, 3, 3), layers)


def test_damaged_and_foreign_files_give_one_line_errors(tmp_path, grid_network):
    data = event_file.event_network(grid_network(SPECS[0])).to_bytes()
    path = tmp_path / "net.event"
    changed = bytearray(data)
    changed[-1] ^= 1
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    note = json.loads(header["__metadata__"]["snn_rl.event"])
    del note["sha256"]
    note["layers"][0]["stride"] = 0
    tensors = load(data)
    wrong = {**note, "sha256": event._digest(note, tensors)}
    for content, words in (
        (None, "no such file"),
        (b"nonsense", "damaged or not"),
        (data[:-5], "damaged or not"),
        (bytes(changed), "checksum"),
        (save({"x": np.zeros(1)}), "format=event"),
        (save(tensors, {"snn_rl.event": json.dumps(wrong)}), "does not hold a network"),
        (save(tensors, {"snn_rl.event": '{"schema": 9}'}), "schema 1"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            EventNetwork.load(path)
        assert "\n" not in str(error.value)


def test_network_off_the_grid_is_rejected():
    with pytest.raises(UserError, match="exact=true"):
        event_file.event_network(SpikingNetwork(SPECS[0], SpikingOptions(1)))


def test_missing_numba_is_named(monkeypatch, grid_network):
    monkeypatch.setitem(sys.modules, "snn_rl.event.kernels", None)
    network = event_file.event_network(grid_network(SPECS[0]))
    with pytest.raises(UserError, match=r"pip install 'snn_rl\[fast\]'"):
        EventEngine(network)


def command(module, *arguments):
    """Runs a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *arguments])
        run_command(Config, module.main, module.__doc__)


@pytest.mark.usefixtures("numba")
def test_evaluate_gives_the_same_results_by_events(tmp_path, capsys):
    common = ("env=CartPole-v1", "T=1", "exact=true", f"runs={tmp_path}", "episodes=1", "threads=1")
    path = tmp_path / "CartPole-v1" / "zoo" / "T1-exact" / run_directory.EVALUATION
    results = {}
    for engine in ("dense", "event"):
        command(evaluate, *common, f"engine={engine}")
        results[engine] = read_json(path)
    done = results["event"].pop("work")
    assert results["event"] == results["dense"]
    network, _ = load_network(zoo.ROOT / "CartPole-v1" / "T1" / run_directory.NETWORK)
    mac, ac = FLOAT32
    energy = done["macs"] * mac + done["acs"] * ac
    assert done["float32"] == pytest.approx(sum(macs(network.spec)) * mac / energy)
    assert f"{done['float32']:.2f} float32" in capsys.readouterr().out


@pytest.mark.usefixtures("numba")
def test_export_writes_and_runs_a_file(tmp_path, capsys):
    common = ("env=CartPole-v1", "T=1", f"runs={tmp_path}", "threads=1", "format=event")
    path = tmp_path / "cart.event"
    command(export, *common, "exact=true", f"output={path}", "check_frames=10")
    assert "snn_rl.event, batch 1: 10 frames: same spikes 100.0000%" in capsys.readouterr().out
    network, _ = load_network(zoo.ROOT / "CartPole-v1" / "T1" / run_directory.NETWORK)
    right = event_file.event_network(quantize(network))
    assert EventNetwork.load(path).to_bytes() == right.to_bytes()
    with pytest.raises(SystemExit) as stop:
        command(export, *common)
    assert stop.value.code == 2
    assert "exact=true" in capsys.readouterr().err


@pytest.mark.usefixtures("numba")
def test_play_shows_the_same_episode_by_events(tmp_path):
    put_on_grid(zoo.ROOT / "CartPole-v1" / "T1", tmp_path / "T1-exact")
    games = [
        list(play.Episode(load_agent(tmp_path / "T1-exact", "cpu", engine), 5, max_steps=20))
        for engine in ("dense", "event")
    ]
    for one, other in zip(*games, strict=True):
        assert one.action == other.action
        assert np.array_equal(one.q_values, other.q_values)
        assert one.spike_rates == other.spike_rates


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["T=1", "engine=event"], "exact=true"),
        (["T=2", "engine=event"], "exact=true"),
        (["T=1", "exact=true", "engine=evnt"], "dense, event"),
    ],
)
def test_other_stages_give_one_line_errors(tmp_path, capsys, arguments, words):
    for module in (evaluate, play):
        with pytest.raises(SystemExit) as stop:
            command(module, "env=CartPole-v1", f"runs={tmp_path}", *arguments)
        assert stop.value.code == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert words in message
