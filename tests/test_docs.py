"""Checks the documentation against the code; `.ci/run` also builds it."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import settings_of

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "results").glob("*.md")),
]
LAUNCHER = r"(?:(?:python|torchrun[^\n`]*?) -m snn_rl\.|(?<![\w.-])snn-rl )"
COMMAND = re.compile(LAUNCHER + r"(\w+)((?:[^\n`#]|\\\n)*)")
SETTING = re.compile(r"(?<![\w./{$])([A-Za-z_][\w.]*)=")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_has_every_setting_once(hooks: ModuleType) -> None:
    agents, images = hooks.reference().split("## Image classification")
    for text, schema in ((agents, Config), (images, ClassifyConfig)):
        names = re.findall(r"^\| `([\w.]+)` \| `", text, re.MULTILINE)
        assert sorted(names) == sorted(settings_of(schema))


def test_the_configuration_page_has_defaults_descriptions_and_presets(hooks: ModuleType) -> None:
    text = hooks.reference()
    assert f"| `iir.percentile` | `float` | `{Config().iir.percentile}` | above 0 and" in text
    assert "| `rollout.frames` | `str` | `'stack'` | one of stack, difference |" in text
    assert "| `run_dir` | `str \\| None` | `None` |" in text
    assert "| `fit.milestones` | `list[float]` | `[0.45, 0.7, 0.9]` |" in text
    assert f"| `iir.lr` | `float` | `{ClassifyConfig().iir.lr}` |" in text
    for schema in (Config, ClassifyConfig):
        for each in settings_of(schema).values():
            assert each.description.replace("<", "&lt;") in text
    presets = {path.stem for path in (ROOT / "snn_rl/configs/settings").glob("*.yaml")}
    assert set(re.findall(r"^### (\S+)\n\n```yaml", text, re.MULTILINE)) == presets


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_use_existing_settings(page: Path) -> None:
    known = {"classify": set(settings_of(ClassifyConfig))}
    hydra = re.compile(r"hydra[./]")
    for command, arguments in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / f"snn_rl/{command}.py").exists(), command
        names = {name for name in SETTING.findall(arguments) if not hydra.match(name)}
        assert names <= known.get(command, set(settings_of(Config))), command


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_and_headings_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if file.name == "configuration.md":  # written by docs/hooks.py
            continue
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


def slug(heading: str) -> str:
    """Returns the anchor that GitHub and MkDocs generate for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
