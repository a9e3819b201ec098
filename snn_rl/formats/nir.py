"""Networks as NIR graphs, the exchange format of spiking simulators and neuromorphic chips.

NIR's neurons live in continuous time and reset to a value; ours are stepped and reset by
subtraction ([IIR] algorithm 2). With T = 1 the reset has no effect. A leaky neuron whose time
constant equals the simulation step forgets its membrane, v <- v + dt / tau (r I - v) = I, and
compares its input with its threshold, as our neurons do. T > 1 has no exact counterpart. The step
is `DT`, the default of most simulators (Norse needs dt=1e-4).

NIR fires above the threshold, as we do, but some simulators fire at the threshold too. On the
integer grid, thresholds are placed half a unit higher, where no sum lies.
"""

import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from snn_rl.core.conversion.integer_grid import LIMIT, PIXEL, integers
from snn_rl.core.networks import Conv, SpikingNetwork
from snn_rl.files.atomic import write_bytes
from snn_rl.formats.registry import check_plain, optional
from snn_rl.utils.errors import UserError

if TYPE_CHECKING:
    import nir

EXTRA = "interop"
INPUT, OUTPUT = "input", "output"
DT = 1e-4  # seconds


def nir_graph(network: SpikingNetwork, notes: Mapping[str, str] | None = None) -> "nir.NIRGraph":
    """Returns the network as a NIR graph from pixels (0 to 255) to Q-values.

    The first layer's weights include the division by 255. The neurons of layer l are the node
    `spikes_name(l)`.

    Args:
        network: Network with T = 1 and direct encoding, of convolutions and dense layers.
        notes: Notes in the metadata of the graph.
    """
    check_plain(network, "NIR")
    if network.timesteps != 1:
        raise UserError(
            f"this network cannot be exported as NIR: it has {network.timesteps} timesteps with "
            "reset by subtraction, and NIR resets to a value; use T=1"
        )
    nir = optional("nir", EXTRA)
    thresholds = _thresholds(network)
    nodes: dict[str, Any] = {INPUT: nir.Input({"input": np.array(network.spec.input_shape)})}
    layers = zip(
        network.spec.names(), network.connections, [*network.synapses, network.head], strict=True
    )
    for i, (name, connection, synapse) in enumerate(layers):
        weight = _array(synapse.weight)
        # Some simulators ignore layers without biases.
        bias = np.zeros(len(weight), np.float32) if synapse.bias is None else _array(synapse.bias)
        if i == 0 and not network.exact:
            weight = weight / np.float32(PIXEL)
        if isinstance(connection.layer, Conv):
            nodes[name] = nir.Conv2d(
                input_shape=connection.input_shape[1:],
                weight=weight,
                stride=connection.layer.stride,
                padding=connection.layer.padding,
                dilation=1,
                groups=1,
                bias=bias,
            )
        else:
            if len(connection.input_shape) > 1:
                shape = {"input": np.array(connection.input_shape)}
                nodes[f"{name}_flatten"] = nir.Flatten(shape, start_dim=0, end_dim=-1)
            nodes[name] = nir.Affine(weight, bias)
        if i < len(thresholds):
            ones = np.ones(connection.output_shape, np.float32)
            v_threshold, zeros = ones * np.float32(thresholds[i]), ones * 0
            tau = ones * np.float32(DT)
            nodes[spikes_name(name)] = nir.LIF(tau, ones, zeros, v_threshold, zeros)
    nodes[OUTPUT] = nir.Output({"output": np.array([network.spec.outputs])})
    names = list(nodes)
    edges = list(itertools.pairwise(names))
    return nir.NIRGraph(nodes, edges, metadata={"dt": DT, **(notes or {})})


def spikes_name(layer: str) -> str:
    """Returns the name of the node with a layer's neurons."""
    return f"{layer}_spikes"


def write(network: SpikingNetwork, path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Writes `nir_graph` to a file, atomically."""
    buffer = io.BytesIO()
    optional("nir", EXTRA).write(buffer, nir_graph(network, notes))
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> "nir.NIRGraph":
    """Reads a graph."""
    graph: nir.NIRGraph = optional("nir", EXTRA).read(path)
    return graph


def _thresholds(network: SpikingNetwork) -> list[float]:
    if not network.exact:
        return [float(neuron.v_threshold.detach()) for neuron in network.neurons]
    found = []
    for layer in integers(network)[:-1]:
        assert layer.v_threshold is not None
        steps = min(layer.v_threshold, layer.bound)  # no sum exceeds the bound
        if 2 * steps + 1 >= LIMIT:
            raise UserError(
                "this network cannot be exported as NIR: float32 does not represent the threshold "
                f"of {layer.name} plus half a unit"
            )
        found.append((steps + 0.5) * layer.unit)
    return found


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()
