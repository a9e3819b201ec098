"""Compares our spiking network with SpikingJelly, snnTorch, and Norse.

    pip install --no-deps spikingjelly snntorch norse loguru nir nirtorch
    python benchmarks/snn_libraries.py [--batch 32] [--timesteps 1 5] [--threads 1] [--json FILE]

All libraries run the same Mnih network with the same weights and thresholds, images in
channels_last, the first layer's current computed once, and integrate-and-fire neurons with a reset
by subtraction. Norse has only a reset to zero, so its spikes differ from the second timestep on.
Our network also computes gradients of thresholds and leaks. Prints the time relative to ours of a
forward and backward pass (training) and of a forward pass without gradients (inference), and the
largest difference of the outputs; SpikingJelly also fires at the threshold, ours only above it.
Libraries that are not installed are skipped.
"""

import argparse
import importlib
from collections.abc import Callable

import torch
from side_by_side import alternate, arguments, prepare, ratios, show, spread, write
from torch import Tensor, nn

from snn_rl.core import compiled as fused
from snn_rl.core.conversion import convert
from snn_rl.core.networks import Q_NETWORKS, AnalogNetwork, SpikingNetwork, SpikingOptions
from snn_rl.core.surrogate import SURROGATES

Net = Callable[[Tensor], Tensor]


def stepping(network: SpikingNetwork, fresh: Callable[[], list[Callable[[Tensor], Tensor]]]) -> Net:
    """Returns the network run timestep by timestep; `fresh` returns neurons with zero state."""
    first, *rest = network.synapses

    def forward(x: Tensor) -> Tensor:
        neurons, current, total = fresh(), first(x), torch.zeros(())
        for _ in range(network.timesteps):
            spikes = neurons[0](current)
            for layer, neuron in zip(rest, neurons[1:], strict=True):
                flat = spikes.flatten(1) if isinstance(layer, nn.Linear) else spikes
                spikes = neuron(layer(flat))
            total = total + spikes
        return network.head(total / network.timesteps)

    return forward


def spikingjelly(network: SpikingNetwork, thresholds: list[float]) -> Net:
    """Returns the network with SpikingJelly neurons in multi-step mode."""
    base = importlib.import_module("spikingjelly.activation_based")
    neuron, functional, surrogate = (
        importlib.import_module(f"{base.__name__}.{name}")
        for name in ("neuron", "functional", "surrogate")
    )
    neurons = [
        neuron.IFNode(
            v, None, surrogate.PiecewiseQuadratic(alpha=1.0), detach_reset=True, step_mode="m"
        )
        for v in thresholds
    ]
    first, *rest = network.synapses

    def forward(x: Tensor) -> Tensor:
        for node in neurons:
            functional.reset_net(node)
        current = first(x)
        spikes = neurons[0](current.expand(network.timesteps, *current.shape))
        for layer, node in zip(rest, neurons[1:], strict=True):
            flat = spikes.flatten(2) if isinstance(layer, nn.Linear) else spikes
            spikes = node(functional.seq_to_ann_forward(flat, layer))
        return network.head(spikes.mean(0))

    return forward


def snntorch(network: SpikingNetwork, thresholds: list[float]) -> Net:
    """Returns the network with snnTorch neurons, run timestep by timestep."""
    library = importlib.import_module("snntorch")
    surrogate = importlib.import_module("snntorch.surrogate")
    nodes = [
        library.Leaky(
            1.0, v, surrogate.triangular(), init_hidden=True, reset_mechanism="subtract",
            reset_delay=False,
        )
        for v in thresholds
    ]  # fmt: skip

    def fresh() -> list[Callable[[Tensor], Tensor]]:
        for node in nodes:
            node.reset_mem()
        return nodes

    return stepping(network, fresh)


def norse(network: SpikingNetwork, thresholds: list[float]) -> Net:
    """Returns the network with Norse neurons, run timestep by timestep."""
    iaf = importlib.import_module("norse.torch.functional.iaf")
    parameters = [
        iaf.IAFParameters(v_th=torch.tensor(v), alpha=torch.tensor(100.0)) for v in thresholds
    ]

    class Node:
        def __init__(self, index: int):
            self.index, self.state = index, iaf.IAFFeedForwardState(torch.zeros(()))

        def __call__(self, current: Tensor) -> Tensor:
            spikes, self.state = iaf.iaf_feed_forward_step(
                current, self.state, parameters[self.index]
            )
            return spikes

    return stepping(network, lambda: [Node(i) for i in range(len(thresholds))])


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser: argparse.ArgumentParser = arguments(__doc__, rounds=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[1, 5])
    options = parser.parse_args()
    prepare(options.threads)
    torch.manual_seed(0)
    images = torch.rand(options.batch, 4, 84, 84).contiguous(memory_format=torch.channels_last)
    analog = AnalogNetwork(Q_NETWORKS["mnih"]((4, 84, 84), 6, bias=True))
    compiled = fused.available(images, SURROGATES["linear"])
    analog.to(memory_format=torch.channels_last)
    figures = []
    print(f"batch {options.batch}, {options.threads} thread(s): time relative to ours")
    print(f"{'':<14} {'T':>2} {'training':>18} {'inference':>18}  difference")
    for timesteps in options.timesteps:
        network = convert(analog, images, SpikingOptions(timesteps))
        network.to(memory_format=torch.channels_last)
        thresholds = [neuron.v_threshold.item() for neuron in network.neurons]
        nets: dict[str, Net] = {"ours": network}
        for build in (spikingjelly, snntorch, norse):
            try:
                nets[build.__name__] = build(network, thresholds)
            except ImportError as error:
                print(f"{build.__name__:<14} {timesteps:>2} skipped: {error}")

        def learn(net: Net, network: SpikingNetwork = network) -> Callable[[], object]:
            def step() -> None:
                network.zero_grad()
                net(images).square().sum().backward()

            return step

        def decide(net: Net) -> Callable[[], object]:
            def step() -> None:
                with torch.no_grad():
                    net(images)

            return step

        with torch.no_grad():
            outputs = {name: net(images) for name, net in nets.items()}
        learning = alternate({n: learn(net) for n, net in nets.items()}, options.rounds, calls=5)
        deciding = alternate({n: decide(net) for n, net in nets.items()}, options.rounds, calls=10)
        by_learning, by_deciding = ratios(learning, "ours"), ratios(deciding, "ours")
        for name in nets:
            difference = float((outputs[name] - outputs["ours"]).abs().max())
            print(
                f"{name:<14} {timesteps:>2} {show(by_learning[name]):>18} "
                f"{show(by_deciding[name]):>18}  {difference:.1e}"
            )
            figures.append(
                {
                    "name": name,
                    "timesteps": timesteps,
                    "learning": by_learning[name],
                    "deciding": by_deciding[name],
                    "learning_ms": spread(learning[name] * 1e3),
                    "deciding_ms": spread(deciding[name] * 1e3),
                    "difference": difference,
                }
            )
    setting = {"batch": options.batch, "compiled": compiled}
    write(options.json, options.threads, options.rounds, setting | {"networks": figures})


if __name__ == "__main__":
    main()
