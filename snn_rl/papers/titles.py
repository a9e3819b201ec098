"""The papers that are reproduced here."""

TITLES = {
    "iir": "One Timestep is All You Need: Training Spiking Neural Networks with Ultra Low Latency "
    "(2021)",
    "stdb": "Enabling Deep Spiking Neural Networks with Hybrid Conversion and Spike Timing "
    "Dependent Backpropagation (ICLR 2020)",
    "ull": "Can Deep Neural Networks be Converted to Ultra Low-Latency Spiking Neural Networks? "
    "(2022)",
}
