"""Layer stacks, and their analog and spiking networks."""

from snn_rl.core.networks.analog import AnalogNetwork
from snn_rl.core.networks.base import WINDOW, Network, State, clear
from snn_rl.core.networks.image_networks import (
    IMAGE_NETWORKS,
    image_network,
    register_image_network,
)
from snn_rl.core.networks.q_networks import Q_NETWORKS, layers_name, q_network, register_network
from snn_rl.core.networks.spec import (
    AvgPool,
    Block,
    Connection,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    NetworkSpec,
)
from snn_rl.core.networks.spiking import SpikingNetwork, SpikingOptions

__all__ = [
    "IMAGE_NETWORKS",
    "Q_NETWORKS",
    "WINDOW",
    "AnalogNetwork",
    "AvgPool",
    "Block",
    "Connection",
    "Conv",
    "Dense",
    "Dropout",
    "MaxPool",
    "Network",
    "NetworkSpec",
    "SpikingNetwork",
    "SpikingOptions",
    "State",
    "clear",
    "image_network",
    "layers_name",
    "q_network",
    "register_image_network",
    "register_network",
]
