"""Network descriptions, each built analog or spiking from the same lines."""

from snn_rl.networks.layers import (
    AnalogNetwork,
    Conv,
    Dense,
    Network,
    NetworkSpec,
    SpikingNetwork,
    State,
    clear,
)
from snn_rl.networks.q_networks import Q_NETWORKS, layers_name, q_network

__all__ = [
    "Q_NETWORKS",
    "AnalogNetwork",
    "Conv",
    "Dense",
    "Network",
    "NetworkSpec",
    "SpikingNetwork",
    "State",
    "clear",
    "layers_name",
    "q_network",
]
