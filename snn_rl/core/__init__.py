"""Spiking neurons, networks and conversion, with PyTorch as the only dependency."""
