"""Conversion of a trained analog network into a spiking one."""
