"""Stages of a training chain, the run directory, and the records in it."""
