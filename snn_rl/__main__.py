"""The `snn-rl` command: `snn-rl train T=1` is the same as `python -m snn_rl.train T=1`."""

import ast
import os
import runpy
import sys
from importlib import resources

from snn_rl import __version__
from snn_rl.utils.console import end_quietly_on_interrupt

COMMANDS = ("train", "evaluate", "play", "export", "report", "publish", "classify", "doctor")


def overview() -> str:
    """Returns the list of commands, one line each."""
    lines = []
    for command in COMMANDS:
        # The summary is read from the source because importing a command would load PyTorch.
        source = resources.files("snn_rl").joinpath(f"{command}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        lines.append(f"  {command:<10}{summary}")
    return "\n".join(
        [
            "usage: snn-rl COMMAND [KEY=VALUE ...]",
            "",
            *lines,
            "",
            "`snn-rl COMMAND --help` describes a command. `snn-rl --version` prints the version.",
        ]
    )


def main() -> None:
    """Runs the command given on the command line."""
    end_quietly_on_interrupt()
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(overview())
    elif command == "--version":
        print(f"snn_rl {__version__}")
    elif command in COMMANDS:
        if os.getcwd() not in sys.path:  # like `python -m`, for user modules
            sys.path.insert(0, os.getcwd())
        sys.argv = [command, *arguments]
        runpy.run_module(f"snn_rl.{command}", run_name="__main__", alter_sys=True)
    else:
        known = ", ".join(COMMANDS)
        print(f"error: unknown command {command}: must be one of {known}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
