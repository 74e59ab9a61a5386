"""`jan log` in a test's own process, and what it prints."""

import argparse
import asyncio
import json

import pytest

from cli import log


class Told:
    """What was printed, taken line by line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.lines: list[str] = []
        self.errors = ""

    def look(self) -> list[str]:
        """All lines so far."""
        captured = self._capsys.readouterr()
        self.lines += captured.out.splitlines()
        self.errors += captured.err
        return self.lines

    def facts(self) -> list[str]:
        """What happened, of output made for programs."""
        # In a test's process nobody has sent the bus's own warnings to stderr.
        return [json.loads(line)["what"] for line in self.look() if line.startswith("{")]

    async def until(self, what: str) -> None:
        """Wait until a fact was printed."""
        async with asyncio.timeout(30):
            while what not in self.facts():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)


async def show(*arguments: str, follow: bool = False, as_json: bool = True) -> int:
    """Run it; returns its code."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    log.add_arguments(parser)
    options = ["--data", "/nonexistent"]
    options += ["--follow"] if follow else []
    options += ["--json"] if as_json else []
    return await log.main(parser.parse_args([*options, *arguments]))
