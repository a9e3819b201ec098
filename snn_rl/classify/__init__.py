"""Image classification on the same spiking core as the agents."""
