"""C source of exact agents, compiled and compared with the network."""

import ctypes
import itertools
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ale_py  # noqa: F401  (registers the games)
import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl import export, zoo
from snn_rl.agents.evaluation import greedy_observations
from snn_rl.agents.loading import load_agent
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import Conv, Dense, NetworkSpec, SpikingNetwork, SpikingOptions
from snn_rl.formats import c
from snn_rl.formats.agreement import Agreement, check, in_batches, in_torch
from snn_rl.formats.event import event_network
from snn_rl.utils.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "examples"
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")
SANITIZED = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Kernels that are no multiple of the stride, smaller than the stride, padded or out of bounds
SPECS = {
    "mixed": NetworkSpec((3, 9, 11), (Conv(4, 5, 2), Conv(6, 3, 1, 1), Dense(8)), 3, bias=True),
    "padded": NetworkSpec((2, 13, 10), (Conv(5, 2, 3), Conv(3, 3, 2, 2)), 4),
    "dense": NetworkSpec((1, 7, 5), (Dense(9),), 2, bias=True),
    "head": NetworkSpec((1, 6, 6), (), 2),
}
# Reads images, and prints the action, the Q-values, and the number of spikes of each.
MAIN = """\
#include <stdio.h>
#include "agent.h"

int main(void)
{
    static uint8_t frames[AGENT_CHANNELS * AGENT_HEIGHT * AGENT_WIDTH];
    while (fread(frames, 1, sizeof frames, stdin) == sizeof frames) {
        int i;
        printf("%d", agent_decide(frames));
        for (i = 0; i < AGENT_ACTIONS; i++)
            printf(" %ld", (long)agent_q_values()[i]);
        printf("\\n");
    }
    return 0;
}
"""

GridNetwork = Callable[..., SpikingNetwork]
Images = Callable[[tuple[int, ...], int], Iterator[NDArray[np.uint8]]]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("name", SPECS)
def test_both_engines_equal_the_network(
    name: str, bits: int, tmp_path: Path, grid_network: GridNetwork, changing_images: Images
) -> None:
    network = grid_network(SPECS[name], bits)
    engines = c.export(network, tmp_path / "agent.c", {})
    assert list(engines) == ["C, event-driven", "C, dense"]
    pixels = torch.from_numpy(np.stack([*changing_images(SPECS[name].input_shape, 400)]))
    trials = dict(check(network, engines, pixels))  # raises if a trial differs
    assert all(trials[engine].is_exact for engine in engines)
    q_values, spikes = engines["C, event-driven"](pixels)
    assert len({*q_values.argmax(1).tolist()}) > 1
    assert all(0.05 < layer.mean() < 0.95 for layer in spikes)


HOST = ("gcc", "clang")
BIG_ENDIAN = ("powerpc-linux-gnu-gcc", "qemu-ppc")  # 32 bits


@pytest.mark.parametrize(("level", "bits"), [("-O0", 12), ("-O3", 8)])
@pytest.mark.parametrize("compiler", [*HOST, BIG_ENDIAN[0]])
def test_the_source_compiles_without_warnings_and_runs_without_errors(
    compiler: str,
    level: str,
    bits: int,
    tmp_path: Path,
    grid_network: GridNetwork,
    changing_images: Images,
) -> None:
    special, emulator = (SANITIZED, []) if compiler in HOST else (("-static",), [BIG_ENDIAN[1]])
    require(compiler, *emulator)
    spec = SPECS["mixed"]
    network = grid_network(spec, bits)
    c.export(network, tmp_path / "agent.c", {"env": "a */ game"})
    (tmp_path / "main.c").write_text(MAIN)
    pixels = np.stack([*changing_images(spec.input_shape, 40)])
    with torch.no_grad():
        expected = network(network.images(torch.from_numpy(pixels)))
    unit = float(re.findall(r"AGENT_Q_UNIT (\S+)", (tmp_path / "agent.h").read_text())[0])
    for extra in ((), ("-DAGENT_DENSE",)):
        command = [compiler, *STRICT, level, *special, *extra, "agent.c", "main.c", "-o", "agent"]
        subprocess.run(command, cwd=tmp_path, check=True)
        out = subprocess.run(
            [*emulator, tmp_path / "agent"], input=pixels.tobytes(), capture_output=True, check=True
        )
        rows = np.array([line.split() for line in out.stdout.decode().splitlines()], np.int64)
        np.testing.assert_array_equal(rows[:, 1:] * unit, expected.numpy())
        np.testing.assert_array_equal(rows[:, 0], expected.argmax(1).numpy())


def test_screens_are_preprocessed_as_in_training(tmp_path: Path, grid_network: GridNetwork) -> None:
    network = grid_network(NetworkSpec((3, 84, 84), (Conv(2, 84, 84),), 2))
    c.export(network, tmp_path / "agent.c", {})
    see = c.compiled_library(tmp_path / "agent.c", STRICT[1:]).agent_see
    frames, expected = np.zeros((2, 3, 84, 84), np.uint8)
    rng = np.random.default_rng(0)
    env = gym.make("PongNoFrameskip-v4")
    screens = [*rng.integers(0, 256, (40, 210, 160, 3)).astype(np.uint8), env.reset(seed=0)[0]]
    screens += [env.step(env.action_space.sample())[0] for _ in range(100)]
    env.close()
    differ = []
    for before, newest in itertools.pairwise(screens):
        see(*(ctypes.c_void_p(each.ctypes.data) for each in (newest, before, frames)))
        gray = cv2.cvtColor(np.maximum(newest, before), cv2.COLOR_RGB2GRAY)
        frame = cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA)
        assert (np.abs(frames[-1].astype(int) - frame) <= halves(gray)).all()
        differ.append((frames[-1] != frame).mean())
        np.testing.assert_array_equal(frames[:-1], expected[1:])
        expected = frames.copy()
    assert 0 < max(differ) < 0.002  # OpenCV rounds the sums of floats
    assert max(differ[41:]) == 0  # Pong


def halves(gray: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns True where the area average of a 210 x 160 picture is an integer and a half."""
    # Every pixel as 2 x 21 equal parts, of which 5 x 40 are a pixel of the frame
    parts = gray.repeat(2, 0).repeat(21, 1).astype(np.int64)
    sums = parts.reshape(84, 5, 84, 40).sum((1, 3))
    result: NDArray[np.bool_] = sums % 200 == 100
    return result


@pytest.mark.parametrize(("bits", "size"), [(8, 1), (12, 2)])
def test_the_memory_of_an_agent(
    bits: int, size: int, tmp_path: Path, grid_network: GridNetwork
) -> None:
    spec = NetworkSpec((2, 6, 6), (Conv(4, 3, 2), Dense(5)), 3, bias=True)
    network = grid_network(spec, bits)
    c.export(network, tmp_path / "agent.c", {})
    lines = c.memory(event_network(network))
    # Kernels of size 3 are stored as 4 columns. Outputs are 4 x 2 x 2.
    conv, dense = size * 4 * 2 * 3 * 4 + 4 * 4, size * 16 * 5 + 4 * 5
    head = size * 5 * 3 + 4 * 3
    states = (4 * 16 + 16 + 4, 4 * 5 + 5 + 1, 4 * 3)
    assert lines[:3] == [
        f"conv1: {conv} bytes of flash, {states[0]} bytes of RAM",
        f"fc1: {dense} bytes of flash, {states[1]} bytes of RAM",
        f"head: {head} bytes of flash, {states[2]} bytes of RAM",
    ]
    event, without = 2 * 6 * 6 + sum(states), 16 + 5 + 4 * (5 + 3)
    assert f"{conv + dense + head} bytes of flash" in lines[3]
    assert f"{event} bytes of RAM event-driven, {without} bytes dense" in lines[3]
    for options, ram in (((), event), (("-DAGENT_DENSE",), without)):
        command = ["cc", *STRICT, "-Os", *options, "-c", "agent.c", "-o", "agent.o"]
        subprocess.run(command, cwd=tmp_path, check=True)
        out = subprocess.run(["size", "agent.o"], cwd=tmp_path, capture_output=True, check=True)
        _, data, bss = map(int, out.stdout.decode().splitlines()[1].split()[:3])
        assert ram <= data + bss < ram + 700  # alignment, and the table of the layers


@pytest.mark.parametrize("name", ["2pong.c", "Pong.c", "pong-1.c", "pong.txt", "pong"])
def test_names_that_no_function_can_have_are_refused(
    name: str, tmp_path: Path, grid_network: GridNetwork
) -> None:
    network = grid_network(SPECS["head"])
    with pytest.raises(UserError, match="becomes the name of the functions"):
        c.export(network, tmp_path / name, {})
    assert not list(tmp_path.iterdir())


def test_an_agent_that_is_not_exact_is_refused(tmp_path: Path) -> None:
    network = SpikingNetwork(SPECS["head"], SpikingOptions(1))
    with pytest.raises(UserError, match="requires an exact agent: set exact=true"):
        c.export(network, tmp_path / "agent.c", {})


class Decisions(NamedTuple):
    network: SpikingNetwork
    pixels: Tensor
    expected: tuple[Tensor, list[Tensor]]


@pytest.fixture(scope="module")
def decisions() -> Decisions:
    """Q-values and spikes of the included agent on 2,000 frames of greedy episodes."""
    agent = load_agent(zoo.ROOT / "PongNoFrameskip-v4" / "T1", "cpu")
    assert isinstance(agent.q_net.network, SpikingNetwork)
    network = quantize(agent.q_net.network)
    pixels = greedy_observations(agent, 2_000, 5)
    expected = in_batches(in_torch(network, torch.channels_last), pixels)
    assert len({*expected[0].argmax(1).tolist()}) == 6
    return Decisions(network, pixels, expected)


def test_the_included_agent_on_real_frames(tmp_path: Path, decisions: Decisions) -> None:
    for name, engine in c.export(decisions.network, tmp_path / "pong.c", {}).items():
        assert Agreement.of(decisions.expected, engine(decisions.pixels)).is_exact, name
    program = EXAMPLES / "pong_in_c"
    command = ["cc", *STRICT, "-O3", f"-I{tmp_path}", program / "main.c", tmp_path / "pong.c"]
    subprocess.run([*command, "-o", tmp_path / "pong"], check=True)
    played = subprocess.run(
        [sys.executable, program / "play.py", tmp_path / "pong", "quiet"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(played.stdout.split()[-2]) >= 18, played.stdout


@pytest.mark.parametrize(("dense", "count"), [(False, 2_000), (True, 50)])
def test_the_included_agent_on_a_microcontroller(
    dense: bool, count: int, tmp_path: Path, decisions: Decisions
) -> None:
    board = runpy.run_path(str(EXAMPLES / "cortex_m" / "run.py"))
    require(board["COMPILER"], board["QEMU"].split()[0])
    agent = board["Board"](decisions.network, tmp_path, dense)
    q_values, spikes = decisions.expected
    expected = q_values[:count], [layer[:, :count] for layer in spikes]
    assert Agreement.of(expected, agent(decisions.pixels[:count])).is_exact
    # The event-driven engine adds only the weights of the inputs that have changed.
    assert (np.median(agent.instructions) > 10_000_000) == dense


def test_the_command_checks_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["env=CartPole-v1", "T=1", "exact=true", "format=c", "check_frames=20"]
    monkeypatch.setattr(sys, "argv", ["export", *settings, f"runs={tmp_path}", "threads=1"])
    run_command(Config, export.main, export.__doc__)
    out = capsys.readouterr().out
    assert "total: 342,528 bytes of flash" in out
    for engine in ("event-driven", "dense"):
        expected = f"C, {engine}: 20 frames: same spikes 100.0000%, same action 100.00%"
        assert f"{expected}, largest Q-value error 0\n" in out
    (source,) = tmp_path.rglob("network.c")
    assert (source.parent / "network.h").exists()
