"""Runs an exported agent on an emulated Cortex-M7 and compares it with the network.

    apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
    python examples/cortex_m/run.py [--env PongNoFrameskip-v4] [--frames 2000] [--dense]

Exports the included agent as C source, compiles it for Arm's MPS2 board (4 MiB of flash and of
RAM), and runs it in QEMU on frames of greedy episodes. Prints flash and RAM of the program,
without stack and heap, and the number of instructions per decision. Fails if an action, a Q-value,
or a spike differs.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snn_rl import zoo
from snn_rl.agents.evaluation import greedy_observations
from snn_rl.agents.loading import load_agent
from snn_rl.core.conversion import quantize
from snn_rl.core.networks import SpikingNetwork
from snn_rl.formats import c
from snn_rl.formats.agreement import Agreement, in_batches, in_torch
from snn_rl.formats.event import event_network

HERE = Path(__file__).parent
COMPILER, PROGRAM = "arm-none-eabi-gcc", "agent.elf"
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-O3", "-mcpu=cortex-m7", "-mthumb")
LINKED = ("-nostartfiles", "--specs=rdimon.specs", f"-T{HERE / 'board.ld'}")
# One instruction per ns of the emulated time
QEMU = "qemu-system-arm -machine mps2-an500 -icount shift=0 -nographic -monitor none -serial none"
NS_PER_TICK = 40  # the board's clock has 25 MHz


class Board:
    """An agent on the emulated board, as an engine for `snn_rl.formats.agreement`.

    Args:
        network: Network on the integer grid.
        folder: Folder for the sources, the program, and its files.
        dense: True to compile the dense engine instead of the event-driven one.

    Attributes:
        flash: Bytes of the program's code and constants.
        ram: Bytes of its variables, without the stack.
        instructions: Instructions of each decision of the last call.
    """

    def __init__(self, network: SpikingNetwork, folder: Path, dense: bool):
        self.folder = folder
        events = event_network(network)
        c.write("agent", events, folder, {})
        self.shapes = events.shapes[:-1]
        self.unit = np.float32(events.layers[-1].unit)
        neurons = sum(int(np.prod(shape)) for shape in self.shapes)
        record = [
            ("action", "<i4"),
            ("q_values", "<i4", len(events.layers[-1].weight)),
            ("ticks", "<u4"),
            ("spikes", "u1", neurons),
        ]
        self.record = np.dtype(record)
        self.instructions = np.zeros(0, int)
        options = [f"-DSPIKES={neurons}", *(["-DAGENT_DENSE"] if dense else [])]
        sources = ("-I.", "agent.c", str(HERE / "main.c"))
        self._run(COMPILER, *FLAGS, *LINKED, *options, *sources, "-o", PROGRAM)
        sizes = self._run("arm-none-eabi-size", PROGRAM).splitlines()[1].split()
        text, data, bss = map(int, sizes[:3])
        self.flash, self.ram = text + data, data + bss

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        return done.stdout.decode()

    def __call__(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns Q-values [images, actions] and the spikes of each layer."""
        (self.folder / "frames.bin").write_bytes(pixels.numpy().tobytes())
        self._run(
            *QEMU.split(), "-semihosting-config", "enable=on,target=native", "-kernel", PROGRAM
        )
        found = np.fromfile(self.folder / "decisions.bin", self.record)
        assert (found["action"] == found["q_values"].argmax(1)).all()
        self.instructions = found["ticks"].astype(int) * NS_PER_TICK
        spikes, start = [], 0
        for shape in self.shapes:
            channels, height, width = (*shape, 1, 1)[:3]
            size = channels * height * width
            flat = found["spikes"][:, start : start + size].astype(np.float32)
            layer = flat.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            spikes.append(torch.from_numpy(layer.reshape(1, -1, *shape)))
            start += size
        return torch.from_numpy(found["q_values"] * self.unit), spikes


def main() -> None:
    """Runs the agent, prints its costs, and checks its decisions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="PongNoFrameskip-v4")
    parser.add_argument("--frames", type=int, default=2_000)
    parser.add_argument("--dense", action="store_true", help="the dense engine, with less memory")
    options = parser.parse_args()
    for program in (COMPILER, QEMU.split()[0]):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed: see the apt-get line of --help")
    agent = load_agent(zoo.ROOT / options.env / "T1", "cpu")
    assert isinstance(agent.q_net.network, SpikingNetwork)
    network = quantize(agent.q_net.network)
    pixels = greedy_observations(agent, options.frames, seed=5)
    expected = in_batches(in_torch(network, torch.contiguous_format), pixels)
    with tempfile.TemporaryDirectory() as folder:
        board = Board(network, Path(folder), options.dense)
        print(f"flash: {board.flash:,} bytes, RAM: {board.ram:,} bytes", flush=True)
        agreement = Agreement.of(expected, board(pixels))
    first, *others = board.instructions
    print(
        f"instructions per decision: first {first:,}, then median {np.median(others):,.0f}, "
        f"most {max(others):,}"
    )
    print(f"{options.frames:,} decisions: {agreement}")
    if not agreement.is_exact:
        sys.exit("error: the decisions differ from the network's")


if __name__ == "__main__":
    main()
