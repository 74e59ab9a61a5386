"""`jan test`: the tests, with pytest's own arguments."""

import argparse
import os
import sys

from cli.state import ROOT

HELP = "run the tests; the arguments are pytest's"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: all are pytest's."""
    parser.add_argument("arguments", nargs="*")


async def main(args: argparse.Namespace) -> int:
    """Become pytest."""
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *args.arguments])  # noqa: S606
