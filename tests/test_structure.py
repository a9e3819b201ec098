"""The structure of the package: imports, entries at its top level, and numbers of parameters."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from snn_rl.__main__ import COMMANDS

PACKAGE = Path(__file__).parents[1] / "snn_rl"
# Stable-Baselines3 prescribes the parameters of the two constructors.
MANY_PARAMETERS = {
    "agents.dqn.SpikingDQN.__init__",
    "agents.replay.buffer.FrameReplayBuffer.__init__",
    "images.fitting.fit",
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("snn_rl", cache_dir=None)


def importers(graph: grimp.ImportGraph, package: str) -> set[str]:
    """Returns the modules outside a package that import from it."""
    inside = {package, *graph.find_descendants(package)}
    found = {each for module in inside for each in graph.find_modules_that_directly_import(module)}
    return found - inside


def test_there_is_no_import_cycle(graph: grimp.ImportGraph) -> None:
    imports = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError


@pytest.mark.parametrize("command", COMMANDS)
def test_no_module_imports_a_command(graph: grimp.ImportGraph, command: str) -> None:
    assert importers(graph, f"snn_rl.{command}") == set()


def test_only_report_imports_the_papers(graph: grimp.ImportGraph) -> None:
    assert importers(graph, "snn_rl.papers") == {"snn_rl.report"}


@pytest.mark.parametrize(
    ("packages", "absent"),
    [
        (["chain", "core"], {"matplotlib", "stable_baselines3", "gymnasium", "hydra", "cv2"}),
        (["event"], {"matplotlib", "stable_baselines3", "gymnasium", "hydra", "torch"}),
    ],
)
def test_packages_run_without_other_libraries(
    graph: grimp.ImportGraph, packages: list[str], absent: set[str]
) -> None:
    roots = {f"snn_rl.{package}" for package in packages}
    modules = sorted(roots.union(*(graph.find_descendants(root) for root in roots)))
    code = f"import sys, {', '.join(modules)}; print(*{absent} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_has_few_entries_at_its_top_level() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert set(COMMANDS) < entries
    assert len(entries - {*COMMANDS, "__init__", "__main__"}) <= 15


def parameters(function: ast.FunctionDef) -> int:
    """Returns the number of named parameters without self and cls."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([each for each in named if each.arg not in ("self", "cls")])


def test_no_function_has_more_than_seven_parameters() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for scope in ast.walk(tree):
            prefix = f"{scope.name}." if isinstance(scope, ast.ClassDef) else ""
            for node in ast.iter_child_nodes(scope):
                if isinstance(node, ast.FunctionDef) and parameters(node) > 7:
                    found.add(f"{module}.{prefix}{node.name}")
    assert found <= MANY_PARAMETERS
