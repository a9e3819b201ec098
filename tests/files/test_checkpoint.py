"""Files that survive: round trips, damage of every kind, and a disk that fills up."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from snn_rl.core.networks import (
    AnalogNetwork,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.files.atomic import read_json, remove_temporaries, write_atomic, write_json
from snn_rl.files.checkpoint import SCHEMA, load_network, load_tensors, save_network, save_tensors
from snn_rl.utils.errors import UserError

SPEC = NetworkSpec((1, 6, 6), (Conv(2, 3, 2), Dense(3)), 2, bias=True)


def spiking(timesteps: int = 3, **options: Any) -> SpikingNetwork:
    """A network none of whose parameters has its initial value."""
    torch.manual_seed(timesteps)
    network = SpikingNetwork(SPEC, SpikingOptions(timesteps, **options))
    with torch.no_grad():
        for i, neuron in enumerate(network.neurons):
            neuron.v_threshold.fill_(0.125 * (i + 2))
            neuron.leak.fill_(0.5 + 0.25 * i)
    return network


def described(**changes: Any) -> dict[str, Any]:
    """The description of `spiking(2)`, with changes; a change named spec_x goes into the spec."""
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
    """The one line that loading this network is refused with."""
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
def test_a_network_comes_back_as_it_was(tmp_path, network):
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
def test_tensors_of_any_type_and_layout_come_back(tmp_path, tensor):
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


def test_the_same_network_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        save_network(tmp_path / name, spiking(), {"note": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_truncated_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(path, spiking())
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole + b"\0")
    refused(path)


@pytest.mark.parametrize("mask", [0x01, 0x08, 0xFF])
def test_a_changed_byte_is_refused_wherever_it_stands(tmp_path, mask):
    """Weights included: a network that silently plays otherwise is worse than none."""
    path = tmp_path / "network.safetensors"
    save_network(path, spiking())
    whole = path.read_bytes()
    for position in range(0, len(whole), 2 if mask == 0xFF else 3):
        damaged = bytearray(whole)
        damaged[position] ^= mask
        path.write_bytes(damaged)
        refused(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a tensor", b"PK\x03\x04" * 50])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "network.safetensors"
    path.write_bytes(content)
    assert "not a safetensors file" in refused(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "none.safetensors")
    assert "no such file" in refused(tmp_path / "nowhere" / "none.safetensors")
    (tmp_path / "folder").mkdir()
    assert "no such file" in refused(tmp_path / "folder")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"snn_rl": "{"}, {"snn_rl": "[1]"}])
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    save_file(spiking().state_dict(), path, metadata)
    assert "not written by snn_rl" in refused(path)


def test_another_schema_is_refused_and_both_are_named(tmp_path, monkeypatch):
    path = tmp_path / "network.safetensors"
    monkeypatch.setattr("snn_rl.files.checkpoint.SCHEMA", SCHEMA + 41)
    save_network(path, spiking())
    monkeypatch.undo()
    message = refused(path)
    assert f"schema {SCHEMA + 41}" in message
    assert f"schema {SCHEMA}" in message


@pytest.mark.parametrize("description", [None, [], "network", {}], ids=repr)
def test_what_describes_no_network_is_refused(tmp_path, description):
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
        {"timesteps": None},  # an analog network has no thresholds
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
def test_tensors_that_do_not_fit_their_description_are_refused(tmp_path, change):
    path = tmp_path / "network.safetensors"
    save_tensors(path, spiking(2).state_dict(), {"network": described(**change)})
    assert "does not hold the network it describes" in refused(path)


def test_a_description_of_any_size_takes_no_memory(tmp_path):
    """Far above what any machine has: only a network that is never allocated gets to its shapes."""
    path = tmp_path / "network.safetensors"
    save_tensors(path, spiking(2).state_dict(), {"network": described(spec_outputs=10**15)})
    assert "size mismatch for head" in refused(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_of_other_names_or_shapes_are_refused(tmp_path, change):
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
        (torch.ones(2, 3, dtype=torch.int32), "int32, not floating point"),
    ],
    ids=["NaN", "infinity", "integers"],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, words):
    path = tmp_path / "network.safetensors"
    save_tensors(path, {**spiking(2).state_dict(), "head.weight": value}, {"network": described()})
    assert words in refused(path)


@pytest.mark.parametrize("note", ['{"schema": 1, "schema": 1}', "[" * 100_000, "9" * 5_000])
def test_a_crafted_note_is_refused(tmp_path, note):
    path = tmp_path / "network.safetensors"
    save_file(spiking().state_dict(), path, {"snn_rl": note})
    assert "not written by snn_rl" in refused(path)


def no_space(*_args: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "tempfile.mkstemp", "write"])
def test_a_full_disk_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path, monkeypatch, call):
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
    # with space again, the same call goes through
    save_network(path, spiking(5))
    assert load_network(path)[0].timesteps == 5


@pytest.mark.parametrize("failure", [ValueError("a bug"), OSError(errno.EIO, "Input/output error")])
def test_other_failures_keep_their_type_and_the_old_file(tmp_path, failure):
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})

    def write(temporary: Path) -> None:
        temporary.write_text("half of i")
        raise failure

    with pytest.raises(type(failure)) as caught:
        write_atomic(path, write)
    assert caught.value is failure
    assert read_json(path) == {"step": 1}
    assert os.listdir(tmp_path) == [path.name]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Synced, then renamed, then the directory synced: else a power cut may leave an empty file."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        calls.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(source: Path, target: Path) -> None:
        calls.append("rename")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_json(tmp_path / "state.json", {})
    assert calls == ["file", "rename", "directory"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "state.json"

    def killed(temporary: Path) -> None:
        (tmp_path / "leftover").write_text(temporary.name)

    write_atomic(path, killed)
    leftover = tmp_path / (tmp_path / "leftover").read_text()
    leftover.write_text("half of i")
    (tmp_path / ".lock").touch()
    (tmp_path / "note.tmp").touch()
    remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "leftover", "note.tmp", "state.json"]


@pytest.mark.parametrize("data", [{}, {"b": [1, 2.5, None], "a": {"c": "ü"}}, [1, True], "text"])
def test_json_comes_back(tmp_path, data):
    write_json(tmp_path / "deeper" / "x.json", data)
    assert read_json(tmp_path / "deeper" / "x.json") == data
    assert json.loads((tmp_path / "deeper" / "x.json").read_text()) == data


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"nonsense"])
def test_damaged_json_is_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json is damaged"):
        read_json(path)


def test_missing_json_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*x\.json"):
        read_json(tmp_path / "x.json")
