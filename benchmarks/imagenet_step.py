"""Measures reading images and training steps on ImageNet, and estimates the full training.

    python benchmarks/imagenet_step.py --data FOLDER [--json FILE]
    python benchmarks/imagenet_step.py --estimate

The first command measures three parts, each in a fresh process so that peak memory is separate:
reading and augmenting images, steps of the ANN, and steps at T=1 after a conversion. It reports
images per second of wall-clock time and of CPU time (all threads); the latter is more reliable when
other programs are running. The networks are untrained, which does not affect the cost of a step.

The second command needs no images. It counts the operations of the whole chain with the settings of
`preset=paper` and converts them to hours with the assumed speed of the GPUs.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from snn_rl.chain.stages import ChainOptions, schedule
from snn_rl.core.conversion import convert
from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    AnalogNetwork,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.images.chain import initialize
from snn_rl.images.data.datasets import Split, open_dataset
from snn_rl.images.fitting import Recipe, backward
from snn_rl.utils.device import uses_bf16
from snn_rl.utils.process_memory import keep_freed_memory

PARTS = ("read", "ann", "t1")
IMAGES, CLASSES = 1_281_167, 1_000  # training images of ILSVRC2012
ANN_EPOCHS, STAGE_EPOCHS = 90, 300  # [IIR] A.2.2


def cpu_seconds() -> float:
    """Returns the CPU time of this process so far (user and system, all threads)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Clock:
    """Wall-clock and CPU time since its creation."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()

    def per_second(self, images: int) -> dict[str, float]:
        """Returns the images per second of wall-clock and of CPU time."""
        return {
            "images_per_s": images / (time.perf_counter() - self.wall),
            "images_per_cpu_s": images / (cpu_seconds() - self.cpu),
        }


def measure_reading(split: Split, batch: int, batches: int) -> dict[str, float]:
    """Measures decoding, cropping, flipping, and normalizing images as in training."""
    clock, seen = Clock(), 0
    generator = torch.Generator().manual_seed(0)
    for images, _ in split.batches(batch, generator=generator, augment=True):
        seen += len(images)
        if seen >= batch * batches:
            break
    return clock.per_second(seen)


def measure_steps(spec: NetworkSpec, split: Split, part: str, batch: int, steps: int) -> Any:
    """Measures gradient steps as in `fit`, including reading, after one warm-up step."""
    torch.manual_seed(0)
    analog = AnalogNetwork(spec)
    initialize(analog)
    network: AnalogNetwork | SpikingNetwork = analog
    generator = torch.Generator().manual_seed(0)
    batches = split.batches(batch, generator=generator, augment=True)
    if part == "t1":
        network = convert(analog.eval(), next(batches)[0], SpikingOptions(1))
        batches = split.batches(batch, generator=generator, augment=True)
    network.to(memory_format=torch.channels_last)
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, 0.01, momentum=0.9, fused=True)
    if part == "t1":
        optimizer = torch.optim.Adam(trained, 1e-4, fused=True)
    network.dropout = 0.2
    recipe = Recipe(1, lambda progress: 0.01, batch, bf16=uses_bf16("auto", "cpu"))
    seen = 0
    for step, (images, labels) in zip(range(steps + 1), batches, strict=False):
        if step == 1:
            clock = Clock()
        optimizer.zero_grad(set_to_none=True)
        loss, _, rates = backward(network, network.activity, images, labels, recipe)
        assert math.isfinite(float(loss))
        optimizer.step()
        network.clamp_()
        seen += len(images) if step else 0
    return clock.per_second(seen) | {
        "images": seen,
        "parameters": sum(p.numel() for p in network.parameters()),
        "bf16": recipe.bf16,
        "active": [round(rate, 4) for rate in rates.tolist()],
    }


def run_part(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one part in this process."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    dataset = open_dataset("imagenet", Path(options.data), options.size)
    if part == "read":
        found: dict[str, Any] = measure_reading(dataset.train, options.batch, options.reads)
    else:
        spec = IMAGE_NETWORKS[options.net](dataset.image_shape, dataset.classes)
        found = measure_steps(spec, dataset.train, part, options.batch, options.steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {"peak_memory_gib": peak / 2**20}


def training_flop(spec: NetworkSpec, timesteps: int) -> float:
    """Returns the floating-point operations of one image's gradient step.

    A multiply-accumulate counts as two operations, and the backward pass as two forward passes. The
    first layer's current is computed once for all timesteps (direct encoding).
    """
    connections = spec.connections()
    first = sum(c.macs for c in connections if c.source is None)
    return 6.0 * (first + timesteps * (sum(c.macs for c in connections) - first))


def estimate(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the hours of the ANN and of every stage on all GPUs."""
    spec = IMAGE_NETWORKS[options.net]((3, options.size, options.size), CLASSES)
    neurons = sum(int(torch.Size(shape).numel()) for shape in spec.shapes())
    stages: dict[str, Any] = {}
    for stage in schedule(ChainOptions(T=1)):
        timesteps = stage.timesteps or 1
        flop = training_flop(spec, timesteps)
        arithmetic = flop / (options.tflops * 1e12 * options.utilization)
        moved = neurons * timesteps * options.passes * 2  # bytes, bfloat16
        seconds = arithmetic + moved / (options.bandwidth * 1e12)
        epochs = STAGE_EPOCHS if stage.timesteps else ANN_EPOCHS
        stages[stage.name] = {
            "gflop_per_image": flop / 1e9,
            "images_per_s": options.gpus / seconds,
            "epochs": epochs,
            "hours": epochs * IMAGES * seconds / options.gpus / 3600,
            "exaflop": epochs * IMAGES * flop / 1e18,
        }
    return {"neurons": neurons, "stages": stages, "hours": sum(s["hours"] for s in stages.values())}


def main() -> None:
    """Runs the measurement or the estimate, and prints or writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="ImageNet folder in any layout that snn_rl.classify reads")
    parser.add_argument("--net", default="vgg16", choices=sorted(IMAGE_NETWORKS))
    parser.add_argument("--size", type=int, default=224, help="image size")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each network")
    parser.add_argument("--reads", type=int, default=50, help="batches to read")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="path of a JSON file with the results")
    parser.add_argument("--part", choices=PARTS, help="measure only this part, in this process")
    parser.add_argument("--estimate", action="store_true", help="estimate the whole chain instead")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument(
        "--tflops", type=float, default=312, help="peak bfloat16 TFLOP/s of one GPU"
    )
    parser.add_argument(
        "--utilization", type=float, default=0.35, help="fraction of the peak that is reached"
    )
    parser.add_argument(
        "--bandwidth", type=float, default=1.5, help="memory bandwidth of a GPU in TB/s"
    )
    parser.add_argument(
        "--passes", type=int, default=20, help="memory passes over every neuron per step"
    )
    options = parser.parse_args()
    if options.part:
        print(json.dumps(run_part(options.part, options)))
        return
    found: dict[str, Any] = {}
    if options.estimate:
        found = estimate(options)
        for name, stage in found["stages"].items():
            print(
                f"{name:<4}{stage['gflop_per_image']:8.1f} GFLOP/image"
                f"{stage['images_per_s']:8.0f} images/s{stage['epochs']:5d} epochs"
                f"{stage['exaflop']:7.1f} EFLOP{stage['hours']:8.1f} h"
            )
        print(f"total {found['hours']:.0f} h on {options.gpus} GPUs")
    elif not options.data:
        parser.error("--data is required: the folder of the images")
    else:
        for part in PARTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
            found[part] = json.loads(subprocess.check_output(command))
            figures = "  ".join(f"{key} {value}" for key, value in found[part].items())
            print(f"{part:<5} {figures}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
