"""The wheel outside the checkout, the links at the top level, and the versions."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import snn_rl

ROOT = Path(__file__).parents[1]
# One file of each kind in the folder of a published agent
PLANTED = {
    f"snn_rl/zoo/SomeGame-v4/{name}"
    for name in ("MODEL_CARD.md", "play.gif", "run.json", "T1/network.safetensors", "T1/game.json")
}


def run(*command: str, cwd: Path, **env: str) -> str:
    """Returns the standard output of a command and checks its exit code."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds a wheel of the sources, including uncommitted ones, outside the checkout."""
    source = tmp_path_factory.mktemp("source")
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        original, copy = ROOT / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_symlink():
            copy.symlink_to(original.readlink())
        elif original.is_file():  # a file deleted but not yet committed is still listed
            copy.write_bytes(original.read_bytes())
    for name in PLANTED:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    target = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "--no-index", "-w", str(target), str(source), cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_only_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    metadata = f"snn_rl-{snn_rl.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"snn_rl", metadata}
    assert f"{metadata}/licenses/LICENSE" in names
    package = {name for name in names if name.startswith("snn_rl/")}
    sources = [ROOT / "snn_rl" / name for name in ("py.typed", "__init__.pyi")]
    sources += [path for kind in ("*.csv", "*.c") for path in (ROOT / "snn_rl").rglob(kind)]
    sources += [*(ROOT / "snn_rl").rglob("*.py"), *(ROOT / "snn_rl").rglob("*.yaml")]
    sources += [path for path in (ROOT / "snn_rl" / "zoo").glob("*/**/*") if path.is_file()]
    shipped = {path.relative_to(ROOT).as_posix() for path in sources} | PLANTED
    assert package == {name for name in shipped if "__pycache__" not in name}


def test_the_wheel_works_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "import runpy, sys, snn_rl\n"
        "print(snn_rl.__file__)\n"
        "from snn_rl import zoo\n"
        "print((zoo.ROOT / 'SomeGame-v4/MODEL_CARD.md').read_text())\n"
        "from snn_rl.configs.compose import compose\n"
        "from snn_rl.configs.schema import Config\n"
        "settings = compose(Config, ['env=CartPole-v1', 'T=2'])\n"
        "print(settings.env, settings.T, settings.network)\n"
        "sys.argv = ['train', '--help']\n"
        "runpy.run_module('snn_rl.train', run_name='__main__')\n"
    )
    shown = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(unpacked))
    origin, card, composed, help_text = shown.split("\n", 3)
    assert Path(origin).is_relative_to(unpacked)
    assert card == "snn_rl/zoo/SomeGame-v4/MODEL_CARD.md"
    # The preset of the family sets the network.
    assert composed.split() == ["CartPole-v1", "2", "cartpole"]
    assert "python -m snn_rl.train env=CartPole-v1 T=1" in help_text


@pytest.mark.parametrize("name", ["agents", "envs", "configs"])
def test_links_lead_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / "snn_rl" / name).resolve()
    tracked = run("git", "ls-files", "-s", name, cwd=ROOT)
    assert tracked.startswith("120000 ")


def test_all_files_state_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["version"] == snn_rl.__version__
    assert f"\nversion: {snn_rl.__version__}\n" in citation
    assert re.search(rf"^## \[{re.escape(snn_rl.__version__)}\]", changelog, re.MULTILINE)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for group in project["optional-dependencies"].values() for each in group]
    wanted = [*project["dependencies"], *(each for each in extras if "snn_rl[" not in each)]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    def normal(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[=<>\[]", requirement)[0]).lower()

    pinned = {normal(line) for line in pins if "==" in line}
    assert {normal(requirement) for requirement in wanted} <= pinned
