"""Event-driven decisions of networks on the integer grid, without torch."""
