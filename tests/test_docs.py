"""What the documentation says, held against the code. That it builds is a step of .ci/run."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from snn_rl.configs.compose import keys
from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# key=value behind a command, in code
COMMAND = re.compile(r"(?:python|torchrun[^\n`]*?) -m snn_rl\.(\w+)((?:[^\n`#]|\\\n)*)")
SETTING = re.compile(r"(?<![\w./{$])([A-Za-z_][\w.]*)=")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_reference_has_every_setting_once(hooks: ModuleType) -> None:
    agents, images = hooks.reference().split("## Image classification")
    for text, schema in ((agents, Config), (images, ClassifyConfig)):
        names = re.findall(r"^\| `([\w.]+)` \| `", text, re.MULTILINE)
        assert sorted(names) == sorted(keys(schema))


def test_the_configuration_reference_has_defaults_comments_and_presets(hooks: ModuleType) -> None:
    text = hooks.reference()
    assert f"| `iir.percentile` | `float` | `{Config().iir.percentile}` |" in text
    assert "| `preset` | `str` | `'default'` | default \\| paper |" in text
    # a comment above, a type with a bar, a list, and a default over the base class's
    assert re.search(r"`dqn.selection_games` \| `int` \| `0` \| Checkpoints play as many", text)
    assert "| `run_dir` | `str \\| None` | `None` |" in text
    assert "| `fit.milestones` | `list[float]` | `[0.45, 0.7, 0.9]` |" in text
    assert f"| `iir.lr` | `float` | `{ClassifyConfig().iir.lr}` |" in text
    presets = {path.stem for path in (ROOT / "snn_rl/configs/settings").glob("*.yaml")}
    assert set(re.findall(r"^### (\S+)\n\n```yaml", text, re.MULTILINE)) == presets


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_have_settings_that_there_are(page: Path) -> None:
    known = {"classify": set(keys(ClassifyConfig))}
    hydra = re.compile(r"hydra[./]")
    for command, arguments in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / f"snn_rl/{command}.py").exists() or (ROOT / f"snn_rl/{command}").is_dir()
        names = {name for name in SETTING.findall(arguments) if not hydra.match(name)}
        assert names <= known.get(command, set(keys(Config))), command


def test_the_layout_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    layout = readme.split("\n## Layout\n")[1].split("\n## ")[0]
    package = ROOT / "snn_rl"
    # the names are six blanks deep, and what they are stands in a column of its own
    columns = [line[6:45] for line in layout.splitlines() if line[:6].isspace()]
    named = set(re.findall(r"\w+", " ".join(columns)))
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    folders = {"configs", "zoo"}
    assert modules | folders == named
