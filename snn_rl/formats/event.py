"""Export for the event-driven engine, and the engine as a network in torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snn_rl.core.conversion.integer_grid import integers
from snn_rl.core.networks import Conv, SpikingNetwork
from snn_rl.event.engine import EventEngine
from snn_rl.event.network import EventLayer, EventNetwork
from snn_rl.files.atomic import write_bytes
from snn_rl.formats.registry import Engine
from snn_rl.utils.errors import UserError


def event_network(network: SpikingNetwork) -> EventNetwork:
    """Returns the integers of a network on the grid, for the event-driven engine."""
    if not network.exact:
        raise UserError("the event-driven engine requires an exact agent: set exact=true")
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


def export(network: SpikingNetwork, path: Path, notes: Mapping[str, str]) -> dict[str, Engine]:
    """Writes `event_network` to a file, atomically; see `register_format`."""
    write_bytes(path, event_network(network).to_bytes())
    driven = EventDriven(network, EventNetwork.load(path))
    return {"snn_rl.event": lambda pixels: driven.activity(driven.images(pixels))}


class Decider(Protocol):
    """Engine that decides on single images."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the Q-values of an image, [outputs]."""

    @property
    def spikes(self) -> list[NDArray[np.uint8]]:
        """Spikes of each hidden layer in the last decision."""


def decide(
    engines: Iterable[Decider], images: Iterable[NDArray[np.uint8]]
) -> tuple[Tensor, list[Tensor]]:
    """Returns the Q-values and spikes of images, each from an engine; see `Network.activity`."""
    q_values, spikes = [], []
    for engine, image in zip(engines, images, strict=False):
        q_values.append(engine(image))
        spikes.append(engine.spikes)
    layers = [torch.from_numpy(np.stack(rows)).float() for rows in zip(*spikes, strict=True)]
    return torch.from_numpy(np.stack(q_values)), [layer[None] for layer in layers]


class EventDriven(SpikingNetwork):
    """A network on the grid that decides by events, for inference.

    Every row of a batch has its own engine, which sees the images of the row one after the other.

    Args:
        network: Network on the grid.
        events: Integers of the network; None: `event_network(network)`.

    Attributes:
        operations: Operations of every weight layer, summed over all decisions; see `Operations`.
        decisions: Number of decisions.
    """

    def __init__(self, network: SpikingNetwork, events: EventNetwork | None = None):
        events = events or event_network(network)
        super().__init__(network.spec, network.options)
        self.load_state_dict(network.state_dict())
        self.operations = np.zeros(len(events.layers), np.int64)
        self.decisions = 0
        self._events = events
        self._engines = [EventEngine(events)]

    def images(self, pixels: Tensor) -> Tensor:
        """Returns the newest frames as uint8; see `Network.images`."""
        return pixels[:, -self.spec.input_shape[0] :].contiguous()

    def activity(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the Q-values and spikes of images from `images`; see `Network.activity`."""
        while len(self._engines) < len(x):
            self._engines.append(EventEngine(self._events))
        engines = self._engines[: len(x)]
        outputs = decide(engines, x.numpy())
        self.operations += sum(np.array(engine.operations.layers) for engine in engines)
        self.decisions += len(x)
        return outputs
