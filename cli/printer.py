"""What `jan log` writes to stdout: facts as lines, for people or for programs."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

from cli.timeline import (
    Fact,
    Story,
    head_lines,
    in_order,
    printable,
    show_time,
    to_json,
    to_line,
)

_RESET, _DIM = "\x1b[0m", "\x1b[2m"
_COLOURS = {
    "completed": "\x1b[32m",
    "failed": "\x1b[31m",
    "refused": "\x1b[31m",
    "cancelled": "\x1b[33m",
    "cancel": "\x1b[33m",
    "handover": "\x1b[35m",
    "late": "\x1b[31m",
    "unreadable": "\x1b[31m",
}


class Line(NamedTuple):
    """A fact among those of several runs; `tag` says for people whose it is."""

    fact: Fact
    tag: str = ""
    run_id: str | None = None


class Told(NamedTuple):
    """One of several runs: what it is, and what it consists of."""

    head: str
    parts: Sequence[Line] = ()


class Printer:
    """Writes facts to stdout; on a terminal with colours, and with a line that is still moving."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._live = sys.stdout.isatty() and not as_json
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._began = 0.0
        self._before = 0.0

    def show(self, story: Story, facts: list[Fact], parts: Sequence[Fact] = ()) -> None:
        """Print facts, after the heading if they are the first; `parts` belong to that."""
        if self.as_json:
            facts = in_order([*facts, *parts])
        if facts and not self._began:
            self._began = self._before = story.accepted.at if story.accepted else facts[0].at
            if not self.as_json:
                first, *more = head_lines(story)
                print("\n".join([first, *[self._paint(_DIM, line) for line in more]]))
                self._tree(parts)
                print()
        for fact in facts:
            self._line(story, fact)
        self._moving(story)
        sys.stdout.flush()

    def show_all(self, head: str, runs: Sequence[Told], lines: Sequence[Line]) -> None:
        """Print the facts of several runs, in their order, under one heading."""
        self._began = before = lines[0].fact.at
        width = max(len(f"{line.tag}{line.fact.what}") for line in lines)
        if self.as_json:
            parts = [part for run in runs for part in run.parts]
            lines = sorted([*lines, *parts], key=attrgetter("fact.at"))
        else:
            self._heads(head, runs)
        for line in lines:
            if self.as_json:
                print(to_json(line.fact, line.run_id, self._began))
                continue
            named = replace(line.fact, what=line.tag + line.fact.what)
            told = to_line(named, self._began, before, width=width)
            print(self._paint(_COLOURS.get(line.fact.what, ""), told))
            before = line.fact.at
        sys.stdout.flush()

    def show_row(self, row: str, status: str) -> None:
        """Print one run of a list, coloured by how it ended."""
        print(self._paint(_COLOURS.get(status, ""), row))
        sys.stdout.flush()

    def _line(self, story: Story, fact: Fact) -> None:
        if self.as_json:
            print(to_json(fact, story.run_id, self._began))
            return
        line = to_line(fact, self._began, self._before)
        self._before = fact.at
        self._clear()
        print(self._paint(_COLOURS.get(fact.what, ""), line))

    def _heads(self, head: str, runs: Sequence[Told]) -> None:
        """Print which runs there are, and what each consists of."""
        print(head)
        for run in runs:
            print(run.head)
            self._tree([part.fact for part in run.parts], "    ")
        print()

    def _tree(self, parts: Sequence[Fact], indent: str = "") -> None:
        """Print what a run consists of."""
        for number, part in enumerate(parts, start=1):
            branch = "└─" if number == len(parts) else "├─"
            since = show_time(part.at - self._began)
            line = printable(f"{indent}{branch} {since:>11}  {part.what:<4}  {part.text}")
            print(self._paint(_COLOURS.get(part.fields["status"], ""), line))

    def _moving(self, story: Story) -> None:
        """Show the frames that still come, on a line that the next one replaces."""
        if self._live and story.span is not None:
            self._clear()
            print(to_line(story.span.to_fact(), self._began, self._before), end="")

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="")

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colour and colour else text
