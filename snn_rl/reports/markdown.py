"""Pieces of Markdown and CSV, as text.

Values from files (settings, commands, notes) and folder names may contain arbitrary text. `table`
escapes its cells. In other text, each value must be wrapped in `escape`, `code`, `link` or
`block`.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from snn_rl.utils.errors import one_line, printable

_LONGEST = 50_000  # characters of a value
# Characters that begin HTML, code, a cell of a table, or the target of a link
_ACTIVE = re.compile(r"[<`|]|\](?=[(\[:])")


class Markdown(str):
    """Text whose Markdown is intended, which `escape` does not change."""


def escape(value: Any) -> Markdown:
    """Returns a value as one line of plain text, with HTML, code, and links escaped."""
    if isinstance(value, Markdown):
        return value
    return Markdown(_ACTIVE.sub(lambda m: f"&#{ord(m[0])};", one_line(value, _LONGEST)))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], names: int = 1) -> str:
    """Returns a Markdown table whose columns after the first `names` are right-aligned."""
    marks = ["---" if i < names else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(escape, row))} |" for row in (head, marks, *rows))


def folded(section: Sequence[str]) -> list[str]:
    """Returns a section, which begins with its heading, as a collapsible block."""
    if not section:
        return []
    heading, *parts = section
    title = heading.lstrip("# ")
    # The attribute is for MkDocs; GitHub ignores it.
    return [
        f'<details markdown="1">\n<summary>{title}</summary>',
        *parts,
        "</details>",
    ]


def bullets(lines: Iterable[str]) -> str:
    """Returns a list with one item per line."""
    return "\n".join(f"- {line}" for line in lines)


def block(language: str, text: str) -> str:
    """Returns a code block whose fence is longer than any in the text."""
    fence = max(["``", *re.findall("`+", text)], key=len) + "`"
    lines = map(printable, text.split("\n"))
    return "\n".join([f"{fence}{language}", *lines, fence])


def code(text: str) -> Markdown:
    """Returns code, also for a table's cell; text that cannot be shown as code stays plain."""
    line = one_line(text, _LONGEST)
    if "`" in line or "\\|" in line:
        return escape(line)
    return Markdown("`" + line.replace("|", "\\|") + "`")


def link(text: str, path: str) -> Markdown:
    """Returns a link to a file, given by its relative path."""
    return Markdown(f"[{escape(text)}]({quote(path)})")


def listed(items: Sequence[Any], word: str) -> str:
    """Returns items as in a sentence: "a, b or c"."""
    *before, last = map(str, items)
    return f"{', '.join(before)} {word} {last}" if before else last


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 episode", "2 episodes"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def number(value: float | None, spec: str, missing: str = "–") -> str:
    """Returns a formatted number, or a dash if the number is missing."""
    return missing if value is None else format(value, spec)


def plain(value: Any) -> str:
    """Returns a setting's value as the command line writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def page(parts: Iterable[str]) -> str:
    """Returns the text of a page from its paragraphs; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *rows])
    return text.getvalue()
