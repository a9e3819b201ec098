"""Measures the speed of the image networks' training steps, in images per second.

    python benchmarks/gpu/speed.py OUT [device=cuda] [profile=full] [batches=128,512]

Times the training steps of VGG16 on random images of CIFAR's size: the ANN, and the spiking network
with T=1 and T=5, distilled from that ANN. For `from CPU`, every batch is cropped and normalized on
the CPU and copied to the device. Writes OUT/speed_images.json after every line.
`benchmarks/stage_vs_sb3.py` measures agents.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import settings, write_json

from snn_rl.core.conversion import ThresholdSearch, convert, fuse_batch_norm
from snn_rl.core.networks import (
    IMAGE_NETWORKS,
    AnalogNetwork,
    Network,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.images.chain import initialize
from snn_rl.images.data.splits import MemorySplit
from snn_rl.images.fitting import Recipe, backward

WARM_UP = 5


def random_images(count: int) -> MemorySplit:
    """Returns random images of CIFAR's size."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return MemorySplit(images, torch.arange(count) % 10, torch.full((3,), 0.5), torch.ones(3) / 4)


def wait(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def images_per_second(
    network: Network, split: MemorySplit, batch: int, steps: int, teacher: Network | None
) -> float:
    """Returns the speed of the training steps of `snn_rl.images.fitting.fit`."""
    device = network.head.weight.device
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, 1e-3, momentum=0.9, fused=True)
    if teacher is not None:
        optimizer = torch.optim.Adam(trained, 1e-5, fused=True)
    network.train()
    network.dropout = 0.2 if teacher is None else 0.0
    recipe = Recipe(
        1,
        float,
        batch,
        distill=float(teacher is not None),
        bf16=device.type == "cuda",
        teacher=teacher,
    )
    generator = torch.Generator().manual_seed(0)
    batches = split.batches(batch, generator=generator, augment=True, drop_last=True)
    started = 0.0
    for step, (images, labels) in zip(range(WARM_UP + steps), batches, strict=False):
        if step == WARM_UP:
            wait(device)
            started = time.perf_counter()
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad(set_to_none=True)
        backward(network, network.activity, images, labels, recipe)
        optimizer.step()
        network.clamp_()
    wait(device)
    return batch * steps / (time.perf_counter() - started)


def main() -> None:
    """Runs the benchmark and prints the results."""
    out = Path(sys.argv[1])
    options = settings(
        sys.argv[2:], {"device": "cuda", "profile": "full", "batches": "128,256,512"}
    )
    device = torch.device(options["device"])
    tiny = options["profile"] == "tiny"
    net, steps = ("vgg5", 1) if tiny else ("vgg16", 40)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = IMAGE_NETWORKS[net]((3, 32, 32), 10)
    analog = AnalogNetwork(spec)
    initialize(analog)
    analog.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows: list[dict[str, Any]] = []
    for batch in [8] if tiny else [int(size) for size in options["batches"].split(",")]:
        split = random_images(batch * (WARM_UP + steps))
        images = next(split.batches(32))[0].to(device)
        networks: dict[str, Network] = {"ANN, from CPU": analog, "ANN": analog}
        for timesteps in (1, 5):
            spiking = convert(
                analog.eval(),
                images,
                SpikingOptions(timesteps, "boxcar"),
                ThresholdSearch(percentile=70.0),
            )
            spiking.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            networks[f"T={timesteps}"] = spiking
        teacher = fuse_batch_norm(analog).eval()
        teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, network in networks.items():
            split.to(torch.device("cpu") if name.endswith("CPU") else device)
            taught = teacher if isinstance(network, SpikingNetwork) else None
            speed = images_per_second(network, split, batch, steps, taught)
            rows.append({"net": net, "network": name, "batch": batch, "images_per_s": speed})
            print(f"{net} {name:<14} batch {batch:>4}: {speed:>8.0f} images/s", flush=True)
            write_json(out / "speed_images.json", rows)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
        print(json.dumps({"gpu": torch.cuda.get_device_name(), "peak_gib": round(memory, 2)}))


if __name__ == "__main__":
    main()
