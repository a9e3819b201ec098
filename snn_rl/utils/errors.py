"""Errors that the user can correct."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct.

    The commands print its message as one line and exit with code 2. Every other exception is a
    bug and keeps its traceback.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the hint "; did you mean ...?" with the closest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
