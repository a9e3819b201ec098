"""snn_rl: spiking reinforcement-learning agents that decide in one timestep."""

__version__ = "0.1.0"
