"""An event-driven engine for networks on the integer grid; runs without torch."""
