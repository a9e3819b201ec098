"""Pieces of Markdown and CSV, as text."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], names: int = 1) -> str:
    """Returns a Markdown table whose columns behind the first `names` are aligned right."""
    marks = ["---" if i < names else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, marks, *rows))


def bullets(lines: Iterable[str]) -> str:
    """Returns a list with one item per line."""
    return "\n".join(f"- {line}" for line in lines)


def block(language: str, text: str) -> str:
    """Returns a block of code."""
    return f"```{language}\n{text}\n```"


def code(text: str) -> str:
    """Returns code in a table's cell, with its bars escaped."""
    return "`" + text.replace("|", "\\|") + "`"


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
