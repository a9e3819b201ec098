"""Settings for the whole test run, and runs whose files a test writes."""

import gc
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # the first optimizer imports it, which takes seconds in every process
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from snn_rl.chain import run_directory
from snn_rl.chain.records import Invocation, write_invocations
from snn_rl.chain.stages import Stage
from snn_rl.core.conversion import quantize
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
from snn_rl.reports import figures

# One thread: sums keep their order from machine to machine, and parallel runs do not fight.
torch.set_num_threads(1)

# 72, 24 and 12 multiply-accumulates, 8 and 3 hidden neurons
TINY = NetworkSpec((1, 5, 5), (Conv(2, 3, 2), Dense(3)), 4)
# Files whose tests take longest
SLOW = ("test_train", "test_training", "test_learning", "test_classify", "test_distributed")
ULL = {"batch_norm": False, "pooling": "max", "clip": True, "pixels": "standard"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz",
        type=int,
        metavar="N",
        help="fuzz every reader of files with N random inputs, each within one second "
        "(default: 5 fixed inputs without a time limit)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Selects the inputs of the fuzz tests, which set neither max_examples nor deadline."""
    count = config.getoption("--fuzz")
    settings.register_profile(
        "fuzz",
        max_examples=count or 5,
        derandomize=not count,
        database=None,
        deadline=timedelta(seconds=1) if count else None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.load_profile("fuzz")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Starts the files with the longest tests first, so that all workers end at the same time."""
    items.sort(key=lambda item: item.path.stem not in SLOW)
    count = config.getoption("--fuzz")
    for item in items:
        if count and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.timeout(max(300, 2 * count)))


def pytest_collection_finish() -> None:
    """Excludes imported modules from garbage collections, which every stage starts."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def without_fsync() -> None:
    """Does not wait for the disk."""
    os.fsync = lambda file: None


class Process:
    """A child process that runs a function and has imported everything that the tests have.

    A command starts within milliseconds in a forked process, and within seconds in a new one.
    """

    def __init__(self, function: Callable[[], object], files: Path, cwd: Path | None):
        self._files = files / "stdout", files / "stderr"
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function, cwd)

    def _run(self, function: Callable[[], object], cwd: Path | None) -> None:
        code: object = 1
        try:
            sys.stdout, sys.stderr = (open(file, "w", buffering=1) for file in self._files)  # noqa: SIM115
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stderr.fileno(), 2)
            os.chdir(cwd or self._files[0].parent)
            function()
            code = 0
        except SystemExit as stop:
            code = 0 if stop.code is None else stop.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Waits for the end. The return code is negative after a signal, as in `subprocess`."""
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        code = os.waitstatus_to_exitcode(self._status)
        out, err = (file.read_text() if file.exists() else "" for file in self._files)
        return subprocess.CompletedProcess([], code, out, err)


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Process]:
    """Function (function, cwd) that starts a `Process`."""

    def start(function: Callable[[], object], cwd: Path | None = None) -> Process:
        return Process(function, tmp_path_factory.mktemp("process"), cwd)

    return start


@pytest.fixture(scope="session")
def fork_killed_at(fork: Callable[..., Process]) -> Callable[..., None]:
    """Runs a function in a `Process` that is killed with SIGKILL at the n-th file it replaces.

    The moment is "half", when half of the temporary file is written, "before", when all of it is
    written, or "after", just after the renaming.
    """

    def run(moment: str, count: int, function: Callable[[], object]) -> None:
        replace, left = os.replace, count

        def killing(source: Path, target: Path) -> None:
            nonlocal left
            left -= 1
            if left == 0 and moment == "half":
                os.truncate(source, os.path.getsize(source) // 2)
            if left == 0 and moment != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def main() -> None:
            os.replace = killing  # type: ignore[assignment]
            function()

        assert fork(main).wait().returncode == -signal.SIGKILL

    return run


@pytest.fixture(scope="session")
def command(fork: Callable[..., Process]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Function (module, *arguments, cwd, env) that runs `python -m <module>` in a `Process`."""

    def run(
        module: str, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        def main() -> None:
            sys.argv = [module, *arguments]
            sys.path.insert(0, os.getcwd())
            os.environ.update(env or {})
            # the module may have been imported by other tests
            warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
            runpy.run_module(module, run_name="__main__", alter_sys=True)

        return fork(main, cwd).wait()

    return run


@pytest.fixture(scope="session")
def grid_network() -> Callable[..., SpikingNetwork]:
    """Builds a random network on the grid with thresholds on both sides of its biases."""

    def build(spec: NetworkSpec, bits: int = 12) -> SpikingNetwork:
        torch.manual_seed(0)
        network = SpikingNetwork(spec, SpikingOptions(1))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(3)
            for neuron in network.neurons:
                neuron.v_threshold.fill_(0.2)
        return quantize(network, bits, bits)

    return build


@pytest.fixture(scope="session")
def changing_images() -> Callable[[tuple[int, ...], int], Iterator[NDArray[np.uint8]]]:
    """Draws images that differ from the previous one in a few pixels, sometimes in all."""

    def draw(shape: tuple[int, ...], count: int) -> Iterator[NDArray[np.uint8]]:
        rng = np.random.default_rng(0)
        image = np.zeros(shape, np.uint8)
        for i in range(count):
            image = image.copy()
            few = rng.random(shape) < (1.0 if i % 7 == 3 else 0.05)
            image[few] = rng.integers(0, 256, few.sum())
            yield image

    return draw


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Omits the figures of reports, which take longer than a shrunken training."""
    monkeypatch.setattr(figures, "save", lambda figure, path: None)


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
