"""Pieces of Markdown, as text."""

import json
from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], names: int = 1) -> str:
    """A Markdown table; all but its first columns, the names, are set to the right."""
    marks = ["---" if i < names else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, marks, *rows))


def bullets(lines: Iterable[str]) -> str:
    """A list, one line each."""
    return "\n".join(f"- {line}" for line in lines)


def block(language: str, text: str) -> str:
    """Code that stands on lines of its own."""
    return f"```{language}\n{text}\n```"


def code(text: str) -> str:
    """Code in a table's cell, where a bar would end the cell."""
    return "`" + text.replace("|", "\\|") + "`"


def listed(items: Sequence[Any], word: str) -> str:
    """Things in a sentence: a, b or c.

    Args:
        items: At least one.
        word: In front of the last.
    """
    *before, last = map(str, items)
    return f"{', '.join(before)} {word} {last}" if before else last


def plain(value: Any) -> str:
    """A setting's value as the command line writes it."""
    return value if isinstance(value, str) else json.dumps(value)
