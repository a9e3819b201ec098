"""MkDocs: the configuration reference, written from the schemas and the presets."""

import ast
import tokenize
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = "configuration.md"
SCHEMAS = (
    (
        "Agents",
        "snn_rl/configs/compose.py",
        "Config",
        "`python -m snn_rl.train` and the other commands",
    ),
    (
        "Image classification",
        "snn_rl/configs/image_schema.py",
        "ClassifyConfig",
        "`python -m snn_rl.classify`",
    ),
)
INTRODUCTION = """# Configuration

Settings are `key=value` on the command line, in any order; those of a section have a dot, as in
`iir.steps=3000`. A value comes from the schema, then from the presets of the game or data set, then
from the command line, the last one winning. This page is written from the schemas in the code.
`--help` of a command names the settings that matter first.
"""


def on_files(files: Any, config: Any) -> Any:
    """Adds the page to those that are built."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=reference()))
    return files


def reference() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for title, path, name, commands in SCHEMAS:
        parts += [f"## {title}", f"Of {commands}."]
        parts += _sections(ROOT / path, name)
    parts += ["## Presets", "Applied in this order: the family, the exact id, `preset=`."]
    for path in sorted((ROOT / "snn_rl/configs/settings").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if line != "# @package _global_")
        parts.append(f"### {path.stem}\n\n```yaml\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def _sections(path: Path, root: str) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        comments = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
    parts, sections = [], []
    for title, node, prefix in [("", classes[root], ""), *_nested(classes, root)]:
        about = (ast.get_docstring(node) or "").split("\n\nArgs:")[0]
        rows = [
            f"| `{prefix}{name}` | `{kind}` | `{default}` | {comment} |"
            for name, kind, default, comment in _fields(node, classes, comments)
        ]
        head = "| setting | type | default | |\n| --- | --- | --- | --- |"
        sections = [f"### {title}"] if title else []
        parts += [*sections, about, "\n".join([head, *rows])]
    return parts


def _nested(classes: dict[str, ast.ClassDef], root: str) -> list[tuple[str, ast.ClassDef, str]]:
    found = []
    for node in classes[root].body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) in classes:
            name = ast.unparse(node.target)
            found.append((name, classes[ast.unparse(node.annotation)], f"{name}."))
    return found


def _fields(
    node: ast.ClassDef,
    classes: dict[str, ast.ClassDef],
    comments: dict[int, tokenize.TokenInfo],
) -> list[tuple[str, str, str, str]]:
    """(name, type, default, comment) of the plain settings, those of base classes first."""
    fields = {}
    for base in node.bases:
        for field in _fields(classes[ast.unparse(base)], classes, comments):
            fields[field[0]] = field
    for entry in node.body:
        if not isinstance(entry, ast.AnnAssign) or ast.unparse(entry.annotation) in classes:
            continue
        assert entry.value is not None
        name, kind = ast.unparse(entry.target), ast.unparse(entry.annotation)
        default = ast.unparse(entry.value)
        if isinstance(entry.value, ast.Call):  # field(default_factory=lambda: [...])
            factory = entry.value.keywords[0].value
            assert isinstance(factory, ast.Lambda)
            default = ast.unparse(factory.body)
        text = _comment(entry, comments) or (fields[name][3] if name in fields else "")
        fields[name] = (name, kind.replace("|", "\\|"), default, text.replace("|", "\\|"))
    return list(fields.values())


def _comment(entry: ast.AnnAssign, comments: dict[int, tokenize.TokenInfo]) -> str:
    """What stands behind a setting, or in lines of its own above it."""
    words = []
    line = entry.lineno - 1
    while line in comments and not comments[line].line.split("#")[0].strip():
        words.insert(0, comments[line].string)
        line -= 1
    if entry.end_lineno in comments:
        words.append(comments[entry.end_lineno].string)
    return " ".join(word.lstrip("# ").strip() for word in words)
