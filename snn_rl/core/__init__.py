"""The spiking neuron, networks and conversion; needs torch alone."""
