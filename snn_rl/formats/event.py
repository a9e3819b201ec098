"""Networks for the event-driven engine: its files, and the engine in torch."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snn_rl.core.conversion.integer_grid import integers
from snn_rl.core.networks import Conv, SpikingNetwork, SpikingOptions
from snn_rl.event.engine import EventEngine
from snn_rl.event.network import EventLayer, EventNetwork
from snn_rl.files.atomic import write_bytes
from snn_rl.utils.errors import UserError


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
    write_bytes(path, data)


class EventDriven(SpikingNetwork):
    """A network on the grid that decides by events; for inference.

    Every row of a batch has an engine of its own, which sees that row's images one after the other.

    Args:
        network: On the grid.
        events: Its integers, if they were read from a file.

    Attributes:
        operations: Of every weight layer, summed over all decisions, see `Operations`.
        decisions: Their number.

    Raises:
        UserError: It is not on the grid, or numba is not installed.
    """

    def __init__(self, network: SpikingNetwork, events: EventNetwork | None = None):
        events = events or event_network(network)
        super().__init__(network.spec, SpikingOptions(surrogate=network.surrogate, exact=True))
        self.load_state_dict(network.state_dict())
        self.operations = np.zeros(len(events.layers), np.int64)
        self.decisions = 0
        self._events = events
        self._engines = [EventEngine(events)]

    def images(self, pixels: Tensor) -> Tensor:
        """Observations as the engine takes them, uint8; see `Network.images`."""
        return pixels[:, -self.spec.input_shape[0] :].contiguous()

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Network.activity`.

        Args:
            x: From `images`.
        """
        while len(self._engines) < len(x):
            self._engines.append(EventEngine(self._events))
        q_values, spikes = [], []
        for image, engine in zip(x.numpy(), self._engines, strict=False):
            q_values.append(engine(image))
            spikes.append(engine.spikes)
            self.operations += engine.operations.layers
            self.decisions += 1
        layers = [torch.from_numpy(np.stack(rows)).float() for rows in zip(*spikes, strict=True)]
        return torch.from_numpy(np.stack(q_values)), [layer[None] for layer in layers]
