"""`jan test`: the tests, with pytest's own arguments."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.state import ROOT

HELP = "run the tests; the arguments are pytest's"

# Several processes, where that pays: tests/conftest.py says how many, and in what order. The tests
# of a file stay together, as they share servers.
_PARALLEL = ("-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: all are pytest's."""
    parser.add_argument("arguments", nargs="*")


def to_pytest(arguments: Sequence[str]) -> list[str]:
    """What pytest is told: what is given comes last, and so wins."""
    without = any(argument.endswith("no:xdist") for argument in arguments)
    return [*(() if without else _PARALLEL), *arguments]


def environment() -> Mapping[str, str]:
    """This process's environment, in which bytecode is kept, if not beside the sources.

    The tests start hundreds of processes, and each would compile all that it imports.
    """
    if not sys.dont_write_bytecode:
        return os.environ
    kept = {name: value for name, value in os.environ.items() if name != _NO_BYTECODE}
    return kept | {"PYTHONPYCACHEPREFIX": str(Path(sys.prefix, "pycache"))}


async def main(args: argparse.Namespace) -> int:
    """Become pytest."""
    os.chdir(ROOT)
    command = [sys.executable, "-m", "pytest", *to_pytest(args.arguments)]
    os.execve(sys.executable, command, environment())  # noqa: S606
