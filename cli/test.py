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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: all are pytest's."""
    parser.add_argument("arguments", nargs="*")


def to_pytest(arguments: Sequence[str]) -> list[str]:
    """What pytest is told: what is given comes last, and so wins."""
    without = any(argument.endswith("no:xdist") for argument in arguments)
    return [*(() if without else _PARALLEL), *arguments]


def keep_bytecode(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with bytecode kept in the environment's folder if not beside the sources.

    The tests start hundreds of processes, and each would compile all that it imports.
    """
    kept = dict(environment)
    if kept.pop("PYTHONDONTWRITEBYTECODE", ""):
        kept["PYTHONPYCACHEPREFIX"] = str(Path(sys.prefix, "pycache"))
    return kept


async def main(args: argparse.Namespace) -> int:
    """Become pytest."""
    os.chdir(ROOT)
    command = [sys.executable, "-m", "pytest", *to_pytest(args.arguments)]
    os.execve(sys.executable, command, keep_bytecode(os.environ))  # noqa: S606
