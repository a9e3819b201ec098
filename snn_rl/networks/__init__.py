"""Network descriptions, each built analog or spiking from the same lines."""

from snn_rl.networks.image_networks import IMAGE_NETWORKS
from snn_rl.networks.layers import (
    WINDOW,
    AnalogNetwork,
    Network,
    SpikingNetwork,
    State,
    clear,
)
from snn_rl.networks.q_networks import Q_NETWORKS, layers_name, q_network
from snn_rl.networks.spec import (
    AvgPool,
    Block,
    Connection,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    NetworkSpec,
)

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
