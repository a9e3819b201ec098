"""Export a trained agent to engines other than PyTorch.

    python -m snn_rl.export env=PongNoFrameskip-v4 T=1 format=onnx
    python -m snn_rl.export env=PongNoFrameskip-v4 T=1 exact=true format=nir

Writes the agent's network with its preprocessing. Runs the file and the network
on the same observations and prints how many spikes and actions agree. For an
exact agent (exact=true), the command fails unless all Q-values are
bit-identical in every batch size and memory layout.

Formats:
  onnx   uint8 frames [batch, channels, height, width] to Q-values; T > 1 is
         unrolled. Checked in onnxruntime. pip install 'snn_rl[export]'
  nir    exchange format of spiking simulators; T=1 only. Checked in snnTorch,
         and in Norse and SpikingJelly if installed.
         pip install 'snn_rl[interop]'
  torch  torch.export program (.pt2), frames to Q-values
  event  integers of an exact agent for the event-driven engine snn_rl.event,
         which requires neither PyTorch nor Stable-Baselines3.
         pip install 'snn_rl[fast]'

T, seed, run_dir, direct, stages and exact select the agent, as in snn_rl.train.
Without a run of yours, the agent that ships with snn_rl is exported, and the
file goes to runs/<env>/zoo/<stage>.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snn_rl import __version__
from snn_rl.agents.checks import prepare
from snn_rl.agents.loading import WHICH_AGENT, Agent, find_stage, load_agent
from snn_rl.configs.compose import run_command
from snn_rl.configs.schema import Config
from snn_rl.core.networks import SpikingNetwork
from snn_rl.event.network import EventNetwork
from snn_rl.formats import Engine, event, nir, onnx, program, simulators
from snn_rl.utils.errors import UserError

SUFFIXES = {"onnx": "onnx", "nir": "nir", "torch": "pt2", "event": "event"}
BATCH = 32
_ACCEPTED = (
    *(name for name in WHICH_AGENT if name != "device"),
    *("format", "output", "check_frames", "eval.seed"),
)


@dataclass(frozen=True)
class Agreement:
    """How two engines agree on the same frames.

    Attributes:
        frames: Number of frames.
        spikes: Fraction of neurons and timesteps with the same spike; None if an engine shows none.
        actions: Fraction of frames with the same greedy action.
        error: Largest difference of a Q-value.
    """

    frames: int
    spikes: float | None
    actions: float
    error: float

    @property
    def is_exact(self) -> bool:
        """Whether every bit is the same."""
        return self.spikes in (None, 1.0) and self.error == 0.0

    def __str__(self) -> str:
        parts = [] if self.spikes is None else [f"same spikes {self.spikes:.4%}"]
        parts += [f"same action {self.actions:.2%}", f"largest error of a Q-value {self.error:.2g}"]
        return f"{self.frames} frames: {', '.join(parts)}"


def real_frames(agent: Agent, count: int, seed: int) -> Tensor:
    """Observations of the agent's own greedy games, [count, channels, height, width], uint8.

    Args:
        agent: Who plays.
        count: Frames; further games are played until there are enough.
        seed: Of the first game.
    """
    env = agent.make_env(1, seed)
    frames: list[Tensor] = []
    obs = np.asarray(env.reset())
    while len(frames) < count:
        frames.append(torch.as_tensor(obs.copy()))
        obs = np.asarray(env.step(agent.q_net.decide(frames[-1]).actions)[0])
    env.close()
    return torch.cat(frames)


def in_batches(engine: Engine, pixels: Tensor, batch: int) -> tuple[Tensor, list[Tensor]]:
    """What an engine says of all frames, given so many at a time."""
    outputs, layers = zip(*(engine(part) for part in pixels.split(batch)), strict=True)
    return torch.cat(outputs), [torch.cat(parts, 1) for parts in zip(*layers, strict=True)]


def in_torch(network: SpikingNetwork, layout: torch.memory_format) -> Engine:
    """The network itself, with images in one of the two memory layouts."""

    def run(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            return network.activity(network.images(pixels).contiguous(memory_format=layout))

    return run


def compare(ours: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]]) -> Agreement:
    """How Q-values and spikes of two engines agree."""
    (mine, my_spikes), (other, other_spikes) = ours, theirs
    spikes = None
    if other_spikes:
        pairs = list(zip(my_spikes, other_spikes, strict=True))
        same = sum(int((a == b).sum()) for a, b in pairs)
        spikes = same / sum(a.numel() for a, _ in pairs)
    actions = (mine.argmax(1) == other.argmax(1)).double().mean()
    return Agreement(len(mine), spikes, float(actions), float((mine - other).abs().max()))


def export(
    network: SpikingNetwork, kind: str, path: Path, notes: dict[str, str]
) -> dict[str, Engine]:
    """Writes a network to a file.

    Args:
        network: On the processor.
        kind: A key of `SUFFIXES`.
        path: The file.
        notes: Go into the file, where the format has a place for them.

    Returns:
        By name, the engines that can run the file here.

    Raises:
        UserError: The format cannot hold the network, a package is missing, or the disk is full.
    """
    if kind == "onnx":
        onnx.write(network, path, notes)
        return {"onnxruntime": onnx.Runner(path, network)}
    if kind == "nir":
        nir.write(network, path, notes)
        return simulators.installed(nir.read(path), network.spec)
    if kind == "event":
        event.write(network, path)
        driven = event.EventDriven(network, EventNetwork.load(path))

        def by_events(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
            return driven.activity(driven.images(pixels))

        return {"snn_rl.event": by_events}
    loaded = program.write(network, path)

    def run(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            return loaded(pixels), []

    return {"torch.export": run}


def check(network: SpikingNetwork, engines: dict[str, Engine], pixels: Tensor) -> None:
    """Compares engines with the network on real frames, and prints how they agree.

    Raises:
        RuntimeError: The network is exact, and an engine, a batch size or a memory layout gives
            other bits.
    """
    ours = in_batches(in_torch(network, torch.channels_last), pixels, BATCH)
    trials = {name: (engine, BATCH) for name, engine in engines.items()}
    if network.exact:
        trials |= {f"{name}, batch 1": (engine, 1) for name, engine in engines.items()}
        for layout in (torch.channels_last, torch.contiguous_format):
            engine = in_torch(network, layout)
            trials |= {f"{layout}, batch {n}": (engine, n) for n in (1, BATCH)}
    for name, (engine, batch) in trials.items():
        agreement = compare(ours, in_batches(engine, pixels, batch))
        print(f"{name}: {agreement}", flush=True)
        if network.exact and not agreement.is_exact:
            raise RuntimeError(f"an exact network gives other bits in {name}")
    if not engines:
        print("no simulator is installed that could run the file: pip install 'snn_rl[interop]'")


def main(config: Config) -> None:
    """Exports one agent and checks the file."""
    prepare(config, "snn_rl.export", _ACCEPTED)
    stage = find_stage(config)
    agent = load_agent(stage.directory, "cpu")
    network = agent.q_net.network
    assert isinstance(network, SpikingNetwork)
    path = Path(config.output or stage.output / f"network.{SUFFIXES[config.format]}")
    if path.is_dir():
        raise UserError(f"output={path} is a folder: say the name of the file")
    notes = {"env": agent.env, "stage": agent.stage, "snn_rl": __version__}
    engines = export(network, config.format, path, notes)
    print(f"written to {path}, {path.stat().st_size:,} bytes", flush=True)
    check(network, engines, real_frames(agent, config.check_frames, config.eval.seed))


if __name__ == "__main__":
    run_command(Config, main, __doc__, _ACCEPTED)
