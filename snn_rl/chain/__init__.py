"""The stages of a chain, its run directory and the records kept there."""
