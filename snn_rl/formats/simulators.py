"""Export as NIR graphs, and simulators that run them: snnTorch, Norse, SpikingJelly, sinabs."""

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from snn_rl.core.networks import NetworkSpec, SpikingNetwork
from snn_rl.formats.nir import DT, read, spikes_name, write
from snn_rl.formats.registry import Engine

if TYPE_CHECKING:
    import nir

# Function that loads a graph, and its options
_IMPORTERS: dict[str, tuple[str, dict[str, float]]] = {
    "snnTorch": ("snntorch.import_nir:import_from_nir", {}),
    "Norse": ("norse.torch:from_nir", {"dt": DT}),
    "SpikingJelly": ("spikingjelly.activation_based.nir_exchange:import_from_nir", {"dt": DT}),
    "sinabs": ("sinabs.nir:from_nir", {"batch_size": 1}),
}
_BATCHED = ("SpikingJelly", "sinabs")  # images need a batch dimension


def export(network: SpikingNetwork, path: Path, notes: Mapping[str, str]) -> dict[str, Engine]:
    """Writes a NIR graph, atomically, and returns the installed simulators with the graph."""
    write(network, path, notes)
    return installed(read(path), network.spec)


def installed(graph: "nir.NIRGraph", spec: NetworkSpec) -> dict[str, Engine]:
    """Returns the installed simulators by name, each with the graph loaded.

    Membranes are empty at the start of every image.
    """
    found: dict[str, Engine] = {}
    for name, (importer, options) in _IMPORTERS.items():
        package, _, function = importer.partition(":")
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            continue
        copy = deepcopy(graph)  # some importers modify the graph
        if name in _BATCHED:
            _replace_leaky_neurons(copy)
        with contextlib.redirect_stdout(io.StringIO()):
            module = getattr(importlib.import_module(package), function)(copy, **options)
        if name == "sinabs":
            _adapt_sinabs(module)
        found[name] = _Simulator(module, spec.names()[:-1], name in _BATCHED)
    return found


def _replace_leaky_neurons(graph: "nir.NIRGraph") -> None:
    """Replaces LIF by IF neurons, because SpikingJelly rejects a time constant of one step."""
    import nir

    for name, node in graph.nodes.items():
        if isinstance(node, nir.LIF):
            graph.nodes[name] = nir.IF(node.r / DT, node.v_threshold, node.v_reset)


def _adapt_sinabs(module: nn.Module) -> None:
    """Limits the neurons of sinabs to one spike per step, and empties their membranes."""
    import sinabs

    for layer in module.modules():
        if hasattr(layer, "spike_fn"):
            layer.spike_fn = sinabs.activation.SingleSpike
    module.register_forward_pre_hook(lambda *_: sinabs.reset_states(module))


class _Simulator:
    """A graph in a simulator.

    Args:
        module: Module that the simulator built from the graph.
        layers: Names of the hidden layers.
        batched: True if images need a batch dimension.
    """

    def __init__(self, module: nn.Module, layers: list[str], batched: bool):
        self._module = module.eval()
        self._batched = batched
        self._spikes: dict[str, Tensor] = {}
        self._layers = layers
        for layer in layers:
            neurons = module.get_submodule(spikes_name(layer))
            neurons.register_forward_hook(partial(self._record, layer))

    def _record(self, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._spikes[layer] = _without_state(output)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows = []
        with torch.no_grad():
            for image in pixels.float():
                q = _without_state(self._module(image.unsqueeze(0) if self._batched else image))
                spikes = [self._spikes[layer] for layer in self._layers]
                rows.append([each if self._batched else each.unsqueeze(0) for each in (q, *spikes)])
        q_values, *layers = (torch.cat(each) for each in zip(*rows, strict=True))
        return q_values, [layer.unsqueeze(0) for layer in layers]


def _without_state(output: Any) -> Tensor:
    """Returns the output of a module that may return (output, state)."""
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result
