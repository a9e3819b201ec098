"""Runs every command once with small settings on one device.

    python benchmarks/gpu/smoke.py OUT [device=cuda] [profile=full] [jobs=8] [limit=120]

Writes OUT/smoke.json (exit code, seconds, and end of the output of each step) and OUT/logs after
every step. `limit` is the time limit of a step in seconds. Chains of steps run in parallel, and the
other steps continue after a failure.
"""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from common import run_module, settings, write_json

AGENT = [
    *("threads=1", "video=false", "episodes=2", "checkpoint_steps=200", "T_start=2"),
    *("rollout.n_envs=4", "rollout.cap=40", "dqn.steps=800", "dqn.learning_starts=80"),
    *("dqn.batch_size=32", "dqn.buffer_size=800", "dqn.target_update_interval=50"),
    *("dqn.epsilon_steps=400", "dqn.selection_games=2", "finetune.steps=0"),
    *("iir.steps=160", "iir.t1_steps=160", "iir.batch_size=32", "iir.conversion_samples=32"),
    *("iir.selection_games=0", "iir.selection_sticky_games=0"),
]
IMAGES = [
    *("dataset=cifar10", "threads=1", "T_start=2", "limit=2000", "test_limit=500"),
    *("fit.epochs=1", "iir.epochs=1", "iir.t1_epochs=1"),
]

Step = tuple[str, list[str]]  # a module and its arguments


def synthetic_cifar(folder: Path) -> None:
    """Writes random images in CIFAR-10's binary format, each class in its own color."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    colors = random.integers(0, 200, (10, 3), np.uint8)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = random.permutation(np.arange(10_000) % 10).astype(np.uint8)
        pixels = np.repeat(colors[labels], 1024, axis=1) + random.integers(
            0, 56, (10_000, 3072), np.uint8
        )
        (folder / name).write_bytes(np.hstack([labels[:, None], pixels]).tobytes())


def chains(work: Path, device: str, profile: str) -> dict[str, list[Step]]:
    """Returns the steps of each chain; a step may depend on earlier steps of its chain.

    Args:
        work: Folder of the runs.
        device: "cpu" or "cuda".
        profile: "full", or "tiny" for only the shortest chain.
    """
    at = f"device={device}"

    def agent(name: str, env: str, *extra: str) -> list[str]:
        return [f"env={env}", f"run_dir={work / name}", *extra]

    def images(name: str, *extra: str) -> Step:
        arguments = [f"data={work / 'cifar'}", f"run_dir={work / name}", at, *IMAGES, *extra]
        return "snn_rl.classify", arguments

    cartpole, pong = agent("cartpole", "CartPole-v1"), agent("pong", "PongNoFrameskip-v4")
    found: dict[str, list[Step]] = {
        "cartpole": [
            ("snn_rl.train", [*cartpole, at, *AGENT]),
            ("snn_rl.evaluate", [*cartpole, at, "T_start=2", "episodes=2", "threads=1"]),
            ("snn_rl.export", [*cartpole, "T_start=2", "check_frames=50", "threads=1"]),
        ]
    }
    if profile == "tiny":
        return found
    found["cartpole"] += [("snn_rl.train", [*cartpole, at, *AGENT, "exact=true"])]
    found["pong"] = [
        ("snn_rl.train", [*pong, at, *AGENT, "exact=true"]),
        ("snn_rl.evaluate", [*pong, at, "exact=true", "T_start=2", "episodes=2", "engine=event"]),
        ("snn_rl.export", [*pong, "exact=true", "T_start=2", "check_frames=50", "threads=1"]),
        ("snn_rl.play", [*pong, at, "T_start=2", "play.output=mp4", "play.max_steps=50"]),
    ]
    found["objectives"] = [
        (
            "snn_rl.train",
            [*agent("td", "CartPole-v1", at), *AGENT, "iir.objective=distill+td"],
        ),
        (
            "snn_rl.train",
            [*agent("carried", "CartPole-v1", at), *AGENT, "carry_state=true", "carry.steps=320"],
        ),
    ]
    found["images"] = [
        images("vgg6", "net=vgg6", "prune=0.5"),
        images("resnet8", "net=resnet8", "direct=true"),
    ]
    found["presets"] = [
        images("ull", "net=vgg5", "preset=ull", "T=2"),
        images(
            "poisson",
            *("net=vgg5", "pixels=symmetric", "T_start=4", "T_step=3", "iir.encoding=poisson"),
            *("iir.surrogate=stdb", "iir.window=2"),
        ),
    ]
    tests = ["tests/images/test_cuda.py", "tests/agents/test_cuda.py"]
    found["tests"] = [
        ("snn_rl.doctor", []),
        ("pytest", ["-q", "-p", "no:cacheprovider", *tests]),
    ]
    return found


def main() -> None:
    """Runs the chains and prints the result of every step."""
    out = Path(sys.argv[1])
    options = settings(
        sys.argv[2:], {"device": "cuda", "profile": "full", "jobs": "8", "limit": "120"}
    )
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        planned = chains(work, options["device"], options["profile"])
        if "images" in planned:
            synthetic_cifar(work / "cifar")

        def run_chain(name: str) -> str:
            for number, (module, arguments) in enumerate(planned[name]):
                log = out / "logs" / f"{name}{number}.log"
                result = run_module(log, float(options["limit"]), module, *arguments)
                results.append({"chain": name, **result})
                write_json(out / "smoke.json", results)
                print(f"smoke {name} {module}: exit {result['code']}, {result['seconds']} s")
            return name

        with ThreadPoolExecutor(int(options["jobs"])) as pool:
            for done in as_completed([pool.submit(run_chain, name) for name in planned]):
                done.result()
    failed = [result for result in results if result["code"] != 0]
    for result in failed:
        print(f"\nFAILED {result['command']}\n{result['tail']}")
    print(f"smoke: {len(results) - len(failed)} of {len(results)} steps passed", flush=True)


if __name__ == "__main__":
    main()
