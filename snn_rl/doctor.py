"""Look at this machine: what snn_rl finds here, and what will not work because of it.

    python -m snn_rl.doctor
    python -m snn_rl.doctor --runs /data/runs

Prints a line each for the packages, the processor and the GPU, bfloat16, the Atari ROMs, the
renderer, the optional extras, the free disk space and the folder of the runs; below a line that is
not all right, what does not work and what to do. Exits with 0 if agents can be trained here, with 1
if not.
"""

import argparse
import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from snn_rl import __version__
from snn_rl.utils.errors import UserError

# Nothing outside the standard library is imported until it is looked at: it may be what is broken.

# The modules that training needs, by the packages that bring them.
REQUIRED = {
    "torch": "torch",
    "numpy": "numpy",
    "stable-baselines3": "stable_baselines3",
    "gymnasium": "gymnasium",
    "ale-py": "ale_py",
    "opencv-python": "cv2",
    "hydra-core": "hydra",
    "omegaconf": "omegaconf",
    "matplotlib": "matplotlib",
    "pillow": "PIL",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
}
# Of every extra: its modules, and what needs them.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "fast": (("numba",), "spiking layers run uncompiled: slower at T > 1, with the same spikes"),
    "export": (("onnx", "onnxruntime"), "no snn_rl.export format=onnx"),
    "interop": (("nir", "nirtorch", "snntorch"), "no snn_rl.export format=nir"),
    "parquet": (("pyarrow",), "no ImageNet from parquet files in snn_rl.classify"),
    "sweep": (
        ("hydra_plugins.hydra_joblib_launcher",),
        "-m runs a sweep one run at a time: no hydra/launcher=joblib",
    ),
    "slurm": (
        ("hydra_plugins.hydra_submitit_launcher",),
        "no sweeps on a cluster: no hydra/launcher=submitit_slurm",
    ),
    "docs": (("mkdocs", "material", "mkdocstrings"), "the documentation cannot be built here"),
}
# What a whole run of Pong leaves is about a quarter of it; downloads and wheels want room too.
ENOUGH_DISK = 1e9
_REINSTALL = "pip install -c constraints.txt -e . in the checkout installs what was tested"


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing.

    Attributes:
        name: Of the thing.
        found: What is there.
        trouble: What does not work because of it, and what to do; None if all is right.
        fatal: Whether the trouble keeps agents from being trained.
    """

    name: str
    found: str
    trouble: str | None = None
    fatal: bool = False

    def __str__(self) -> str:
        mark = "FAIL" if self.fatal else "ok" if self.trouble is None else "note"
        line = f"{mark:<5} {self.name:<14} {self.found}"
        return line if self.trouble is None else f"{line}\n{'':<21}-> {self.trouble}"


def python() -> Finding:
    """The interpreter, and this package."""
    found = f"{platform.python_version()}, snn_rl {__version__}, {platform.platform()}"
    return Finding("Python", found)


def packages() -> Iterator[Finding]:
    """Everything that training imports: versions, and what does not load."""
    loaded, broken = [], []
    for package, module in REQUIRED.items():
        try:
            importlib.import_module(module)
            loaded.append(f"{package} {_version(package)}")
        except Exception as error:  # a package that is half installed raises anything
            broken.append(_unloaded(package, error))
    yield Finding("packages", ", ".join(loaded) or "none")
    yield from broken


def _unloaded(package: str, error: Exception) -> Finding:
    advice = f"nothing can be trained; {_REINSTALL}"
    if package == "opencv-python":
        advice = (
            "nothing can be trained; on a machine without libGL: pip uninstall opencv-python && "
            "pip install opencv-python-headless"
        )
    reason = " ".join(str(error).split())
    return Finding(package, f"does not load: {reason or type(error).__name__}", advice, fatal=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # installed under another name, as opencv-python-headless
        return "(no metadata)"


def processor() -> Finding:
    """Cores and memory."""
    import torch

    # not every system can say how many of its cores this process may use
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = torch.get_num_threads()
    return Finding(
        "processor", f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, {threads} threads"
    )


def gpu() -> Finding:
    """The GPU, if there is one that this build of torch can use."""
    import torch

    if not torch.cuda.is_available():
        build = torch.version.cuda
        reason = "this torch is for the processor alone" if build is None else f"CUDA {build}"
        return Finding("GPU", f"none ({reason})", "all runs on the processor; nothing to do")
    name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] / 2**30
    return Finding("GPU", f"{name}, {memory:.0f} GiB, CUDA {torch.version.cuda}")


def bfloat16() -> Finding:
    """Whether training takes bfloat16 by itself."""
    from snn_rl.utils.device import uses_bf16

    if uses_bf16("auto", "auto"):
        return Finding("bfloat16", "used in training (precision=auto)")
    return Finding(
        "bfloat16",
        "not used",
        "training is slower, in float32: the processor has no avx512_bf16; nothing to do",
    )


def roms() -> Finding:
    """Whether an Atari game starts."""
    import numpy as np

    from snn_rl.envs import ATARI_IDS, make_env

    env = make_env("PongNoFrameskip-v4")
    shape = np.shape(env.reset())[1:]  # type: ignore[arg-type]
    env.close()
    return Finding("Atari ROMs", f"{len(ATARI_IDS)} games; Pong starts, with images {shape}")


def renderer() -> Finding:
    """Whether games can be drawn, and shown in a window."""
    from snn_rl.envs import make_env
    from snn_rl.reports.video import has_display

    env = make_env("CartPole-v1")
    env.reset()
    picture = env.render()
    env.close()
    assert picture is not None
    found = f"draws {picture.shape[1]}x{picture.shape[0]} pictures"
    if has_display():
        return Finding("renderer", f"{found}, and opens windows")
    return Finding(
        "renderer",
        f"{found}, no window",
        "snn_rl.play writes play.mp4 in place of a window; play.output=gif writes a gif",
    )


def extras() -> Iterator[Finding]:
    """The optional packages."""
    for extra, (modules, missing) in EXTRAS.items():
        lacking = [module for module in modules if not _is_there(module)]
        present = [module for module in modules if module not in lacking]
        found = ", ".join([*present, *(f"no {module}" for module in lacking)])
        trouble = f"{missing}; pip install 'snn_rl[{extra}]'" if lacking else None
        yield Finding(f"[{extra}]", found, trouble)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def disk(folder: Path) -> Finding:
    """Free space where the runs go."""
    free = shutil.disk_usage(_existing(folder)).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    if free < ENOUGH_DISK:
        advice = f"a run may end with a full disk below {ENOUGH_DISK / 1e9:.0f} GB; runs=PATH"
        return Finding("disk", found, f"{advice} puts them elsewhere")
    return Finding("disk", found)


def run_folder(folder: Path) -> Finding:
    """Whether runs can be written; leaves nothing there."""
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        advice = "nothing can be trained into it; runs=PATH puts runs elsewhere"
        return Finding("run folder", f"{folder}: {error.strerror}", advice, fatal=True)
    return Finding("run folder", f"{folder} can be written")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _attempt(check: Callable[[], Finding], name: str) -> Finding:
    """The finding, or that the check itself failed: a broken part must not hide the others."""
    try:
        return check()
    except Exception as error:  # whatever a broken installation raises
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        found = f"does not work: {' '.join(text.split())}"
        return Finding(name, found, f"nothing can be trained; {_REINSTALL}", fatal=True)


def examine(folder: Path) -> Iterator[Finding]:
    """Everything that is looked at, in order.

    Args:
        folder: Of the runs; it need not be there.
    """
    yield python()
    yield from packages()
    for check, name in (
        *((processor, "processor"), (gpu, "GPU"), (bfloat16, "bfloat16")),
        *((roms, "Atari ROMs"), (renderer, "renderer")),
    ):
        yield _attempt(check, name)
    yield from extras()
    yield disk(folder)
    yield run_folder(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints all findings; the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m snn_rl.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of all runs")
    fatal = 0
    for finding in examine(parser.parse_args(arguments).runs):
        print(finding)
        fatal += finding.fatal
    print(
        f"\n{fatal} thing{'s' * (fatal > 1)} to put right before agents can be trained"
        if fatal
        else "\nagents can be trained here"
    )
    return 1 if fatal else 0


if __name__ == "__main__":
    sys.exit(main())
