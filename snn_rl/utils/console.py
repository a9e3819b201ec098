"""Console output."""

import io
import sys
from types import TracebackType


def replace_unprintable() -> None:
    """Makes stdout print "?" for characters that its encoding lacks, instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def starts_own_module() -> bool:
    """Returns True if `python -m snn_rl.COMMAND` imports the package before it runs the module."""
    # the name of the module precedes the arguments, also if it is written as -mNAME
    return sys.argv[:1] == ["-m"] and (
        sys.orig_argv[-len(sys.argv)].removeprefix("-m").split(".")[0] == "snn_rl"
    )


def end_quietly_on_interrupt() -> None:
    """Makes Ctrl-C end this process with one line instead of a traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print("\ninterrupted", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook
