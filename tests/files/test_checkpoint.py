"""Checkpoints: round trips, damaged files and a full disk."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from snn_rl.chain.records import Counters, read_counters
from snn_rl.core.networks import (
    AnalogNetwork,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.files.archive import MAX_JSON, MAX_STATE, check_size
from snn_rl.files.checkpoint import (
    SCHEMA,
    load_checkpoint,
    load_network,
    load_tensors,
    save_checkpoint,
    save_network,
    save_tensors,
)
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec((1, 6, 6), (Conv(2, 3, 2), Dense(3)), 2, bias=True)


def spiking(timesteps: int = 3, **options: Any) -> SpikingNetwork:
    """Returns a network whose parameters all differ from their initial values."""
    torch.manual_seed(timesteps)
    network = SpikingNetwork(SPEC, SpikingOptions(timesteps, **options))
    with torch.no_grad():
        for i, neuron in enumerate(network.neurons):
            neuron.v_threshold.fill_(0.125 * (i + 2))
            neuron.leak.fill_(0.5 + 0.25 * i)
    return network


def described(**changes: Any) -> dict[str, Any]:
    """Returns the description of `spiking(2)` with changes; spec_x changes x in the spec."""
    description: dict[str, Any] = {
        "spec": SPEC.to_dict(),
        "timesteps": 2,
        "surrogate": "linear",
        "encoding": "direct",
    }
    for key, value in changes.items():
        if key.startswith("spec_"):
            description["spec"][key.removeprefix("spec_")] = value
        else:
            description[key] = value
    return description


def refused(path: Path) -> str:
    """Returns the one-line error of loading a network."""
    with pytest.raises(UserError) as caught:
        load_network(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "network",
    [
        AnalogNetwork(SPEC),
        AnalogNetwork(NetworkSpec((2, 5, 4), (Dense(3),), 2)),
        spiking(1),
        spiking(5, surrogate="boxcar", encoding="poisson"),
        spiking(1, carry_state=True),
    ],
)
def test_network_is_loaded_unchanged(tmp_path, network):
    path = tmp_path / "deeper" / "network.safetensors"
    save_network(path, network, {"env": "Pole", "reward": [1.5, None]})
    loaded, meta = load_network(path)
    assert type(loaded) is type(network)
    assert loaded.spec == network.spec
    for name in ("timesteps", "surrogate", "encoding", "carry_state"):
        assert getattr(loaded, name, None) == getattr(network, name, None)
    before, after = dict(network.named_parameters()), dict(loaded.named_parameters())
    assert before.keys() == after.keys()
    for name, parameter in before.items():
        assert torch.equal(parameter, after[name])
        assert parameter.requires_grad == after[name].requires_grad
    assert (meta["env"], meta["reward"]) == ("Pole", [1.5, None])
    x = torch.rand(4, *network.spec.input_shape)
    torch.manual_seed(0)
    expected = network(x)
    torch.manual_seed(0)
    assert torch.equal(loaded(x), expected)


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path):
    network = AnalogNetwork(NetworkSpec((1, 40, 40), (Dense(64),), 2))
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_network(full, network)
    save_network(half, network, dtype=torch.float16)
    assert half.stat().st_size < 0.52 * full.stat().st_size
    loaded, _ = load_network(half)
    for name, parameter in network.named_parameters():
        restored = dict(loaded.named_parameters())[name]
        assert restored.dtype == torch.float32
        assert torch.equal(restored, parameter.half().float())
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3),
        torch.tensor([True, False]),
        torch.tensor(1.5, dtype=torch.float64),
        torch.arange(5, dtype=torch.uint8),
        torch.empty(0, 3),
        torch.rand(4, 6, dtype=torch.bfloat16),
        torch.rand(3, 5).t(),
        torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}".removeprefix("torch."),
)
def test_tensors_of_any_type_and_layout_are_loaded(tmp_path, tensor):
    save_tensors(tmp_path / "t", {"x": tensor}, {"note": 1})
    tensors, meta = load_tensors(tmp_path / "t")
    assert tensors.keys() == {"x"}
    assert tensors["x"].dtype == tensor.dtype
    assert torch.equal(tensors["x"], tensor)
    assert meta == {"note": 1, "schema": SCHEMA}


def test_loading_draws_no_random_numbers(tmp_path):
    save_network(tmp_path / "n", spiking())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_network(tmp_path / "n")
    assert torch.equal(torch.rand(3), expected)


def test_equal_networks_give_equal_files(tmp_path):
    for name in ("a", "b"):
        save_network(tmp_path / name, spiking(), {"note": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_file_truncated_at_any_length_is_rejected(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(path, spiking())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)


@pytest.mark.parametrize("mask", [0x01, 0x08, 0xFF])
def test_file_with_a_changed_byte_is_rejected(tmp_path, mask):
    path = tmp_path / "network.safetensors"
    save_network(path, spiking())
    whole = path.read_bytes()
    for position in range(0, len(whole), 2 if mask == 0xFF else 3):
        damaged = bytearray(whole)
        damaged[position] ^= mask
        path.write_bytes(damaged)
        refused(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a tensor", b"PK\x03\x04" * 50])
def test_other_files_are_rejected(tmp_path, content):
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    assert "not a safetensors file" in refused(path)


def test_missing_files_and_directories_are_rejected(tmp_path):
    assert "no such file" in refused(tmp_path / "none.safetensors")
    assert "no such file" in refused(tmp_path / "nowhere" / "none.safetensors")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(tmp_path / "folder")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"snn_rl": "[1]"}])
def test_foreign_safetensors_file_is_rejected(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    save_file(spiking().state_dict(), path, metadata)
    assert "not written by snn_rl" in refused(path)


def test_other_schema_is_rejected_naming_both(tmp_path, monkeypatch):
    path = tmp_path / "network.safetensors"
    monkeypatch.setattr("snn_rl.files.checkpoint.SCHEMA", SCHEMA + 41)
    save_network(path, spiking())
    monkeypatch.undo()
    message = refused(path)
    assert f"schema {SCHEMA + 41}" in message
    assert f"schema {SCHEMA}" in message


@pytest.mark.parametrize("description", [None, [], "network", {}], ids=repr)
def test_invalid_description_is_rejected(tmp_path, description):
    path = tmp_path / "network.safetensors"
    save_tensors(path, spiking(2).state_dict(), {"network": description})
    assert "does not hold the network it describes" in refused(path)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    "change",
    [
        {"spec": None},
        {"timesteps": 0},
        {"timesteps": "2"},
        {"timesteps": 2.5},
        {"timesteps": None},  # analog networks have no thresholds
        {"surrogate": "nonsense"},
        {"encoding": "nonsense"},
        {"encoding": ["direct"]},
        {"spec_bias": False},
        {"spec_outputs": 3},
        {"spec_outputs": 0},
        {"spec_outputs": -1},
        {"spec_outputs": 10**30},
        {"spec_input_shape": [2, 6, 6]},
        {"spec_input_shape": [1, 6]},
        {"spec_input_shape": [1, 1, 1]},
        {"spec_input_shape": [1, 6, float("inf")]},
        {"spec_layers": []},
        {"spec_layers": SPEC.to_dict()["layers"][::-1]},
        {"spec_layers": [{"kind": "pool"}]},
        {"spec_layers": [{"kind": "conv", "channels": 2, "kernel": 3, "stride": 0}]},
    ],
    ids=repr,
)
def test_tensors_that_differ_from_their_description_are_rejected(tmp_path, change):
    path = tmp_path / "network.safetensors"
    save_tensors(path, spiking(2).state_dict(), {"network": described(**change)})
    assert "does not hold the network it describes" in refused(path)


def test_huge_description_allocates_no_memory(tmp_path):
    """An allocated network of this size would exceed any memory before its shapes are checked."""
    path = tmp_path / "network.safetensors"
    save_tensors(path, spiking(2).state_dict(), {"network": described(spec_outputs=10**15)})
    assert "size mismatch for head" in refused(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_of_other_names_or_shapes_are_rejected(tmp_path, change):
    path = tmp_path / "network.safetensors"
    tensors = dict(spiking(2).state_dict())
    if change == "missing":
        del tensors["neurons.0.v_threshold"]
    elif change == "extra":
        tensors["synapses.7.weight"] = torch.zeros(1)
    else:
        tensors["head.weight"] = tensors["head.weight"].t()
    save_tensors(path, tensors, {"network": described()})
    assert "does not hold the network it describes" in refused(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.full((2, 3), float("nan")), "NaN or infinity"),
        (torch.full((2, 3), -float("inf")), "NaN or infinity"),
        (torch.ones(2, 3, dtype=torch.int32), "int32, expected floating point"),
    ],
    ids=["NaN", "infinity", "integers"],
)
def test_weights_that_are_not_finite_floats_are_rejected(tmp_path, value, words):
    path = tmp_path / "network.safetensors"
    save_tensors(path, {**spiking(2).state_dict(), "head.weight": value}, {"network": described()})
    assert words in refused(path)


@pytest.mark.parametrize(
    ("name", "value"), [("v_threshold", -1.0), ("leak", 7.0), ("leak", -0.5)], ids=str
)
def test_parameters_outside_their_range_are_rejected(tmp_path, name, value):
    path = tmp_path / "network.safetensors"
    network = spiking(2)
    network.state_dict()[f"neurons.1.{name}"].fill_(value)
    save_network(path, network)
    assert f"'neurons.1.{name}' is not between 0 and" in refused(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timesteps": 10**8}, "timesteps=100000000: must be from 1 to"),
        ({"spec_layers": [{"kind": "dropout"}] * 100_000}, "layers are supported"),
        ({"spec_layers": [{"kind": "dense", "units": 1}] * 100_000}, "too many JSON values"),
        ({"spec_input_shape": [1, 10**5, 10**5]}, "pixels"),
        (
            {
                "spec_layers": [
                    {"kind": "conv", "channels": 2, "kernel": 3, "padding": 15_000},
                    {"kind": "dense", "units": 3},
                ]
            },
            "neurons, the limit",
        ),
    ],
    ids=["timesteps", "layers", "JSON", "images", "padding"],
)
def test_costly_description_is_rejected_at_once(tmp_path, change, words):
    path = tmp_path / "network.safetensors"
    save_tensors(path, spiking(2).state_dict(), {"network": described(**change)})
    started = time.process_time()
    assert words in refused(path)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("note", ['{"schema": 1, "schema": 1}', "[" * 100_000, "9" * 5_000])
def test_crafted_note_is_rejected(tmp_path, note):
    path = tmp_path / "network.safetensors"
    save_file(spiking().state_dict(), path, {"snn_rl": note})
    assert "the metadata of" in refused(path)


def no_space(*_args: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "pathlib.Path.open", "write"])
def test_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "network.safetensors"
    save_network(path, spiking(2))
    before = path.read_bytes()

    if call == "write":
        half = Path.write_bytes

        def write_half(self: Path, data: bytes) -> int:
            half(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", write_half)
    else:
        monkeypatch.setattr(call, no_space)
    with pytest.raises(UserError, match="No space left on device") as caught:
        save_network(path, spiking(5))
    monkeypatch.undo()
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    # With free space, the same call succeeds.
    save_network(path, spiking(5))
    assert load_network(path)[0].timesteps == 5


def state(path: Path, value: int) -> None:
    """Saves two generations of a checkpoint, the newer one with a value."""
    for each in (value - 1, value):
        save_checkpoint(path, {"x": torch.tensor(each)}, {})


def load_state(path: Path) -> int:
    return int(load_tensors(path)[0]["x"])


def test_a_damaged_checkpoint_is_kept_under_another_name(tmp_path, capsys):
    path = tmp_path / "state.safetensors"
    state(path, 2)
    path.write_bytes(data := path.read_bytes()[:-1])
    assert load_checkpoint(path, load_state, writes=False) == 1
    assert path.read_bytes() == data, "another worker renames the file"
    assert load_checkpoint(path, load_state) == 1
    assert (tmp_path / "state.damaged.safetensors").read_bytes() == data and not path.exists()
    assert "Using the previous checkpoint" in capsys.readouterr().out
    assert load_checkpoint(path, load_state) == 1


@pytest.mark.parametrize("cause", ["EIO", "EACCES", "EMFILE", "library", "schema"])
def test_an_intact_checkpoint_that_cannot_be_read_is_neither_replaced_nor_skipped(
    tmp_path, monkeypatch, cause
):
    path = tmp_path / "state.safetensors"
    state(path, 2)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def failing(*_: object, **__: object) -> None:
        if cause == "library":  # safetensors reports every error in opening a file like this
            raise FileNotFoundError(f"No such file or directory: {path}")
        raise OSError(getattr(errno, cause), os.strerror(getattr(errno, cause)))

    if cause == "schema":
        monkeypatch.setattr("snn_rl.files.checkpoint.SCHEMA", SCHEMA + 1)
    elif cause == "library":
        monkeypatch.setattr("snn_rl.files.checkpoint.safe_open", failing)
    else:
        monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(UserError, match="schema" if cause == "schema" else "cannot read"):
        load_checkpoint(path, load_state)
    monkeypatch.undo()
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_checkpoint_lists_a_million_episodes(tmp_path):
    check_size("[" + "[1000000,-21.0,18]," * 1_000_000 + "[]]", "x", MAX_STATE)
    path = tmp_path / "state.safetensors"
    meta = {"counters": {}, "long": "x" * MAX_JSON}
    save_checkpoint(path, {}, meta)
    assert load_tensors(path, MAX_STATE)[1] == {"schema": SCHEMA, **meta}
    assert read_counters(tmp_path) == Counters()
    with pytest.raises(UserError, match="at most"):
        load_tensors(path)


def test_a_checkpoint_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    state(path, 2)
    monkeypatch.setattr("snn_rl.files.checkpoint.MAX_STATE", 1000)
    for counters in (["x" * 1000], [0] * 251):
        with pytest.raises(UserError, match=r"the metadata of .* has"):
            save_checkpoint(path, {}, {"counters": counters})
    assert load_checkpoint(path, load_state) == 2
