"""Stages of a chain, the run directory, and the records in it."""
