"""The one exception that is meant for the person at the keyboard, and a hint for it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right.

    The commands print its message as one line and exit with code 2; every other exception
    is a bug and keeps its traceback.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint "; did you mean ...?" where a known word is close to this one, otherwise nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
