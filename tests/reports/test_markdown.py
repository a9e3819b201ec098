"""Markdown of values that may come from any file."""

import re

import pytest

from snn_rl.reports.markdown import Markdown, block, code, escape, link, table

EVIL = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "[x]: javascript:alert(1)",
    "`code` and ``code``",
    "two | cells",
    r"a \| b",
    "# one\n## two\n\n<img src=x>",
    "red \x1b[31m",
]


@pytest.mark.parametrize("text", EVIL)
def test_values_are_plain_text_on_one_line(text: str) -> None:
    shown = escape(text)
    assert not re.search(r"[<`|\n\x1b]|\]\(|\]:", shown)
    assert escape(shown) == shown
    assert escape(42) == "42" and escape("20.1 ± 1.2 [19.0, 21.3]") == "20.1 ± 1.2 [19.0, 21.3]"


@pytest.mark.parametrize("text", EVIL)
def test_cells_keep_their_row_and_column(text: str) -> None:
    lines = table(["name", text], [[text, 1], [code(text), Markdown("**2**")]], names=2).split("\n")
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3] * 4
    assert "<" not in re.sub(r"`[^`]*`", "", "".join(lines)) and "**2**" in lines[-1]


@pytest.mark.parametrize("text", [*EVIL, "```\n<script>", "~~~"])
def test_blocks_end_after_their_text(text: str) -> None:
    first, *lines, last = block("text", text).split("\n")
    assert first == f"{last}text" and len(lines) == len(text.split("\n"))
    assert all(last not in line for line in lines) and "\x1b" not in "".join(lines)


def test_links_lead_to_files_only() -> None:
    assert link("T1", "T1/video 1.mp4") == "[T1](T1/video%201.mp4)"
    assert link("x](javascript:1)", "javascript:alert(1)").endswith("](javascript%3Aalert%281%29)")
    assert link("x](javascript:1)", "a").count("](") == 1
