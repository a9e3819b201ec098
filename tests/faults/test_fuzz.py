"""Every reader of files from outside, on damaged and on crafted files.

Each file is a small valid file with changed bytes, or with changed values behind intact checksums.
A reader returns or raises a `UserError` of one line, within a second (with --fuzz) and in little
memory.
"""

import copy
import dataclasses
import io
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from snn_rl import zoo
from snn_rl.agents import FrameReplayBuffer, SpikingDQN
from snn_rl.agents.loading import load_agent
from snn_rl.agents.replay.journal import encode, load_buffer, save_chunk
from snn_rl.chain.run_directory import SETTINGS
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import Conv, Dense, NetworkSpec, SpikingNetwork, SpikingOptions
from snn_rl.event import network as event
from snn_rl.event.network import EventNetwork
from snn_rl.files.atomic import read_json
from snn_rl.files.checkpoint import load_network, load_tensors, save_network, save_tensors
from snn_rl.files.importing import load_any
from snn_rl.formats.event import event_network
from snn_rl.images.data.cifar import CIFARS, open_cifar
from snn_rl.images.data.imagenet import open_imagenet
from snn_rl.utils.errors import UserError

MAX_GROWTH = 500 * 2**20  # bytes
SPEC = NetworkSpec((1, 6, 6), (Conv(2, 3, 2), Dense(3)), 2, bias=True)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Checks the growth of the peak memory of the process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < MAX_GROWTH


def check(read: Callable[[], object]) -> None:
    """Calls a reader, which may only fail with a UserError of one line."""
    message = ""
    try:
        read()
    except UserError as error:
        message = str(error)
    assert message.isprintable()


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Returns a file with a few bytes that are replaced, inserted, removed or cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(changed) - 1)))
        piece = draw(st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 8]))
        removed = draw(st.sampled_from([len(piece), len(piece), 0, 8, len(changed)]))
        changed[start : start + removed] = piece
    return bytes(changed)


VALUES = st.sampled_from(
    [
        *(None, True, 0, 1, -1, 2, 7, 10**8, 10**30, 0.5, -1e30, float("inf"), float("nan")),
        *("", "1", "40000", "a\x1b[31m\n", "x" * 3_000, "module:function", "../x"),
        *([], [[]], [-1], [1, 2, 3], [10**6] * 3, {}, {"a": 1}, [{}] * 20, ["x"] * 20),
    ]
)


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """Returns JSON in which a few values are replaced, removed or repeated."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(places(content) or [([content], 0)]))
        action = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
        if action == "remove":
            del parent[key]
        elif action == "repeat" and isinstance(parent, list):
            parent *= draw(st.sampled_from([2, 100]))
        else:
            parent[key] = copy.deepcopy(draw(VALUES))
    return content


def places(content: Any) -> list[tuple[Any, Any]]:
    """Returns the container and key of the values in JSON, the first 50 of each container."""
    keys = list(content.keys() if isinstance(content, dict) else range(len(content)))[:50]
    found = [(content, key) for key in keys]
    for key in keys:
        if isinstance(content[key], dict | list):
            found += places(content[key])
    return found


TYPES = ("f4", "f8", "f2", "i8", "u1", "i2", "?", "c8", "U3", "M8[s]")
ARRAYS = st.builds(
    lambda shape, kind, value: np.full(shape, value).astype(kind),
    st.lists(st.integers(0, 5), max_size=5).map(tuple),
    st.sampled_from(TYPES),
    st.sampled_from([0, 1, 2, 255]),
)


@st.composite
def replaced(draw: st.DrawFn, arrays: dict[str, Any], others: st.SearchStrategy[Any]) -> Any:
    """Returns arrays of which some are replaced, removed, added, or swapped."""
    content = dict(arrays)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(arrays)))
        other = draw(st.sampled_from([*sorted(arrays), "policy.other", "optimizer.9.step"]))
        action = draw(st.sampled_from(["replace", "type", "remove", "add", "swap"]))
        if action == "remove":
            content.pop(name, None)
        elif action == "swap" and name in content and other in content:
            content[name], content[other] = content[other], content[name]
        elif action == "add":
            content[other] = draw(others)
        elif action == "type" and name in content and isinstance(content[name], np.ndarray):
            content[name] = np.zeros(content[name].shape, draw(st.sampled_from(TYPES)))
        else:
            content[name] = draw(others)
    return content


TENSORS = st.builds(
    lambda shape, kind, value: torch.full(shape, value, dtype=kind),
    st.lists(st.integers(0, 5), max_size=5),
    st.sampled_from(
        [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
    ),
    st.sampled_from([0, 1, -1, 7, float("nan")]).filter(lambda value: value == value),
)


# --- networks and agents --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "network.safetensors"
    save_network(path, SpikingNetwork(SPEC, SpikingOptions(2)), {"env": "CartPole-v1"})
    return path


def fuzzed(data: st.DataObject, file: Path) -> Path:
    """Writes a copy of a file of `save_tensors` with changed bytes, note, or tensors."""
    path = file.with_name("fuzzed.safetensors")
    tensors, note = load_tensors(file)
    del note["schema"]
    kind = data.draw(st.sampled_from(["bytes", "note", "note", "tensors"]))
    if kind == "bytes":
        path.write_bytes(data.draw(damaged(file.read_bytes())))
    elif kind == "note":
        save_tensors(path, tensors, data.draw(changed(note)))
    else:
        save_tensors(path, data.draw(replaced(tensors, TENSORS)), note)
    return path


@given(data=st.data())
def test_network_file(network_file: Path, data: st.DataObject) -> None:
    path = fuzzed(data, network_file)
    check(lambda: load_network(path))
    check(lambda: load_any(path))


class Blank(gym.Env[Any, Any]):
    """An environment that only provides spaces."""

    observation_space = spaces.Box(0, 255, (2, 36, 36), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 1.0, False, False, {}


@pytest.fixture(scope="session")
def agent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "agent.safetensors"
    policy = {"network": "4c8s8-8", "timesteps": 2}
    model = SpikingDQN("SpikingCnnPolicy", Blank(), policy_kwargs=policy, buffer_size=10)
    for parameter in model.q_net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.policy.optimizer.step()  # creates its state
    model.save(path)
    return path


@given(data=st.data())
def test_agent_file(agent_file: Path, data: st.DataObject) -> None:
    path = fuzzed(data, agent_file)
    env = DummyVecEnv([Blank])
    check(lambda: SpikingDQN.load(path, env, "cpu"))


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "T1"
    shutil.copytree(zoo.ROOT / "CartPole-v1" / "T1", path)
    return path


@given(data=st.data())
def test_settings_of_a_stage(stage: Path, data: st.DataObject) -> None:
    original = zoo.ROOT / "CartPole-v1" / "T1" / SETTINGS
    if data.draw(st.booleans()):
        (stage / SETTINGS).write_bytes(data.draw(damaged(original.read_bytes())))
    else:
        settings = read_json(original)
        used = ("env", "network", "bias", *(key for key in settings if key.startswith("rollout.")))
        part = data.draw(changed({key: settings[key] for key in used}))
        rest = {key: value for key, value in settings.items() if key not in used}
        (stage / SETTINGS).write_text(json.dumps(rest | part))
    check(lambda: load_agent(stage, "cpu"))


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of Stable-Baselines3 and PyTorch."""
    folder = tmp_path_factory.mktemp("fuzz")
    kwargs = {"features_extractor_kwargs": {"features_dim": 8}}
    model = DQN("CnnPolicy", Blank(), policy_kwargs=kwargs, buffer_size=1, device="cpu")
    model.save(folder / "agent.zip")
    for name, new in (("new", True), ("old", False)):
        weights = model.q_net.state_dict()
        torch.save({"model": weights}, folder / name, _use_new_zipfile_serialization=new)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@given(data=st.data())
def test_foreign_network(
    foreign: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    path.write_bytes(data.draw(damaged(foreign[data.draw(st.sampled_from(sorted(foreign)))])))
    check(lambda: load_any(path, (36, 36)))


# --- event-driven engine --------------------------------------------------------------------------


@given(data=st.data())
def test_event_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.event"
    torch.manual_seed(0)
    content = event_network(quantize(SpikingNetwork(SPEC, SpikingOptions(1)))).to_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    note = json.loads(header["__metadata__"]["snn_rl.event"])
    del note["sha256"]
    arrays = load_arrays(content)
    kind = data.draw(st.sampled_from(["bytes", "note", "arrays"]))
    if kind == "note":
        note = data.draw(changed(note))
    elif kind == "arrays":
        supported = ARRAYS.filter(lambda array: array.dtype.kind in "fiub")
        arrays = data.draw(replaced(arrays, supported))
        arrays = {name: a for name, a in arrays.items() if a.dtype.kind in "fiub"}
    if kind == "bytes":
        content = data.draw(damaged(content))
    else:
        text = json.dumps({**note, "sha256": event._digest(note, arrays)})
        content = save_arrays(arrays, {"snn_rl.event": text})
    path.write_bytes(content)
    check(lambda: EventNetwork.load(path))


# --- replay ---------------------------------------------------------------------------------------


def replay_buffer() -> FrameReplayBuffer:
    images = spaces.Box(0, 255, (3, 2, 2), np.uint8)
    return FrameReplayBuffer(12, images, spaces.Discrete(4), device="cpu", n_envs=2)


@pytest.fixture(scope="session")
def chunk(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """A chunk of a replay buffer as a file and as arrays."""
    buffer, random = replay_buffer(), np.random.default_rng(0)
    for _ in range(5):
        obs, following = random.integers(2, size=(2, 2, 3, 2, 2), dtype=np.uint8)
        actions = random.integers(4, size=(2, 1))
        buffer.add(obs, following, actions, np.ones(2), np.zeros(2), [{}, {}])
    rows = encode(buffer, 0, 5)
    path = tmp_path_factory.mktemp("fuzz") / "chunk.npz"
    save_chunk(path, 0, rows)
    return path.read_bytes(), {"start": np.array(0), **rows}


@given(data=st.data())
def test_replay_chunk(
    chunk: tuple[bytes, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    content, arrays = chunk
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    else:
        file = io.BytesIO()
        np.savez(file, **data.draw(replaced(arrays, ARRAYS)))
        content = file.getvalue()
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    path.write_bytes(content)
    check(lambda: load_buffer(path, replay_buffer()))


# --- images ---------------------------------------------------------------------------------------


def encoded(kind: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


IMAGES = {kind: encoded(kind) for kind in ("JPEG", "PNG", "WEBP")}


@given(data=st.data())
def test_image_in_a_folder(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed_folder"
    kind = data.draw(st.sampled_from(sorted(IMAGES)))
    for name in "ab":
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "0.png").write_bytes(IMAGES[kind])
    (folder / "a" / "0.png").write_bytes(data.draw(damaged(IMAGES[kind])))
    check(lambda: list(open_imagenet(folder, 4).train.batches(2)))


@pytest.fixture(scope="session")
def parquet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path_factory.mktemp("fuzz") / "train-0.parquet"
    rows = [{"bytes": encoded("PNG", i), "path": f"{i}.png"} for i in range(4)]
    table = pa.table({"image": rows, "label": pa.array([0, 1, 0, 1])})
    parquet.write_table(table, path, row_group_size=2)
    shutil.copy(path, path.with_name("validation-0.parquet"))
    return path


@given(data=st.data())
def test_parquet_file(
    parquet_file: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed_parquet"
    folder.mkdir(exist_ok=True)
    shutil.copy(parquet_file, folder / "validation-0.parquet")
    (folder / parquet_file.name).write_bytes(data.draw(damaged(parquet_file.read_bytes())))
    check(lambda: list(open_imagenet(folder, 4).train.batches(4)))


@given(data=st.data())
def test_cifar_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed_cifar"
    random, mosaic = np.random.default_rng(0), data.draw(st.booleans())
    images = random.integers(0, 256, (16, 32, 32, 3), np.uint8)
    labels = np.arange(16, dtype=np.uint8) % 10
    layout = CIFARS["cifar10"].layouts[int(mosaic)]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (*layout.train, layout.test):
        if mosaic:
            tiles = images.reshape(4, 4, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(128, 128, 3)
            Image.fromarray(tiles).save(folder / name, lossless=True)
        else:
            planes = images.transpose(0, 3, 1, 2).reshape(16, -1)
            (folder / name).write_bytes(np.hstack([labels[:, None], planes]).tobytes())
    if mosaic:
        np.savez(folder / "labels.npz", train=np.tile(labels, 5), test=labels)
    victim = folder / data.draw(st.sampled_from(sorted(file.name for file in folder.iterdir())))
    victim.write_bytes(data.draw(damaged(victim.read_bytes())))
    small = dataclasses.replace(CIFARS["cifar10"], train_images=16, test_images=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CIFARS, "cifar10", small)
        check(lambda: open_cifar("cifar10", folder))
