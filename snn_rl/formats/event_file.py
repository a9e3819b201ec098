"""Networks for the event-driven engine of `snn_rl.event`: its files, and the engine in torch."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snn_rl.checkpoint import write_atomic
from snn_rl.errors import UserError
from snn_rl.event import EventEngine, EventLayer, EventNetwork
from snn_rl.exact import integers
from snn_rl.networks import Conv, SpikingNetwork


def event_network(network: SpikingNetwork) -> EventNetwork:
    """The integers of a network on the grid, for the event-driven engine.

    Raises:
        UserError: It is not on the grid.
    """
    if not network.exact:
        raise UserError("the event-driven engine runs exact agents: say exact=true")
    layers = []
    for grid, connection in zip(integers(network), network.connections, strict=True):
        conv = connection.layer if isinstance(connection.layer, Conv) else Conv(1, 1)
        layers.append(
            EventLayer(
                grid.name,
                grid.unit,
                grid.weight.numpy(),
                None if grid.bias is None else grid.bias.numpy(),
                grid.v_threshold,
                conv.stride,
                conv.padding,
            )
        )
    return EventNetwork(network.spec.input_shape, tuple(layers))


def write(network: SpikingNetwork, path: Path) -> None:
    """Writes `event_network` to a file, whole or not at all.

    Raises:
        UserError: See `event_network`; the disk is full or read-only.
    """
    data = event_network(network).to_bytes()
    write_atomic(path, lambda file: file.write_bytes(data))


class Runner:
    """The event-driven engine, for batches; see `snn_rl.formats.Engine`.

    Every row of a batch has an engine, which sees the images of that row one after the other.

    Args:
        network: On the grid.

    Attributes:
        operations: Of every weight layer, summed over all decisions.
        decisions: Their number.
    """

    def __init__(self, network: EventNetwork):
        self.network = network
        self.operations = np.zeros(len(network.layers), np.int64)
        self.decisions = 0
        self._engines = [EventEngine(network)]

    def __call__(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Q-values [N, actions] and spikes, each [1, N, ...].

        Args:
            pixels: [N, channels, height, width], uint8.
        """
        while len(self._engines) < len(pixels):
            self._engines.append(EventEngine(self.network))
        q_values, spikes = [], []
        for image, engine in zip(pixels.contiguous().numpy(), self._engines, strict=False):
            q_values.append(engine(image))
            spikes.append(engine.spikes)
            self.operations += engine.operations.layers
            self.decisions += 1
        layers = [torch.from_numpy(np.stack(rows)).float()[None] for rows in zip(*spikes, strict=True)]
        return torch.from_numpy(np.stack(q_values)), layers
