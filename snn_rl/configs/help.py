"""Help texts, generated from the schemas."""

from collections.abc import Collection
from textwrap import wrap
from typing import Any

from snn_rl.configs.setting import Setting, belongs, sections

_WIDTH, _COLUMN = 80, 28


def help_text(schema: type[Any], doc: str, names: Collection[str] = ()) -> str:
    """Returns the output of `--help`, at most 80 characters wide.

    Lists all settings, or only those of the named settings and sections.
    """
    lines = [doc.strip(), "", "Settings (key=value, in any order) and their defaults:"]
    for section in sections(schema):
        listed = [each for each in section.settings if not names or belongs(each.name, names)]
        if listed and section.name:
            about = section.description.split("\n\n")[0]
            lines += ["", *wrap(f"{section.name}: {about}", _WIDTH)]
        lines += [line for each in listed for line in _lines(each)]
    return "\n".join(lines)


def _lines(each: Setting) -> list[str]:
    key = f"  {each.name}={on_command_line(each.default)}"
    words = each.description + (f" One of {', '.join(each.choices)}." if each.choices else "")
    about = wrap(words, _WIDTH - _COLUMN, break_on_hyphens=False)
    if len(key) < _COLUMN:
        return [f"{key:{_COLUMN}}{about[0]}", *(" " * _COLUMN + line for line in about[1:])]
    return [key, *(" " * _COLUMN + line for line in about)]


def on_command_line(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")
