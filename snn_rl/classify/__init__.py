"""Image classification with the same neurons, conversion and chain of stages as the agents."""
