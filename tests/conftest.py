"""Settings for the whole test run, and runs whose files a test writes."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from snn_rl.chain import run_directory
from snn_rl.chain.records import Invocation, write_invocations
from snn_rl.chain.stages import Stage
from snn_rl.core.networks import (
    AnalogNetwork,
    Conv,
    Dense,
    NetworkSpec,
    SpikingNetwork,
    SpikingOptions,
)
from snn_rl.files.atomic import write_json
from snn_rl.files.checkpoint import save_network

# One thread: sums keep their order from machine to machine, and parallel runs do not fight.
torch.set_num_threads(1)

# 72, 24 and 12 multiply-accumulates, 8 and 3 hidden neurons
TINY = NetworkSpec((1, 5, 5), (Conv(2, 3, 2), Dense(3)), 4)
ULL = {"batch_norm": False, "pooling": "max", "clip": True, "pixels": "standard"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz",
        type=int,
        metavar="N",
        help="fuzz every reader of files with N random inputs, each within one second "
        "(default: 10 fixed inputs without a time limit)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Selects the inputs of the fuzz tests, which set neither max_examples nor deadline."""
    count = config.getoption("--fuzz")
    settings.register_profile(
        "fuzz",
        max_examples=count or 10,
        derandomize=not count,
        database=None,
        deadline=timedelta(seconds=1) if count else None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.load_profile("fuzz")


@pytest.fixture
def image_stage(tmp_path: Path) -> Callable[..., str]:
    """Writes a scored stage of a classification run below `tmp_path`, with made-up numbers."""

    def write(
        run: str,
        name: str,
        rates: tuple[float, float] = (0.5, 0.25),
        metrics: dict[str, Any] | None = None,
        notes: dict[str, Any] | None = None,
        command: str = "python -m snn_rl.classify dataset=cifar10 net=vgg5 limit=500",
        time: str = "2026-01-01",
        **settings: Any,
    ) -> str:
        directory = tmp_path / run
        seed = int(run.rpartition("seed")[2])
        whole = {"dataset": "cifar10", "net": "vgg5", "seed": seed, "limit": 500, **ULL}
        network: AnalogNetwork | SpikingNetwork = AnalogNetwork(TINY)
        if name != "ann":
            timesteps = Stage.parse(name).timesteps
            assert timesteps is not None
            network = SpikingNetwork(TINY, SpikingOptions(timesteps))
            whole |= {"T": timesteps, "source": "ann", "iir.encoding": "direct"}
            whole |= {"iir.threshold_scale": 1.0, "iir.train_threshold": True}
        run_settings = {"dataset": "cifar10", "net": "vgg5", "seed": seed}
        write_invocations(directory, [Invocation(command, "abc", time, settings=run_settings)])
        write_json(directory / name / "settings.json", {**whole, **settings})
        scored = {"accuracy": 0.5, "images": 200, "spike_rates": rates, **(metrics or {})}
        write_json(directory / name / "metrics.json", scored)
        file = directory / name / run_directory.NETWORK
        own = {"dataset": "cifar10", "net": "vgg5", "stage": name, "seed": seed, "epochs": 1}
        save_network(file, network, {**own, **(notes or {})})
        return run_directory.file_hash(str(file))

    return write
