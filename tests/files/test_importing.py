"""Import of foreign networks, from valid, damaged and malicious files."""

import base64
import io
import itertools
import json
import os
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from stable_baselines3 import A2C, DQN
from torch import nn

from snn_rl.core.networks import (
    AnalogNetwork,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.files.checkpoint import save_network
from snn_rl.files.importing import load_any
from snn_rl.utils.errors import UserError

QUICK = settings(max_examples=25, derandomize=True, deadline=None, database=None)
SMALL = (36, 36)  # the smallest images that NatureCNN takes


class Blank(gym.Env[Any, Any]):
    """An environment that only provides spaces."""

    observation_space = spaces.Box(0, 255, (2, *SMALL), np.uint8)
    action_space = spaces.Discrete(3)


def sb3(algorithm: type[Any] = DQN, policy: str = "CnnPolicy", **policy_kwargs: Any) -> Any:
    extra = {"buffer_size": 1} if algorithm is DQN else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = algorithm(policy, Blank(), policy_kwargs=policy_kwargs, device="cpu", **extra)
    for parameter in model.policy.parameters():  # zero biases would hide missing ones
        nn.init.normal_(parameter, std=0.1)
    return model


def small(features_dim: int = 8, **policy_kwargs: Any) -> dict[str, Any]:
    return {"features_extractor_kwargs": {"features_dim": features_dim}, **policy_kwargs}


def stack(image: int = 40, dense: tuple[int, ...] = (6, 5), bias: bool = True) -> nn.Sequential:
    """Returns two convolutions with the kernels and strides of 2013, and dense layers."""
    torch.manual_seed(0)
    side = ((image - 8) // 4 + 1 - 4) // 2 + 1
    layers: list[nn.Module] = [
        nn.Conv2d(3, 4, 8, 4, bias=bias),
        nn.ReLU(),
        nn.Conv2d(4, 2, 4, 2, bias=bias),
        nn.ReLU(),
        nn.Flatten(),
    ]
    sizes = [2 * side**2, *dense]
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def state_dict(tmp_path: Path, content: Any, **options: Any) -> Path:
    path = tmp_path / "net.pth"
    torch.save(content, path, **options)
    return path


def refused(path: Path, **options: Any) -> str:
    """Returns the one-line error of a file that must be rejected fast and in little memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(UserError) as caught:
            load_any(path, **options)
        took, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert path.name in message and "\n" not in message and len(message) < 700
    assert took < 1.0
    assert peak < 2**22 + 8 * path.stat().st_size
    return message


# --- supported files ------------------------------------------------------------------------------


@pytest.mark.parametrize("net_arch", [[], [7], [9, 4]])
@pytest.mark.parametrize("normalize", [True, False])
def test_stable_baselines3_dqn_keeps_its_q_values(
    tmp_path: Path, net_arch: list[int], normalize: bool
) -> None:
    extra = {} if normalize else {"normalize_images": False}
    model = sb3(**small(11, net_arch=net_arch, activation_fn=nn.ReLU, **extra))
    model.save(tmp_path / "agent.zip")
    network = load_any(tmp_path / "agent.zip")
    assert [x.units for x in network.spec.layers[3:]] == [11, *net_arch]  # type: ignore[union-attr]
    assert network.spec.input_shape == (2, *SMALL)
    obs = torch.randint(256, (5, 2, *SMALL), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.q_net(obs)
        torch.testing.assert_close(network(obs / 255), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["pth", "protocol 4", "legacy", "safetensors", "state_dict"])
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_keeps_its_outputs(tmp_path: Path, kind: str, bias: bool) -> None:
    network = stack(dense=(12, 12, 5), bias=bias)
    weights = network.state_dict()
    path = tmp_path / "net"
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "pth":
        torch.save(weights, path)
    elif kind == "protocol 4":
        torch.save(weights, path, pickle_protocol=4)
    elif kind == "legacy":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    else:
        optimizer = torch.optim.Adam(network.parameters())
        network(torch.rand(1, 3, 40, 40)).sum().backward()
        optimizer.step()
        weights = network.state_dict()
        torch.save({"epoch": 3, kind: weights, "optim": optimizer.state_dict()}, path)
    loaded = load_any(path, (40, 40))
    side = Conv(4, 8, 4), Conv(2, 4, 2)
    assert loaded.spec == NetworkSpec((3, 40, 40), (*side, Dense(12), Dense(12)), 5, bias)
    x = torch.rand(4, 3, 40, 40)
    assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_checkpoint_with_an_optimizer_is_read(tmp_path: Path, zipped: bool, wrapper: str) -> None:
    network = stack()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(1, 3, 40, 40)).sum().backward()
    optimizer.step()
    content = {"epoch": 3, wrapper: network.state_dict(), "optimizer": optimizer.state_dict()}
    path = state_dict(tmp_path, content, _use_new_zipfile_serialization=zipped)
    x = torch.rand(4, 3, 40, 40)
    assert torch.equal(load_any(path, (40, 40))(x), network(x))


def test_layers_beyond_nine_keep_their_order_in_safetensors(tmp_path: Path) -> None:
    network = stack(dense=(5,) * 5)
    save_file(network.state_dict(), tmp_path / "net")
    assert "13.weight" in network.state_dict()
    x = torch.rand(4, 3, 40, 40)
    assert torch.equal(load_any(tmp_path / "net", (40, 40))(x), network(x))


def test_network_without_convolutions(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 3, 5), nn.ReLU(), nn.Linear(5, 3))
    loaded = load_any(state_dict(tmp_path, network.state_dict()), (4, 3))
    x = torch.rand(6, 2, 4, 3)
    assert torch.equal(loaded(x), network(x))


def test_some_layers_may_lack_a_bias(tmp_path: Path) -> None:
    network = stack()
    network[2].bias = None
    loaded = load_any(state_dict(tmp_path, network.state_dict()), (40, 40))
    x = torch.rand(4, 3, 40, 40)
    assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize("zipped", [True, False])
def test_memory_layout_types_and_shared_weights_are_supported(tmp_path: Path, zipped: bool) -> None:
    network = stack(dense=(6, 6, 6)).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network[7].weight = network[9].weight
    weights = network.state_dict()
    path = state_dict(tmp_path, weights, _use_new_zipfile_serialization=zipped)
    loaded = load_any(path, (40, 40))
    x = torch.rand(4, 3, 40, 40)
    torch.testing.assert_close(loaded(x), network(x.double()).float())


def test_first_layer_absorbs_the_pixel_scale(tmp_path: Path) -> None:
    network = stack()
    loaded = load_any(state_dict(tmp_path, network.state_dict()), (40, 40), pixel_max=255.0)
    obs = torch.randint(256, (4, 3, 40, 40)).float()
    torch.testing.assert_close(loaded(obs / 255), network(obs), rtol=1e-4, atol=1e-3)


def test_strides_can_be_given(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3))
    path = state_dict(tmp_path, network.state_dict())
    x = torch.rand(2, 1, 9, 9)
    assert torch.equal(load_any(path, (9, 9), [2])(x), network(x))
    assert "kernels 3" in refused(path, image=(9, 9)) and "strides" in refused(path)
    assert "strides 1" in refused(path, image=(9, 9), strides=[1])
    assert "strides=[2, 1] does not match" in refused(path, image=(9, 9), strides=[2, 1])
    assert "strides=[0] does not match" in refused(path, image=(9, 9), strides=[0])
    assert "too small" in refused(path, image=(2, 2), strides=[1])


@pytest.mark.parametrize("spiking", [False, True])
def test_own_files_are_loaded(tmp_path: Path, spiking: bool) -> None:
    spec = NetworkSpec((1, 6, 6), (Conv(2, 3, 1), Dense(3)), 2, bias=True)
    network = SpikingNetwork(spec, SpikingOptions(2)) if spiking else AnalogNetwork(spec)
    save_network(tmp_path / "net", network)
    loaded = load_any(tmp_path / "net")
    assert type(loaded) is type(network) and loaded.spec == spec
    x = torch.rand(2, 1, 6, 6)
    assert torch.equal(loaded(x), network(x))


# --- unsupported networks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sb3(A2C, **small()), ["actor-critic"]),
        (lambda: sb3(policy="MlpPolicy"), ["not a DQN of Stable-Baselines3 with CnnPolicy"]),
        (lambda: sb3(**small(net_arch=[4], activation_fn=nn.Tanh)), ["Tanh", "ReLU"]),
    ],
    ids=["A2C", "MlpPolicy", "Tanh"],
)
def test_other_stable_baselines3_agents_are_rejected(
    tmp_path: Path, make: Any, words: list[str]
) -> None:
    make().save(tmp_path / "agent.zip")
    message = refused(tmp_path / "agent.zip")
    assert all(word in message for word in words)


@pytest.mark.parametrize("sign", ["module", "names"])
def test_qr_dqn_is_rejected_with_the_reason(tmp_path: Path, sign: str) -> None:
    sb3(**small()).save(tmp_path / "plain.zip")
    with zipfile.ZipFile(tmp_path / "plain.zip") as plain:
        data, policy = json.loads(plain.read("data")), plain.read("policy.pth")
    if sign == "module":
        data["policy_class"]["__module__"] = "sb3_contrib.qrdqn.policies"
    else:
        tensors = torch.load(io.BytesIO(policy), weights_only=True)
        buffer = io.BytesIO()
        torch.save({k.replace("q_net.", "quantile_net.", 1): t for k, t in tensors.items()}, buffer)
        policy = buffer.getvalue()
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", policy)
    assert "QR-DQN" in refused(tmp_path / "agent.zip")


def changed(**changes: Any) -> dict[str, Any]:
    """Returns the state dict of `stack` with changes; None removes a tensor."""
    tensors = dict(stack().state_dict()) | {k.replace("_", "."): v for k, v in changes.items()}
    return {key: value for key, value in tensors.items() if value is not None}


BAD_TENSORS = {
    "NaN": (changed(**{"0_weight": torch.full((4, 3, 8, 8), float("nan"))}), "NaN"),
    "infinity": (
        changed(**{"7_bias": torch.full((5,), float("inf"))}),
        "'7.bias' contains NaN",
    ),
    "integers": (changed(**{"0_weight": torch.ones(4, 3, 8, 8, dtype=torch.int64)}), "int64"),
    "bool": (changed(**{"0_weight": torch.ones(4, 3, 8, 8, dtype=torch.bool)}), "bool"),
    "batch norm": ({**changed(), "3.running_mean": torch.ones(2)}, "has batch normalization"),
    "scales": (changed(**{"3_weight": torch.ones(2)}), "normalization must be fused"),
    "3-D": (changed(**{"0_weight": torch.ones(4, 3, 8)}), "neither to a convolution"),
    "not square": (changed(**{"0_weight": torch.ones(4, 3, 8, 7)}), "not square"),
    "empty": (changed(**{"0_weight": torch.ones(0, 3, 8, 8)}), "neither to a convolution"),
    "no weight": (changed(**{"5_weight": None}), "'5.bias' has no weight"),
    "bias size": (changed(**{"5_bias": torch.ones(7)}), "not have one value per output"),
    "a hole": (changed(**{"7_weight": torch.ones(5, 4)}), "no layer takes the 6 outputs"),
    "a branch": (changed(**{"9_weight": torch.ones(1, 6)}), "dueling"),
    "no dense": ({"weight": torch.ones(4, 3, 8, 8)}, "no dense layer"),
    "deep": ({f"{i}.weight": torch.ones(2, 2) for i in range(101)}, "101 layers"),
    "no image": ({"weight": torch.ones(2, 7)}, "not match images of 40x40"),
    "nothing": ({}, "no dictionary of tensors"),
    "a number": ({"weight": 3.0}, "'weight' is a float"),
    "a list": ([torch.ones(2)], "no dictionary of tensors"),
    "tensor": (torch.ones(2), "no dictionary of tensors"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_other_structures_are_rejected(tmp_path: Path, case: str) -> None:
    content, words = BAD_TENSORS[case]
    assert words in refused(state_dict(tmp_path, content), image=(40, 40))


@pytest.mark.parametrize("case", ["NaN", "integers", "a branch", "batch norm"])
def test_other_structures_in_safetensors_are_rejected(tmp_path: Path, case: str) -> None:
    content, words = BAD_TENSORS[case]
    save_file(content, tmp_path / "net")
    assert words in refused(tmp_path / "net", image=(40, 40))


def test_batch_normalization_gives_the_function_that_fuses_it(tmp_path: Path) -> None:
    network = nn.Sequential(*stack()[:2], nn.BatchNorm2d(4), *stack()[2:])
    message = refused(state_dict(tmp_path, network.state_dict()), image=(40, 40))
    assert "fuse_conv_bn_eval" in message


def test_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refused(path)


def test_pickled_module_is_rejected(tmp_path: Path) -> None:
    assert "no code was executed" in refused(state_dict(tmp_path, stack()))


# --- malicious files ------------------------------------------------------------------------------


class Shell:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """Path of a file that a pickle creates if it is executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def agent(tmp_path: Path, **entries: bytes) -> Path:
    """Writes the zip of a small DQN with some entries replaced (`__` stands for a dot)."""
    whole = tmp_path / "whole.zip"
    sb3(**small()).save(whole)
    with zipfile.ZipFile(whole) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("__", "."): data for name, data in entries.items()}
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_shell_object_runs_when_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Shell(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_pickles_of_a_zip_are_never_run(tmp_path: Path, trace: Path) -> None:
    evil = pickle.dumps(Shell(trace))
    with zipfile.ZipFile(agent(tmp_path)) as archive:
        data = json.loads(archive.read("data"))
    for entry in data.values():
        if isinstance(entry, dict) and ":serialized:" in entry:
            entry[":serialized:"] = base64.b64encode(evil).decode()
    text = json.dumps(data).encode()
    path = agent(tmp_path, data=text, pytorch_variables__pth=evil, policy__optimizer__pth=evil)
    assert isinstance(load_any(path), AnalogNetwork)
    assert "not trusted" not in refused(agent(tmp_path, data=evil))


@pytest.mark.parametrize("protocol", range(6))
def test_state_dict_with_code_is_rejected(tmp_path: Path, trace: Path, protocol: int) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": Shell(trace)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in content if name.endswith("data.pkl"))
    content[name] = pickle.dumps({"weight": Shell(trace)}, protocol)
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in content.items():
            archive.writestr(entry, data)
    message = refused(path)
    assert "no code was executed" in message or "opcode" in message
    evil = agent(tmp_path, policy__pth=path.read_bytes())
    assert "no code was executed" in refused(evil) or "opcode" in refused(evil)


def test_bare_pickle_is_rejected(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "net.pth"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(Shell(trace), protocol))
        refused(path)
    path.write_bytes(pickle.dumps(3, 2))
    assert "was not written by torch.save" in refused(path)


def legacy(position: int, value: bytes, storage: bytes = b"") -> bytes:
    """Returns a file before PyTorch 1.6 with one of its five pickles replaced."""
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
    parts += [pickle.dumps({"little_endian": True}, 2), pickle.dumps({}, 2), pickle.dumps([], 2)]
    parts[position] = value
    return b"".join(parts) + storage


@pytest.mark.parametrize("position", range(5))
def test_legacy_file_with_code_is_rejected(tmp_path: Path, trace: Path, position: int) -> None:
    path = tmp_path / "net.pth"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(legacy(position, pickle.dumps(Shell(trace), protocol)))
        assert "no code was executed" in refused(path)


def test_other_legacy_versions_and_machines_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(legacy(1, pickle.dumps(1002, 2)))
    assert "unsupported format version" in refused(path)
    path.write_bytes(legacy(2, pickle.dumps({"little_endian": False}, 2)))
    assert "big-endian" in refused(path)


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ccollections\nOrderedDict\n(K\x01tR",
        b"ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb",
        b"}(K\x01K\x02K\x03u",
        b"}]K\x01s",
        b"}X\x01\x00\x00\x00aK\x01sX\x01\x00\x00\x00aK\x02s",
        b"K\x01Q",
        b"h\x05",
        b"tttt",
        b"0",
        b"R",
        b"a",
        b"",
        b"}" * 1000,
        b"]" + b"q\x00h\x00a" * 1000,
        b"(" * 5000 + b"t" * 5000,
        b"((" + b"K\x01" * 50_000 + b"(t" * 50_000,
        b"N" * 2**21,
        b"]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b"h\x00h\x00\x93",
        b"}X\x03\x00\x00\x00a\nbK\x01s",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_crafted_pickles_are_rejected(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(body))
    refused(path)
    for position in range(5):
        path.write_bytes(legacy(position, pickled(body)))
        refused(path)


def strided(dtype: str, count: int, offset: int, size: Any, stride: Any) -> bytes:
    """Returns the hand-written pickle of one tensor."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        data = value.to_bytes(16, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def numbers(values: Any) -> bytes:
        return b"(" + b"".join(number(v) for v in values) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{dtype}\n".encode() + text("0") + text("cpu")
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(count) + b"tQ"
    call += number(offset) + numbers(size) + numbers(stride) + b"\x89)tR"
    return pickled(b"}" + text("weight") + call + b"s")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (("FloatStorage", 6, 0, (2, 3), (3, 1)), ["not match images"]),  # a valid tensor
        (("FloatStorage", 2**40, 0, (2**20, 2**20), (2**20, 1)), ["describes 4,398,"]),
        (("FloatStorage", 2**61, 0, (2**60, 3), (3, 1)), ["are stored"]),
        (("FloatStorage", 6, 0, (10**5, 10**5), (0, 0)), ["are stored"]),
        (("FloatStorage", 6, 4, (2, 3), (3, 1)), ["are stored"]),
        (("FloatStorage", 6, 0, (2, 3), (4, 1)), ["are stored"]),
        (("FloatStorage", 60, 0, (2, 3), (3, 1)), ["60 stored numbers", "24 bytes"]),
        (("DoubleStorage", 6, 0, (2, 3), (3, 1)), ["6 stored numbers", "24 bytes"]),
        (("FloatStorage", 6, -1, (2, 3), (3, 1)), ["invalid shape"]),
        (("FloatStorage", 6, 0, (-2, -3), (3, 1)), ["invalid shape"]),
        (("FloatStorage", 6, 0, (2, 3), (3,)), ["invalid shape"]),
        (("FloatStorage", 6, 0, (1,) * 9, (1,) * 9), ["invalid shape"]),
        (("FloatStorage", -6, 0, (2, 3), (3, 1)), ["damaged"]),
        (("QInt8Storage", 6, 0, (2, 3), (3, 1)), ["torch.QInt8Storage"]),
    ],
)
def test_declared_sizes_must_be_in_the_file(
    tmp_path: Path, case: tuple[Any, ...], words: list[str]
) -> None:
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", strided(*case))
        archive.writestr("archive/data/0", bytes(24))
    message = refused(path)
    assert all(word in message for word in words)
    keys = pickle.dumps(["0"], 2)
    legacy_form = strided(*case).replace(b"tQ", b"NtQ", 1)  # no view of the storage
    for count in (6, case[1] % 2**63):
        for stored in (keys, pickle.dumps([], 2)):
            path.write_bytes(legacy(3, legacy_form)[: -len(pickle.dumps([], 2))] + stored)
            with path.open("ab") as file:
                file.write(struct.pack("<q", count) + bytes(24))
            refused(path)


def test_every_view_of_a_storage_counts(tmp_path: Path) -> None:
    weights = torch.zeros(1000, 1000)
    path = state_dict(tmp_path, OrderedDict((f"{i}.weight", weights) for i in range(1000)))
    assert "4,000,000,000 bytes" in refused(path)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:\\evil", "..\\evil"])
def test_paths_outside_the_archive_are_rejected(tmp_path: Path, name: str) -> None:
    zipped = agent(tmp_path)
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr(name, "evil")
    assert "outside the archive" in refused(zipped)
    pth = state_dict(tmp_path, stack().state_dict())
    with zipfile.ZipFile(pth, "a") as archive:
        archive.writestr(name, "evil")
    assert "outside the archive" in refused(pth)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent.zip", "net.pth", "whole.zip"]


@pytest.mark.parametrize("entry", ["data", "policy.pth", "other"])
@pytest.mark.parametrize("declared", ["honestly", "falsely"])
def test_decompression_bomb_is_rejected(tmp_path: Path, entry: str, declared: str) -> None:
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in {"data", "policy.pth", entry}:
            with archive.open(name, "w") as file:
                for _ in range(64 if name == entry else 0):
                    file.write(bytes(2**20))
        info = archive.getinfo(entry)
        if declared == "honestly":
            info.file_size = 4 * 2**30 - 2  # in the list of entries
        else:
            info.file_size = info.compress_size
    words = "decompress to 4,294,967,294 bytes" if declared == "honestly" else ""
    assert words in refused(path)


def test_archive_with_many_entries_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(10_001):
            archive.writestr(str(i), b"")
    assert "10,000 entries" in refused(path)


def test_sparse_file_of_a_terabyte_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(2**40)
    started = time.process_time()
    with pytest.raises(UserError, match=r"agent\.zip has 1,099,511,627,776 bytes"):
        load_any(path)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("path", ["nowhere.zip", "/dev/zero", "/"])
def test_missing_files_and_devices_are_rejected(path: str) -> None:
    with pytest.raises(UserError, match=r"no such file|not a regular file|is a folder"):
        load_any(Path(path))


def files(tmp_path: Path) -> dict[str, bytes]:
    """Returns a small file of every kind."""
    torch.save(stack().state_dict(), tmp_path / "net.pth")
    legacy_path = tmp_path / "legacy.pth"
    torch.save(stack().state_dict(), legacy_path, _use_new_zipfile_serialization=False)
    save_network(tmp_path / "ours", AnalogNetwork(NetworkSpec((1, 6, 6), (Dense(20),), 2)))
    return {
        "sb3": agent(tmp_path).read_bytes(),
        "pth": (tmp_path / "net.pth").read_bytes(),
        "legacy": legacy_path.read_bytes(),
        "safetensors": save(stack().state_dict()),
        "ours": (tmp_path / "ours").read_bytes(),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("kind", ["sb3", "pth", "legacy", "safetensors", "ours"])
def test_file_truncated_at_any_kilobyte_is_rejected(
    tmp_path: Path, whole: dict[str, bytes], kind: str
) -> None:
    path = tmp_path / "file"
    for length in [*range(0, len(whole[kind]), 1024), len(whole[kind]) - 1]:
        path.write_bytes(whole[kind][:length])
        refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_entry_is_rejected(tmp_path: Path) -> None:
    for path in (agent(tmp_path), state_dict(tmp_path, stack().state_dict())):
        with zipfile.ZipFile(path, "a") as archive:
            name = archive.namelist()[0]
            archive.writestr(name, b"another")
        assert f"repeats the entry {name!r}" in refused(path)


def test_repeated_key_is_rejected(tmp_path: Path) -> None:
    assert "key 'a' is repeated" in refused(agent(tmp_path, data=b'{"b": {"a": 1, "a": 2}}'))
    one = b'"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b"{" + one + b"," + one + b"}"
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "'w' is repeated" in refused(path)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"nonsense", b"\xff\xfe", b"[" * 100_000, b'{"policy_class": 1' + b" " * 2**24],
    ids=lambda text: repr(text[:10]),
)
def test_damaged_json_in_a_zip_is_rejected(tmp_path: Path, text: bytes) -> None:
    refused(agent(tmp_path, data=text))


@pytest.mark.parametrize("missing", ["data", "policy.pth"])
def test_incomplete_zip_is_rejected(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "part.zip"
    with zipfile.ZipFile(agent(tmp_path)) as archive, zipfile.ZipFile(path, "w") as part:
        for name in set(archive.namelist()) - {missing}:
            part.writestr(name, archive.read(name))
    assert f"lacks {missing!r}" in refused(path)


def header_of(table: dict[str, Any], data: bytes = bytes(8)) -> bytes:
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**21) + b"{" + b" " * 2**21 + b"}",
        struct.pack("<Q", 2) + b"{}",
        header_of({"w": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 8]}}),
        header_of({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**50]}}),
        header_of({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        header_of({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        header_of({"w": {"dtype": "evil", "shape": [2], "data_offsets": [0, 8]}}),
        header_of({"w": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}}),
        header_of({"w": 3}),
        header_of({"__metadata__": {"snn_rl": "{" * 9999}}, b""),
        header_of({"__metadata__": 3}),
    ],
    ids=range(12),
)
def test_crafted_safetensors_are_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    refused(path)


@QUICK
@given(st.data())
def test_damage_gives_a_user_error_or_finite_weights(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(whole[data.draw(st.sampled_from(sorted(whole)))])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        content[position : position + len(piece)] = piece
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    try:
        network = load_any(path, SMALL)
    except UserError as error:
        message = str(error)
        assert "\n" not in message
    else:
        assert all(torch.isfinite(p).all() for p in network.parameters())


@QUICK
@given(st.binary(max_size=200))
def test_any_pickle_gives_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(body))
    with pytest.raises(UserError):
        load_any(path)
