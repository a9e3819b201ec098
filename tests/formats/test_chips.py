"""Limits of chips."""

import itertools
import re

import pytest

from snn_rl import export, zoo
from snn_rl.agents.loading import load_agent
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import (
    Connection,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.formats import chips
from snn_rl.utils.errors import UserError


def exceeded(spec, chip, bits=8):
    """Returns the names of the limits that an exact network exceeds."""
    network = quantize(SpikingNetwork(spec, SpikingOptions(1)), bits, bits)
    return [each.name for each in chips.examine(network, chip) if each.fatal]


def named(network, chip):
    return {each.name: each for each in chips.examine(network, chip)}


@pytest.fixture(scope="module")
def pong():
    network = load_agent(zoo.ROOT / "PongNoFrameskip-v4" / "T1", "cpu").q_net.network
    return {bits: quantize(network, bits, bits) for bits in (8, 12)}


def test_pong_fits_where_its_weights_and_synapses_do(pong):
    loihi = named(pong[12], "loihi2")
    assert (loihi["weights"].needed, loihi["weights"].remedy) == ("12 bits", "exact=true bits=8")
    assert [name for name, each in loihi.items() if each.fatal] == ["weights"]
    loihi = named(pong[8], "loihi2")
    assert not any(each.fatal for each in loihi.values())
    # 32 x 20 x 20, 64 x 9 x 9, 64 x 7 x 7, 512 and 6 neurons
    assert loihi["neurons"].needed == f"{12_800 + 5_184 + 3_136 + 512 + 6:,}"
    assert loihi["cores"].needed == f"{4 + 3 + 2 + 2 + 1}"  # most layers are limited by synapses
    synapses = 12_800 * 256 + 5_184 * 512 + 3_136 * 576 + 512 * 3_136 + 6 * 512
    assert loihi["synapses"].needed == f"{synapses:,}"
    # Weights of one or two bytes and membranes of four bytes
    weights = 32 * 256 + 64 * 512 + 64 * 576 + 512 * 3_136 + 6 * 512
    for bits, width in ((8, 1), (12, 2)):
        kib = -(-(weights * width + 4 * 21_638) // 1024)
        assert named(pong[bits], "spinnaker2")["memory"].needed == f"{kib:,} KiB"


def test_other_chips_name_the_layers_that_do_not_fit(pong):
    speck = named(pong[8], "speck")
    assert [name for name, each in speck.items() if each.fatal] == ["weight words", "cores"]
    # 64 channels of 7 x 7, stored as 64, and 512 units
    assert speck["weight words"].needed == f"{64 * 64 * 512:,} in fc1"
    assert speck["weight words"].remedy == "at most 16 channels or units in fc1"
    assert speck["neuron words"].needed == f"{32 * 32 * 32:,} in conv1"
    truenorth = named(pong[8], "truenorth")
    assert truenorth["fan-in"].needed == "3,136 in fc1"
    values = max(len(set(row.tolist()) - {0}) for row in pong[8].head.weight.detach())
    assert truenorth["weight values"].needed == f"{values} in head"
    assert not truenorth["neurons"].fatal
    xylo = named(pong[8], "xylo")
    assert xylo["fan-out"].needed == "576 in conv3" and xylo["inputs"].fatal


@pytest.mark.parametrize("channels", [48, 64, 100])
def test_the_advice_for_speck_fits(channels):
    def spec(units):
        return NetworkSpec((4, 84, 84), (Conv(32, 8, 4), Conv(channels, 4, 4), Dense(units)), 6)

    network = quantize(SpikingNetwork(spec(512), SpikingOptions(1)), 8, 8)
    units = int(re.search(r"at most (\d+) ", named(network, "speck")["weight words"].remedy)[1])
    assert "weight words" not in exceeded(spec(units), "speck")
    assert "weight words" in exceeded(spec(2 * units), "speck")


def test_remedies_help():
    small = NetworkSpec((4, 84, 84), (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3), Dense(16)), 6)
    assert exceeded(small, "speck") == []
    assert exceeded(small, "speck", bits=12) == ["weights"]
    wide = NetworkSpec((4, 84, 84), (*small.layers[:-1], Dense(17)), 6)
    assert exceeded(wide, "speck") == ["weight words", "cores"]


@pytest.mark.parametrize(
    ("shape", "layer", "limit"),
    [
        ((1, 130, 20), Conv(2, 16, 8), "input size"),
        ((1, 84, 84), Conv(1, 3), "output size"),
        ((1, 84, 84), Conv(2, 17, 8), "kernel size"),
        ((1, 20, 20), Conv(1025, 3, 8), "channels"),
        ((1, 84, 84), Conv(2, 16, 8, 8), "padding"),
        ((1, 84, 84), Conv(2, 3, 3), "strides"),
        ((1, 66, 66), Conv(32, 3), "neuron words"),
    ],
)
def test_speck_limits_each_property_of_a_convolution(shape, layer, limit):
    spec = NetworkSpec(shape, (layer, Conv(2, 1, 8), Conv(1, 1, 8)), 2)
    found = exceeded(spec, "speck")
    assert limit in found
    assert set(found) <= {limit, "cores"}


def test_speck_memory_follows_the_example_of_its_manual():
    """The manual's layer needs 8 Ki words of weights and 128 Ki words of neurons."""
    layer = Connection(Conv(32, 3, 1, 1), None, 0, (16, 64, 64), (32, 64, 64))
    assert chips._speck_weights(layer) == 8 * 1024
    assert chips._speck_neurons(layer) == 128 * 1024


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_assignment_equals_a_search_of_all_permutations(layers):
    cores = [(1, 4), (2, 2), (4, 1)]
    sizes = list(itertools.product((1, 2, 4), repeat=2))
    for needs in itertools.product(sizes, repeat=layers):
        expected = any(
            all(w <= a and n <= b for (w, n), (a, b) in zip(needs, order, strict=False))
            for order in itertools.permutations(cores)
        )
        assert chips._assign(needs, cores) == expected


def test_more_layers_than_cores():
    spec = NetworkSpec((1, 8, 8), (Conv(2, 3, 1, 1),) * 9, 2)
    assert exceeded(spec, "speck") == ["layers", "cores"]


@pytest.mark.parametrize("chip", chips.CHIPS)
def test_float_networks_need_the_grid_and_lines_are_short(chip, random_network):
    requirements = chips.examine(random_network(), chip)
    weights = [each for each in requirements if each.name == "weights"]
    assert [each.needed for each in weights] == ["float32"] * (chip != "truenorth")
    assert all(len(line) <= 80 for each in requirements for line in str(each).splitlines())
    with pytest.raises(UserError, match=f"^chip={chip} requires T=1, not T=3$"):
        chips.examine(random_network(3), chip)


def test_export_writes_only_what_fits(tmp_path, monkeypatch, capfd):
    def command(*words):
        path = tmp_path / f"{len(words)}.event"
        common = ["env=CartPole-v1", "T=1", "exact=true", "format=event", "check_frames=2"]
        monkeypatch.setattr("sys.argv", ["export", *common, f"output={path}", *words])
        run_command(Config, export.main, export.__doc__)
        return path

    assert command("bits=8", "chip=loihi2").exists()
    lines = capfd.readouterr().out.splitlines()
    start = lines.index("published limits of Intel Loihi 2:")
    assert lines[start + 3] == "ok   weights        8 bits; chip: 8 bits"
    with pytest.raises(SystemExit) as stopped:
        command("chip=loihi2")
    assert stopped.value.code == 2 and not (tmp_path / "1.event").exists()
    words = "error: the network exceeds 1 limit of Intel Loihi 2: no file is written"
    assert capfd.readouterr().err.splitlines()[-1] == words
    with pytest.raises(SystemExit):
        command("chip=loihi")
    assert "did you mean loihi2?" in capfd.readouterr().err
