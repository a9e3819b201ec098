"""Errors that the user can correct."""

import difflib
from collections.abc import Iterable


def printable(text: object) -> str:
    """Returns a text with escape sequences in place of control characters."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return "".join(shown)


def one_line(text: object, limit: int = 2_000) -> str:
    """Returns text from any source as one line that is safe to print.

    White space becomes single spaces, other control characters are replaced by escape sequences,
    and the middle of a text of more than `limit` characters is left out.
    """
    line = str(text)
    if len(line) > limit:
        line = f"{line[: 3 * limit // 4]} ... {line[-limit // 4 :]}"
    return printable(" ".join(line.split()))


class UserError(Exception):
    """An error that the user can correct.

    The commands print its message as one line and exit with code 2. Every other exception is a
    bug and keeps its traceback.
    """

    def __init__(self, message: object):
        super().__init__(one_line(message))


class DamagedFile(UserError):
    """A file that is missing or whose content is damaged, so that reading it again would fail."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the hint "; did you mean ...?" with the closest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
