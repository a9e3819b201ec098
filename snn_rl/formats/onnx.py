"""Export as ONNX models from uint8 pixels to Q-values, for any batch size.

The graph is built from the description of the network: the scale of the pixels, then for every
layer a convolution or matrix product and a comparison. T > 1 is unrolled, with leak and reset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.core.networks import AnalogNetwork, Conv, Network, SpikingNetwork
from snn_rl.files.atomic import write_bytes
from snn_rl.formats.registry import Engine, check_plain, optional

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8  # of 2022, for older engines
PIXELS, Q_VALUES = "pixels", "q_values"
EXTRA = "export"


def onnx_model(
    network: AnalogNetwork | SpikingNetwork, notes: Mapping[str, str] | None = None
) -> "onnx.ModelProto":
    """Returns the network as an ONNX model.

    The input is "pixels", uint8 [batch, channels, height, width], and the output is "q_values",
    float32 [batch, actions]. The inner value `spikes_name(l, t)` holds the spikes (or the ReLU's
    output) of layer l at timestep t.

    Args:
        network: Convolutions and dense layers; a spiking network must have direct encoding and no
            carried state.
        notes: Notes in the metadata of the model.
    """
    check_plain(network, "ONNX")
    onnx = optional("onnx", EXTRA)
    helper, shape = onnx.helper, network.spec.input_shape
    graph = _Graph(onnx)
    x = graph.add("Cast", [PIXELS], to=onnx.TensorProto.FLOAT)
    if not network.exact:
        x = graph.add("Div", [x, graph.constant("largest_pixel", torch.tensor(255.0))])
    activity = [x]  # one entry per timestep, or a single one for all timesteps
    *hidden, head = zip(
        network.connections, [*network.synapses, network.head], network.spec.names(), strict=True
    )
    for i, (connection, synapse, name) in enumerate(hidden):
        currents = graph.layer(name, synapse, activity, connection.layer)
        if isinstance(network, SpikingNetwork):
            activity = _fire(graph, network, i, currents)
        else:
            activity = [graph.add("Relu", currents, spikes_name(name, 0))]
    x = activity[0]
    if len(activity) > 1:
        steps = graph.constant("timesteps", torch.tensor(float(len(activity))))
        x = graph.add("Div", [graph.add("Sum", activity), steps])
    graph.layer(head[2], head[1], [x], head[0].layer, Q_VALUES)
    batch = "batch"
    floats = onnx.TensorProto.FLOAT
    inputs = helper.make_tensor_value_info(PIXELS, onnx.TensorProto.UINT8, [batch, *shape])
    outputs = helper.make_tensor_value_info(Q_VALUES, floats, [batch, network.spec.outputs])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "snn_rl", [inputs], [outputs], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="snn_rl",
    )
    helper.set_model_props(model, dict(notes or {}))
    onnx.checker.check_model(model, full_check=True)
    return model  # type: ignore[no-any-return]


def spikes_name(layer: str, timestep: int) -> str:
    """Returns the name of a layer's spikes within the model."""
    return f"{layer}.spikes.{timestep}"


def write(
    network: AnalogNetwork | SpikingNetwork, path: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Writes `onnx_model` to a file, atomically."""
    write_bytes(path, onnx_model(network, notes).SerializeToString())


def export(network: SpikingNetwork, path: Path, notes: Mapping[str, str]) -> dict[str, Engine]:
    """Writes `onnx_model` to a file, atomically; see `register_format`."""
    write(network, path, notes)
    return {"onnxruntime": Runner(path, network)}


class Runner:
    """An ONNX file in onnxruntime."""

    def __init__(self, path: Path, network: Network):
        onnx, runtime = optional("onnx", EXTRA), optional("onnxruntime", EXTRA)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        cpu = ["CPUExecutionProvider"]
        self._plain = runtime.InferenceSession(str(path), options, providers=cpu)
        timesteps = network.timesteps if isinstance(network, SpikingNetwork) else 1
        self._shape = (len(network.spec.shapes()), timesteps)
        layers = network.spec.names()[:-1]
        names = [spikes_name(layer, t) for layer in layers for t in range(timesteps)]
        model = onnx.load(path)
        floats = onnx.TensorProto.FLOAT
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, floats, None) for name in names
        )
        data = model.SerializeToString()
        self._watched = runtime.InferenceSession(data, options, providers=cpu)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns Q-values [N, actions] of the unchanged file, and spikes, each [T, N, ...].

        Args:
            pixels: Images, uint8 [N, channels, height, width].
        """
        feed = {PIXELS: pixels.numpy()}
        (q_values,) = self._plain.run(None, feed)
        watched: list[NDArray[np.float32]] = self._watched.run(None, feed)[1:]
        layers, timesteps = self._shape
        spikes = [np.stack(watched[i * timesteps : (i + 1) * timesteps]) for i in range(layers)]
        return torch.from_numpy(q_values), [torch.from_numpy(each) for each in spikes]


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        name = name or f"{op.lower()}.{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: Tensor) -> str:
        """Adds a constant and returns its name."""
        array = value.detach().cpu().contiguous().numpy()
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def layer(
        self, name: str, synapse: Any, activity: Sequence[str], layer: Any, output: str = ""
    ) -> list[str]:
        """Adds a weight layer and returns the current for every entry of the activity."""
        parameters = [self.constant(f"{name}.weight", synapse.weight)]
        if synapse.bias is not None:
            parameters.append(self.constant(f"{name}.bias", synapse.bias))
        if isinstance(layer, Conv):
            strides, pads = [layer.stride] * 2, [layer.padding] * 4
            return [
                self.add("Conv", [x, *parameters], output, strides=strides, pads=pads)
                for x in activity
            ]
        flat = [self.add("Flatten", [x], axis=1) for x in activity]
        return [self.add("Gemm", [x, *parameters], output, transB=1) for x in flat]


def _fire(graph: _Graph, network: SpikingNetwork, index: int, currents: list[str]) -> list[str]:
    """Adds a layer's neurons ([IIR] algorithm 2, see `core.lif`) and returns their spikes."""
    name, neuron = network.spec.names()[index], network.neurons[index]
    v_threshold = graph.constant(f"{name}.v_threshold", neuron.v_threshold)
    timesteps = network.timesteps
    leak = graph.constant(f"{name}.leak", neuron.leak) if timesteps > 1 else ""
    spikes: list[str] = []
    rest = ""
    for t in range(timesteps):
        u = currents[t if len(currents) > 1 else 0]
        if rest:
            u = graph.add("Add", [graph.add("Mul", [leak, rest]), u])
        above = graph.add("Greater", [u, v_threshold])
        floats = graph.onnx.TensorProto.FLOAT
        spikes.append(graph.add("Cast", [above], spikes_name(name, t), to=floats))
        if t < timesteps - 1:
            rest = graph.add("Sub", [u, graph.add("Mul", [v_threshold, spikes[-1]])])
    return spikes
