"""Check what this machine supports.

    python -m snn_rl.doctor
    python -m snn_rl.doctor --runs /data/runs

Checks the packages, the CPU and GPU, bfloat16, the Atari ROMs, the videos, the
optional extras, the free disk space, and the folder of the runs. Prints one
line per check, followed by the consequence and the remedy of each problem. The
exit code is 0 if agents can be trained on this machine and 1 otherwise.
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
from textwrap import TextWrapper

from snn_rl import __version__
from snn_rl.utils.console import replace_unprintable
from snn_rl.utils.errors import UserError, one_line

# Everything outside the standard library is imported by its check, because it may be broken.

# Dependencies of the package, and the module of each
REQUIRED = {
    "torch": "torch",
    "numpy": "numpy",
    "gymnasium": "gymnasium",
    "av": "av",
    "omegaconf": "omegaconf",
    "matplotlib": "matplotlib",
    "stable-baselines3": "stable_baselines3",
    "ale-py": "ale_py",
    "opencv-python": "cv2",
    "hydra-core": "hydra",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard",
}
# Modules of each extra, and the consequence of their absence
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "fast": (("numba",), "spiking layers are not compiled: slower at T > 1, with the same results"),
    "export": (("onnx", "onnxruntime"), "no snn_rl.export format=onnx"),
    "interop": (("nir", "nirtorch", "snntorch"), "no snn_rl.export format=nir"),
    "hub": (("huggingface_hub",), "no agents from the Hugging Face Hub"),
    "wandb": (("wandb",), "no track=wandb"),
    "mlflow": (("mlflow",), "no track=mlflow"),
    "parquet": (("pyarrow",), "snn_rl.classify cannot read ImageNet from parquet files"),
    "sweep": (
        ("hydra_plugins.hydra_joblib_launcher",),
        "-m runs the jobs of a sweep one by one: no hydra/launcher=joblib",
    ),
    "slurm": (
        ("hydra_plugins.hydra_submitit_launcher",),
        "no sweeps on a cluster: no hydra/launcher=submitit_slurm",
    ),
    "docs": (("mkdocs", "material", "mkdocstrings"), "the documentation cannot be built"),
}
_COLORS = {"ok": 32, "note": 33, "FAIL": 31}
ENOUGH_DISK = 1e9  # bytes; a complete Pong run takes about a quarter
_REINSTALL = (
    "nothing can be trained; in the checkout, `pip install -c constraints.txt -e .` installs the "
    "tested versions"
)
_HEADLESS = (
    "nothing can be trained; on a machine without libGL: pip uninstall opencv-python && "
    "pip install opencv-python-headless"
)


@dataclass(frozen=True)
class Finding:
    """Result of one check; `trouble` is the consequence and remedy of a problem."""

    name: str
    found: str
    trouble: str | None = None
    fatal: bool = False

    def __str__(self) -> str:
        mark = "FAIL" if self.fatal else "ok" if self.trouble is None else "note"
        line = f"{mark:<5} {self.name:<14} {self.found}"
        return line if self.trouble is None else f"{line}\n{'':<21}-> {self.trouble}"


def packages() -> Iterator[Finding]:
    """Imports every required package."""
    loaded, broken = [], []
    for package, module in REQUIRED.items():
        try:
            importlib.import_module(module)
            loaded.append(f"{package} {_version(package)}")
        except Exception as error:  # a partly installed package may raise anything
            found = f"does not load: {one_line(error) or type(error).__name__}"
            advice = _HEADLESS if package == "opencv-python" else _REINSTALL
            broken.append(Finding(package, found, advice, fatal=True))
    yield Finding("packages", ", ".join(loaded) or "none")
    yield from broken


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # installed under another name, such as opencv-python-headless
        return "(no metadata)"


def cpu() -> Finding:
    """Reports the cores and the memory."""
    import torch

    # Only some systems report the cores that this process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} threads"
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        found += f", {memory:.0f} GiB"
    return Finding("CPU", found)


def gpu() -> Finding:
    """Looks for a GPU that PyTorch can use."""
    import torch

    if not torch.cuda.is_available():
        build = torch.version.cuda
        reason = "CPU build of PyTorch" if build is None else f"CUDA {build}"
        return Finding("GPU", f"none ({reason})", "everything runs on the CPU; nothing to do")
    name, memory = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1] / 2**30
    return Finding("GPU", f"{name}, {memory:.0f} GiB, CUDA {torch.version.cuda}")


def bfloat16() -> Finding:
    """Reports whether precision=auto is bfloat16."""
    from snn_rl.utils.device import uses_bf16

    if uses_bf16("auto", "auto"):
        return Finding("bfloat16", "used in training (precision=auto)")
    advice = "training uses float32, which is slower: the CPU has no AVX512-BF16; nothing to do"
    return Finding("bfloat16", "not used", advice)


def roms() -> Finding:
    """Starts an Atari game."""
    import numpy as np

    from snn_rl.envs import ATARI_IDS, make_env

    env = make_env("PongNoFrameskip-v4")
    shape = np.shape(env.reset())[1:]  # type: ignore[arg-type]
    env.close()
    return Finding("Atari ROMs", f"{len(ATARI_IDS)} games; Pong starts, with images {shape}")


def videos() -> Finding:
    """Draws and encodes an image of an environment of each kind, and looks for a display."""
    from snn_rl.envs import family, make_env
    from snn_rl.reports.video import has_display, write_mp4

    with tempfile.TemporaryDirectory() as folder:
        for env_id in ("CartPole-v1", "PongNoFrameskip-v4"):
            env = make_env(env_id)
            env.reset()
            write_mp4(
                Path(folder, "play.mp4"), [family(env_id).picture(*env.get_attr("unwrapped"))], 30
            )
            env.close()
    if has_display():
        return Finding("videos", "are written, and windows open")
    advice = "snn_rl.play writes a video instead of opening a window"
    return Finding("videos", "are written, no window", advice)


def extras() -> Iterator[Finding]:
    """Looks for the packages of every extra."""
    for extra, (modules, consequence) in EXTRAS.items():
        missing = [module for module in modules if not _is_installed(module)]
        present = [module for module in modules if module not in missing]
        found = ", ".join([*present, *(f"no {module}" for module in missing)])
        trouble = f"{consequence}; pip install 'snn_rl[{extra}]'" if missing else None
        yield Finding(f"[{extra}]", found, trouble)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def disk(folder: Path) -> Finding:
    """Checks the free disk space of the runs' folder."""
    free = shutil.disk_usage(_existing(folder)).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    if free >= ENOUGH_DISK:
        return Finding("disk", found)
    advice = f"less than {ENOUGH_DISK / 1e9:.0f} GB may not be enough for a run"
    return Finding("disk", found, f"{advice}; runs=PATH selects another folder")


def run_folder(folder: Path) -> Finding:
    """Checks that runs can be written to the folder."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        advice = "no run can be written; runs=PATH selects another folder"
        return Finding("run folder", f"{folder}: {error.strerror}", advice, fatal=True)
    return Finding("run folder", f"{folder} is writable")


def _existing(folder: Path) -> Path:
    """Returns the folder or its nearest existing parent."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _attempt(
    check: Callable[[], Finding], name: str, advice: str = _REINSTALL, fatal: bool = True
) -> Finding:
    """Runs a check whose failure is a finding, so that the remaining checks still run."""
    try:
        return check()
    except Exception as error:  # a broken installation may raise anything
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return Finding(name, f"does not work: {kind}{one_line(error)}", advice, fatal)


def examine(folder: Path) -> Iterator[Finding]:
    """Yields the findings of all checks; the folder of the runs need not exist."""
    system = f"{platform.python_version()}, snn_rl {__version__}, {platform.platform()}"
    yield Finding("Python", system)
    yield from packages()
    checks = {"CPU": cpu, "GPU": gpu, "bfloat16": bfloat16, "Atari ROMs": roms}
    for name, check in checks.items():
        yield _attempt(check, name)
    yield _attempt(videos, "videos", "train with video=false", fatal=False)
    yield from extras()
    yield disk(folder)
    yield run_folder(folder)


def show(finding: Finding) -> None:
    """Prints a finding. On a terminal, the mark is colored and lines are broken between words."""
    text = str(finding)
    if sys.stdout.isatty():
        wrapper = TextWrapper(
            shutil.get_terminal_size().columns,
            subsequent_indent=" " * 21,
            break_long_words=False,
            break_on_hyphens=False,
        )
        text = "\n".join(map(wrapper.fill, text.splitlines()))
        if "NO_COLOR" not in os.environ:
            mark = text.split()[0]
            text = text.replace(mark, f"\x1b[{_COLORS[mark]}m{mark}\x1b[0m", 1)
    print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints all findings and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m snn_rl.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--version", action="version", version=f"snn_rl {__version__}")
    replace_unprintable()
    fatal = 0
    for finding in examine(parser.parse_args(arguments).runs):
        show(finding)
        fatal += finding.fatal
    problems = f"{fatal} problem{'s' * (fatal > 1)} to fix before agents can be trained"
    print(f"\n{problems if fatal else 'agents can be trained here'}")
    return 1 if fatal else 0


if __name__ == "__main__":
    sys.exit(main())
