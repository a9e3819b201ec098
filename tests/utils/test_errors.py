"""One-line messages."""

import pickle

import pytest

from snn_rl.utils.errors import UserError, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no such file: café", "no such file: café"),
        ("two\nlines\tand  spaces ", "two lines and spaces"),
        ("red \x1b[31m\x07\x00", r"red \x1b[31m\x07\x00"),
        ("reversed \u202e, undecodable \udc80", r"reversed \u202e, undecodable \udc80"),
    ],
)
def test_messages_are_one_printable_line(text: str, line: str) -> None:
    assert str(UserError(text)) == one_line(text) == line
    assert str(pickle.loads(pickle.dumps(UserError(text)))) == line


def test_long_messages_keep_both_ends() -> None:
    line = one_line("begin" + "x" * 2**20 + "end")
    assert len(line) < 3_000 and line.startswith("begin") and line.endswith("end")
