"""MkDocs hook: the configuration page, generated from the schemas and the presets."""

from pathlib import Path
from typing import Any

from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.configs.setting import Section, sections

PRESETS = Path(__file__).parents[1] / "snn_rl/configs/settings"
INTRODUCTION = """# Configuration

Settings are given as `key=value` on the command line, in any order. Settings of a section contain a
dot, as in `iir.steps=3000`. The presets of the environment or dataset override the defaults below,
and the command line overrides the presets. `--help` of a command lists its main settings.
"""


def on_files(files: Any, config: Any) -> Any:
    """Adds the configuration page to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "configuration.md", content=reference()))
    return files


def reference() -> str:
    """Returns the configuration page."""
    parts = [INTRODUCTION]
    for title, schema in (("Agents", Config), ("Image classification", ClassifyConfig)):
        parts += [f"## {title}", *(_table(section) for section in sections(schema))]
    order = "the family, the exact id, `teacher=state`, `preset=`"
    parts += ["## Presets", f"Applied in this order: {order}."]
    parts.append("A preset with `extends` starts from the settings of the preset named there.")
    for path in sorted(PRESETS.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        parts.append(f"### {path.stem}\n\n```yaml\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _table(section: Section) -> str:
    lines = [f"### {section.name}\n"] if section.name else []
    lines += [f"{section.description}\n", "| setting | type | default | allowed | |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for each in section.settings:
        kind = each.type.__name__ if type(each.type) is type else str(each.type)
        kind, about = kind.replace("|", "\\|"), each.description.replace("<", "&lt;")
        row = (f"`{each.name}`", f"`{kind}`", f"`{each.default!r}`", each.allowed)
        lines.append(f"| {' | '.join(row)} | {about} |")
    return "\n".join(lines)
