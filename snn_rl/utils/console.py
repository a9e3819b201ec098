"""Console output."""

import io
import sys
from types import TracebackType


def replace_unprintable() -> None:
    """Makes stdout print "?" for characters that its encoding lacks, instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def end_quietly_on_interrupt() -> None:
    """Makes Ctrl-C end this process with one line instead of a traceback."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("\ninterrupted", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
