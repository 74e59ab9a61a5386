"""The entry of the `jan` command: finds the verb, parses its options, runs it."""

import argparse
import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn, Protocol, cast

import uvloop
from dotenv import load_dotenv

from cli.exits import Exit
from cli.logs import configure

# Imported on demand: a verb should not wait for the libraries of the others.
VERBS = (
    "up",
    "ps",
    "down",
    "doctor",
    "log",
    "replay",
    "dead",
    "export",
    "import-events",
    "keys",
    "bench",
    "test",
    "edge",
    "worker",
    "migrate",
    "rebuild",
)
INTERRUPTED = 130


class Verb(Protocol):
    """What a verb's module offers."""

    HELP: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], Awaitable[int]]


def load_verb(name: str) -> Verb:
    """Import the module of a verb."""
    return cast(Verb, importlib.import_module(f"cli.{name.replace('-', '_')}"))


def usage() -> str:
    """Say which verbs there are."""
    lines = [f"  {name:<14}{load_verb(name).HELP}" for name in VERBS]
    return "\n".join(["usage: jan VERB [OPTIONS]", "", *lines, "", "jan VERB --help says more."])


class Parser(argparse.ArgumentParser):
    """Answers a wrong command line with one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where to read more."""
        self.exit(2, f"jan: {message} ({self.prog} --help says more)\n")


def parse(verb: Verb, name: str, argv: list[str]) -> argparse.Namespace:
    """Parse a verb's own arguments; exits with 2 and one line if they are wrong."""
    parser = Parser(prog=f"jan {name}", description=verb.HELP)
    if name == "test":  # pytest parses its own
        return argparse.Namespace(arguments=argv)
    verb.add_arguments(parser)
    return parser.parse_args(argv)


def run(argv: list[str]) -> int:
    """Run one command line to its end; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    name, *rest = argv
    if name not in VERBS:
        print(f"jan: there is no verb {name!r}: jan --help lists them", file=sys.stderr)
        return 2
    load_dotenv(Path(".env"))  # children inherit it, so all processes read the same file
    verb = load_verb(name)
    args = parse(verb, name, rest)
    # The supervisor only waits; it needs the standard loop's way of starting processes.
    runner = asyncio.run if name == "up" else uvloop.run
    try:
        return cast(int, runner(verb.main(args)))  # type: ignore[arg-type]
    except Exit as exit:
        print(f"jan: {exit}", file=sys.stderr)
        return exit.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `jan log … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    configure("jan", "error")  # on stderr: what a verb prints may be read by a program
    sys.exit(run(sys.argv[1:]))
