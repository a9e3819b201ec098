"""Measures the latency of one decision of the ANN and of the T=1 network in several engines.

    python benchmarks/decision_latency.py [--env PongNoFrameskip-v4] [--episodes 1] [--json FILE]

The included agents decide on frames of recorded episodes of the T=1 agent on the integer grid: in
eager PyTorch, in compiled PyTorch, in onnxruntime (float32, and quantized to 8 bits), and in the
event-driven engine (`snn_rl.event`). The batch size is 1, and the time runs from uint8 frames to
the action. Candidates process stretches of consecutive frames in turn, because the event-driven
engine depends on what changes between frames. Medians and 99th percentiles are over all decisions,
ratios over rounds. The operations of a decision are counted as well.

`--check N` plays N episodes instead and compares every decision with the dense network.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import arguments, prepare, show, spread, write
from torch import Tensor

from snn_rl import zoo
from snn_rl.agents.loading import Agent, load_agent
from snn_rl.core.conversion.integer_grid import quantize
from snn_rl.core.energy import FLOAT32, INT32, energy, macs
from snn_rl.core.networks import AnalogNetwork, Conv, Network, SpikingNetwork
from snn_rl.event.engine import EventEngine
from snn_rl.event.network import EventNetwork
from snn_rl.formats import c as c_format
from snn_rl.formats import onnx as onnx_format
from snn_rl.formats import optional
from snn_rl.formats.c import CompiledAgent
from snn_rl.formats.event import event_network
from snn_rl.utils.errors import UserError

Decide = Callable[[Any], int]
Frames = np.ndarray[Any, np.dtype[np.uint8]]
EVENTS, ACTIVE = "T1 event-driven", "T1 event-driven, all spikes"


def record(
    agent: Agent, network: SpikingNetwork, episodes: int, check: EventEngine | None
) -> Frames:
    """Returns the observations of greedy episodes, [frames, channels, height, width].

    Args:
        agent: Agent that makes the environments.
        network: The agent's network on the grid, which decides.
        episodes: Number of episodes; episode i has seed 1,000,000 + i.
        check: Engine whose Q-values must be equal on every frame.

    Raises:
        RuntimeError: The Q-values differ.
    """
    frames = []
    for episode in range(episodes):
        env = agent.make_env(1, 1_000_000 + episode)
        obs, score, steps, over = np.asarray(env.reset()), 0.0, 0, False
        while not over:
            frames.append(obs[0].copy())
            with torch.no_grad():
                q_values = network(network.images(torch.from_numpy(obs)))[0].numpy()
            if check is not None and not np.array_equal(check(frames[-1]), q_values):
                raise RuntimeError(f"episode {episode}, step {steps}: Q-values differ")
            stepped, rewards, dones, _ = env.step(np.array([q_values.argmax()]))
            obs, over = np.asarray(stepped), bool(dones[0])
            score, steps = score + float(rewards[0]), steps + 1
        env.close()
        print(f"episode {episode}: {steps} decisions, return {score:g}", flush=True)
    return np.stack(frames)


def in_torch(network: Network, compiled: bool) -> Decide:
    """Returns the decisions of a network in PyTorch, optionally compiled."""
    layout = torch.channels_last
    run = network.to(memory_format=layout).eval()
    if compiled:
        run = torch.compile(run, mode="max-autotune-no-cudagraphs")

    def decide(frame: Any) -> int:
        with torch.inference_mode():
            return int(run(network.images(torch.from_numpy(frame[None]))).argmax())

    return decide


def in_onnxruntime(network: Any, folder: Path, calibration: Frames | None) -> Decide:
    """Returns the decisions of a network in onnxruntime.

    Args:
        network: Analog or spiking network.
        folder: Folder of the network's files.
        calibration: Frames for the quantization to 8 bits; None keeps float32.
    """
    runtime = optional("onnxruntime", "export")
    path = folder / "network.onnx"
    onnx_format.write(network, path)
    if calibration is not None:
        quantization = optional("onnxruntime.quantization", "export")
        feeds = iter([{onnx_format.PIXELS: frame[None]} for frame in calibration])

        class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
            def get_next(self) -> Any:
                return next(feeds, None)

        quantization.quantize_static(
            path, folder / "bytes.onnx", Reader(), per_channel=True, reduce_range=False
        )
        path = folder / "bytes.onnx"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def decide(frame: Any) -> int:
        return int(session.run(None, {onnx_format.PIXELS: frame[None]})[0].argmax())

    return decide


def in_c(events: EventNetwork, folder: Path, *options: str) -> Decide:
    """Returns the decisions of the exported C source, compiled for this CPU."""
    c_format.write("agent", events, folder, {})
    return CompiledAgent(folder / "agent.c", events, ["-march=native", *options]).action


def candidates(
    ann: AnalogNetwork, exact: SpikingNetwork, events: EventNetwork, frames: Frames, folder: Path
) -> tuple[dict[str, Decide], dict[str, str]]:
    """Returns the engines by name, and the reasons for missing engines."""
    builders: dict[str, Callable[[Path], Decide]] = {}
    for name, network in (("ANN", ann), ("T1", exact)):
        builders |= {
            f"{name} PyTorch": lambda _, n=network: in_torch(n, False),
            f"{name} PyTorch, compiled": lambda _, n=network: in_torch(n, True),
            f"{name} onnxruntime": lambda at, n=network: in_onnxruntime(n, at, None),
            f"{name} onnxruntime, 8 bits": lambda at, n=network: in_onnxruntime(
                n, at, frames[:: max(1, len(frames) // 64)]
            ),
        }
    builders |= {
        "T1 C, dense": lambda at: in_c(events, at, "-DAGENT_DENSE"),
        "T1 C, event-driven": lambda at: in_c(events, at),
        ACTIVE: lambda _: EventEngine(events, incremental=False).action,
        EVENTS: lambda _: EventEngine(events).action,
    }
    made, left_out = {}, {}
    for i, (name, build) in enumerate(builders.items()):
        at = folder / str(i)
        at.mkdir()
        try:
            decide = build(at)
            for frame in frames[:20]:
                decide(frame)  # compiles
            made[name] = decide
        except (UserError, ImportError, OSError, RuntimeError) as error:  # no compiler or package
            left_out[name] = str(error).strip().splitlines()[0]
    return made, left_out


def timed(
    deciders: dict[str, Decide], frames: Frames, rounds: int, stretch: int
) -> tuple[dict[str, list[np.ndarray[Any, Any]]], dict[str, float]]:
    """Returns the microseconds per decision by name and round, and the shares of equal actions."""
    names = list(deciders)
    micros: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in names}
    same = dict.fromkeys(names, 0)
    for turn in range(-1, rounds):
        start = max(turn, 0) * stretch % max(1, len(frames) - stretch)
        part = frames[start : start + stretch]
        actions = {}
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            decide, taken, chosen = deciders[name], np.empty(len(part)), np.empty(len(part), int)
            # the last frame of the previous stretch, so that the first change is a normal one
            decide(frames[max(0, start - 1)])
            for i, frame in enumerate(part):
                begin = time.perf_counter()
                chosen[i] = decide(frame)
                taken[i] = time.perf_counter() - begin
            actions[name] = chosen
            if turn >= 0:
                micros[name].append(taken * 1e6)
        if turn >= 0:
            for name in names:
                same[name] += int((actions[name] == actions[EVENTS]).sum())
    decisions = rounds * min(stretch, len(frames))
    return micros, {name: n / decisions for name, n in same.items()}


def fan_out(network: Network) -> list[Tensor]:
    """Returns the number of synapses per input of every weight layer.

    Returns:
        One tensor per layer, [channels, height, width] or [inputs].
    """
    found = []
    for synapse, connection in zip(
        [*network.synapses, network.head], network.connections, strict=True
    ):
        ones = torch.ones(1, *connection.input_shape, requires_grad=True)
        if isinstance(connection.layer, Conv):
            assert isinstance(synapse, torch.nn.Conv2d)
            out = torch.nn.functional.conv2d(
                ones, torch.ones_like(synapse.weight), None, synapse.stride, synapse.padding
            )
        else:
            assert isinstance(synapse, torch.nn.Linear)
            out = torch.nn.functional.linear(ones.flatten(1), torch.ones_like(synapse.weight))
        (gradient,) = torch.autograd.grad(out.sum(), ones)
        found.append(gradient[0])
    return found


@torch.no_grad()
def inputs(network: Network, frames: Frames) -> list[Tensor]:
    """Returns the input of every weight layer, [frames, ...]."""
    images = network.images(torch.from_numpy(frames))
    return [images, *(layer[0] for layer in network.activity(images)[1])]


def work(
    ann: AnalogNetwork, exact: SpikingNetwork, events: EventNetwork, frames: Frames
) -> dict[str, Any]:
    """Returns the operations and the energy of a decision, averaged over the frames.

    "active" counts changed pixels in the first layer and all nonzero inputs in the other layers.
    "changed" counts the inputs of every layer that changed since the previous frame.
    """
    figures: dict[str, Any] = {}
    for kind, incremental in (("active", False), ("changed", True)):
        engine = EventEngine(events, incremental)
        taken = np.zeros(len(events.layers))
        engine(frames[0])
        for frame in frames[1:]:
            engine(frame)
            taken += engine.operations.layers
        taken /= len(frames) - 1
        figures[f"T1 {kind}"] = {"mac": taken[0], "ac": taken[1:].sum(), "layers": taken.tolist()}
    fans = fan_out(ann)
    active, changed = np.zeros(len(fans)), np.zeros(len(fans))
    for start in range(0, len(frames) - 1, 256):
        entered = inputs(ann, frames[start : start + 257])
        for i, (x, fan) in enumerate(zip(entered, fans, strict=True)):
            differ = float(((x[1:] != x[:-1]) * fan).sum())
            changed[i] += differ
            active[i] += float(((x[1:] != 0) * fan).sum()) if i else differ
    for kind, counts in (("active", active), ("changed", changed)):
        counts /= len(frames) - 1
        figures[f"ANN {kind}"] = {"mac": counts.sum(), "ac": 0.0, "layers": counts.tolist()}
    dense = float(sum(macs(ann.spec)))
    figures["ANN dense"] = {"mac": dense, "ac": 0.0, "layers": [float(n) for n in macs(ann.spec)]}
    spikes = inputs(exact, frames[:: max(1, len(frames) // 500)])[1:]
    rates = [float(layer.mean()) for layer in spikes]
    for name, costs in (("float32", FLOAT32), ("int32", INT32)):
        figures[f"paper's model, {name}"] = energy(exact.spec, rates, costs).ratio
        for row in figures.values():
            if isinstance(row, dict):
                picojoule = row["mac"] * costs[0] + row["ac"] * costs[1]
                row[f"{name}_ratio"] = dense * costs[0] / picojoule
    return figures


def show_work(figures: dict[str, Any]) -> None:
    """Prints the result of `work`."""
    print(
        f"\n{'operations of a decision':<26}{'MAC':>12}{'AC':>12}{'energy: ANN dense / this':>28}"
    )
    for name, row in figures.items():
        if isinstance(row, dict):
            ratios = f"{row['float32_ratio']:.1f} float32, {row['int32_ratio']:.1f} int32"
            print(f"{name:<26}{row['mac']:>12,.0f}{row['ac']:>12,.0f}{ratios:>28}")
        else:
            print(f"{name}: {row:.2f}")


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = arguments(__doc__, rounds=20)
    parser.add_argument(
        "--env", default="PongNoFrameskip-v4", help="environment of an included agent"
    )
    parser.add_argument("--episodes", type=int, default=1, help="recorded episodes")
    parser.add_argument("--stretch", type=int, default=100, help="frames per turn")
    parser.add_argument("--check", type=int, metavar="N", help="compare N episodes instead")
    options = parser.parse_args()
    prepare(options.threads)
    agent = load_agent(zoo.ROOT / options.env / "T1", "cpu")
    ann = load_agent(zoo.ROOT / options.env / "ann", "cpu").q_net.network
    assert isinstance(ann, AnalogNetwork) and isinstance(agent.q_net.network, SpikingNetwork)
    exact = quantize(agent.q_net.network)
    events = event_network(exact)
    if options.check:
        frames = record(agent, exact, options.check, EventEngine(events))
        print(f"{len(frames):,} decisions, all Q-values are equal bit for bit")
        write(
            options.json, options.threads, 0, {"decisions": len(frames), "episodes": options.check}
        )
        return
    frames = record(agent, exact, options.episodes, None)
    with tempfile.TemporaryDirectory() as folder:
        deciders, left_out = candidates(ann, exact, events, frames, Path(folder))
        micros, same = timed(deciders, frames, options.rounds, options.stretch)
    medians = {name: [float(np.median(part)) for part in parts] for name, parts in micros.items()}
    fastest = min((n for n in medians if n.startswith("ANN")), key=lambda n: np.median(medians[n]))
    print(f"{options.env}, batch 1, {options.threads} thread(s); fastest ANN: {fastest}")
    print(
        f"{'':<38}{'µs: median':>12}{'99 %':>10}{'relative to fastest ANN':>26}{'same action':>14}"
    )
    rows = {}
    for name, parts in micros.items():
        ratio = spread(np.array(medians[name]) / np.array(medians[fastest]))
        median, high = np.percentile(np.concatenate(parts), [50, 99])
        rows[name] = {"us": median, "us_99": high, "ratio": ratio, "same_action": same[name]}
        print(f"{name:<38}{median:>12.1f}{high:>10.1f}{show(ratio, 3):>26}{same[name]:>14.1%}")
    for name, reason in left_out.items():
        print(f"{name}: skipped, {reason}")
    figures = work(ann, exact, events, frames)
    show_work(figures)
    everything = {"env": options.env, "decisions": rows, "left_out": left_out, "work": figures}
    write(options.json, options.threads, options.rounds, everything)


if __name__ == "__main__":
    main()
