"""Measures the CPU time of updates with and without `snn_rl.utils.process_memory`.

    python benchmarks/allocator.py

Prints one line per network: the ratio of the CPU seconds that the same updates take without and
with it. CPU time (user and system) is hardly affected by other processes.
"""

import resource
import subprocess
import sys

import torch

from snn_rl.core.networks import Q_NETWORKS, AnalogNetwork, SpikingNetwork, SpikingOptions
from snn_rl.utils.process_memory import keep_freed_memory

SHAPES = {"cartpole": (3, 40, 120), "mnih": (4, 84, 84)}


def cpu_seconds(name: str, timesteps: int, updates: int = 20, batch: int = 128) -> float:
    """Returns the CPU time of forward and backward passes in this process."""
    spec = Q_NETWORKS[name](SHAPES[name], 6)
    network = SpikingNetwork(spec, SpikingOptions(timesteps)) if timesteps else AnalogNetwork(spec)
    network.to(memory_format=torch.channels_last)
    images = torch.rand(batch, *SHAPES[name]).contiguous(memory_format=torch.channels_last)
    for step in range(updates + 3):
        if step == 3:
            start = resource.getrusage(resource.RUSAGE_SELF)
        network(images).square().mean().backward()
    end = resource.getrusage(resource.RUSAGE_SELF)
    return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime


def main() -> None:
    """Measures each case in a fresh process, because the setting cannot be reverted."""
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        if sys.argv[3] == "keep":
            keep_freed_memory()
        print(cpu_seconds(sys.argv[1], int(sys.argv[2])))
        return
    for name in SHAPES:
        for timesteps in (0, 1, 3):
            seconds = {
                mode: min(
                    float(
                        subprocess.check_output(
                            [sys.executable, __file__, name, str(timesteps), mode]
                        )
                    )
                    for _ in range(3)
                )
                for mode in ("plain", "keep")
            }
            label = f"{name} {f'T{timesteps}' if timesteps else 'ANN'}"
            print(f"{label:<14} plain / kept {seconds['plain'] / seconds['keep']:.2f}")


if __name__ == "__main__":
    main()
