"""Network descriptions, each built analog or spiking from the same lines."""

from snn_rl.core.networks.analog import AnalogNetwork
from snn_rl.core.networks.base import WINDOW, Network, State, clear
from snn_rl.core.networks.image_networks import IMAGE_NETWORKS
from snn_rl.core.networks.q_networks import Q_NETWORKS, layers_name, q_network
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
from snn_rl.core.networks.spiking import SpikingNetwork

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
    "State",
    "clear",
    "layers_name",
    "q_network",
]
