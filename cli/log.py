"""`jan log ID`: what happened to a run, from the request to its end."""

import argparse
import asyncio
import os
import re
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from bus import Bus, Message, open_bus
from cli.exits import BadSetup, Exit
from cli.state import default_data, load
from cli.timeline import Fact, Story, head_lines, in_order, to_json, to_line
from schemas import ids, subjects
from schemas.commands import encode
from schemas.errors import BusError, BusUnavailable, InternalError, NotFound, Unavailable
from schemas.queries import AskRun, RunEvents, RunFacts, decode_answer

HELP = "show what happened to a run (by its id, or its request's)"
_PREFIXES = ("run_", "chatcmpl-", "cmpl-", "embd-")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,256}")
_CLOCKS_DIFFER = 10.0  # seconds that an edge's clock may be ahead of the bus's
_LOOK_AGAIN = 1.0  # seconds without a word, when following
_REST = 0.1  # at least, between two readings of a run in full flow
_WAIT_FOR_END = 5.0  # seconds after RunFinished: beyond the token hour no end is stored

T = TypeVar("T")

_RESET, _DIM = "\x1b[0m", "\x1b[2m"
_COLOURS = {
    "completed": "\x1b[32m",
    "failed": "\x1b[31m",
    "cancelled": "\x1b[33m",
    "cancel": "\x1b[33m",
    "handover": "\x1b[35m",
    "late": "\x1b[31m",
    "unreadable": "\x1b[31m",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("id", help="run_…, chatcmpl-…, cmpl-…, or a request's X-Request-Id")
    parser.add_argument("--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    parser.add_argument("--data", default=default_data(), help="of which server")


async def main(args: argparse.Namespace) -> int:
    """Tell the story. Exit codes: 1 nothing is known of the id, 2 it is not an id."""
    wanted = parse_id(args.id)
    url = load(args.data).nats_url("cli")
    try:
        async with open_bus(url, name="jan log") as bus:
            await tell(bus, wanted, Printer(args.json), follow=args.follow)
    except BusUnavailable as error:
        raise Exit(f"{error.message}: is the server running?") from None
    except BusError as error:
        raise Exit(f"the bus does not answer: {error.message}") from None
    return 0


@dataclass(frozen=True)
class Wanted:
    """Which run is asked for: by one of its ids, or by the id of its request."""

    given: str
    run_id: str | None


def parse_id(given: str) -> Wanted:
    """Read what was typed. Raises BadSetup if it can't be an id."""
    run_id = ids.run_id_of(given)
    if run_id is None and (given.startswith(_PREFIXES) or not _REQUEST_ID.fullmatch(given)):
        raise BadSetup(f"{given!r} is not an id: run_… has 26 letters and digits after its prefix")
    return Wanted(given, run_id)


@dataclass(frozen=True)
class Place:
    """Where a run's facts are in the log: from a sequence, or from a time, on."""

    run_id: str
    first_seq: int = 0

    @property
    def since(self) -> str | None:
        """The time at which to begin, if no sequence is known."""
        if self.first_seq:
            return None
        began = ids.created_ms(self.run_id) / 1000 - _CLOCKS_DIFFER
        return datetime.fromtimestamp(max(began, 0.0), UTC).isoformat()


async def locate(bus: Bus, wanted: Wanted) -> Place:
    """Find where to read: from the index in the database, else from the time in the id."""
    if wanted.run_id and ids.created_ms(wanted.run_id) > (time.time() + _CLOCKS_DIFFER) * 1000:
        raise _unknown(wanted)  # from the future
    try:
        run_id = wanted.run_id or await _run_of_request(bus, wanted.given)
        known = await _ask(bus, "events", AskRun(run_id=run_id), RunEvents)
        # Events reach the index in any order: only the one that begins a run says where it begins.
        return Place(run_id, next((one.seq for one in known.events if one.verb == "accepted"), 0))
    except NotFound:
        # Without its row yet, perhaps: the projection is some moments behind the log.
        if wanted.run_id is None:
            raise _unknown(wanted) from None
    except (BusError, Unavailable, InternalError) as error:
        if wanted.run_id is None:
            raise Exit(
                f"a request's id is looked up in the database ({error.message}): "
                "try the run's own id, from the X-Run-Id header"
            ) from None
        print("jan: the database does not answer: searching the log", file=sys.stderr)
    return Place(wanted.run_id)


async def _run_of_request(bus: Bus, request_id: str) -> str:
    return (await _ask(bus, "get", AskRun(request_id=request_id), RunFacts)).run_id


async def _ask(bus: Bus, verb: str, question: AskRun, kind: type[T]) -> T:
    answer = await bus.ask(subjects.query("runs", verb), encode(question), timeout=4.0)
    return decode_answer(answer, kind)


def _unknown(wanted: Wanted) -> Exit:
    return Exit(f"nothing is known of {wanted.given}")


class Reader:
    """Reads the three streams that know of a run, each from where it stopped."""

    def __init__(self, bus: Bus, place: Place) -> None:
        self.story = Story(place.run_id)
        self._bus = bus
        self._since = place.since
        self._log_seq = place.first_seq - 1

    async def read(self) -> list[Fact]:
        """Read what is new; its facts in order of time."""
        facts = await self._read_log() + await self._read_frames() + await self._read_control()
        if self.story.fold.ended and self.story.finished is None:
            facts += await self._read_log()  # what was stored between the two readings
        return in_order(facts)

    async def _read_log(self) -> list[Fact]:
        facts: list[Fact] = []
        if self.story.finished is not None:
            return facts
        subject = subjects.event_shard(self.story.run_id)
        start = max(self._log_seq + 1, 1)
        messages = self._bus.read_subject(subjects.EVENTS, subject, start, start_time=self._since)
        async with aclosing(messages):
            async for stored in messages:
                self._since, self._log_seq = None, stored.seq
                facts += self.story.on_event(stored)
                if self.story.finished is not None:  # nothing of a run comes after its end
                    break
        return facts

    async def _read_frames(self) -> list[Fact]:
        subject = subjects.frames_anywhere(self.story.run_id)
        start = self.story.fold.seq + 1
        messages = self._bus.read_subject(subjects.TOKENS, subject, start)
        return [fact async for stored in messages for fact in self.story.on_frame(stored)]

    async def _read_control(self) -> list[Fact]:
        subject = subjects.cancel(self.story.run_id)
        start = self.story.control_seq + 1
        messages = self._bus.read_subject(subjects.CONTROL, subject, start)
        return [fact async for stored in messages for fact in self.story.on_control(stored)]


async def tell(bus: Bus, wanted: Wanted, printer: "Printer", *, follow: bool) -> None:
    """Print what is known of a run; with `follow`, until it has ended."""
    reader = Reader(bus, await locate(bus, wanted))
    story = reader.story
    news = await listen(bus, story.run_id) if follow else asyncio.Event()
    facts = await reader.read()
    if not story.known:
        raise _unknown(wanted)
    if not follow or story.finished is not None:
        facts = in_order([*facts, *story.flush(), *story.from_the_end()])
    printer.show(story, facts)
    if follow:
        await _follow(reader, printer, news)


async def _follow(reader: Reader, printer: "Printer", news: asyncio.Event) -> None:
    story = reader.story
    give_up = 0.0
    while story.finished is None or not story.fold.ended:
        if story.finished is not None:
            give_up = give_up or time.monotonic() + _WAIT_FOR_END
            if time.monotonic() > give_up or not story.fold.seq:
                break
        await _wait(news)
        try:
            printer.show(story, await reader.read())
        except BusError:
            continue  # the bus is away, and comes back
        await asyncio.sleep(_REST)
    printer.show(story, story.flush())


async def _wait(news: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(news.wait(), _LOOK_AGAIN)
    except TimeoutError:
        return
    news.clear()


async def listen(bus: Bus, run_id: str) -> asyncio.Event:
    """Get an event that is set whenever something about the run may have been stored."""
    news = asyncio.Event()

    def on_message(_: Message) -> None:
        news.set()

    shard = subjects.run_event("*", run_id)
    for subject in (subjects.live_anywhere(run_id), subjects.cancel(run_id), shard):
        await bus.subscribe(subject, on_message)
    return news


class Printer:
    """Writes facts to stdout; on a terminal with colours, and with a line that is still moving."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._live = sys.stdout.isatty() and not as_json
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._began = 0.0
        self._before = 0.0

    def show(self, story: Story, facts: list[Fact]) -> None:
        """Print facts, after the heading if they are the first."""
        if facts and not self._began:
            self._began = self._before = story.accepted.at if story.accepted else facts[0].at
            if not self._json:
                first, *more = head_lines(story)
                print("\n".join([first, *[self._paint(_DIM, line) for line in more], ""]))
        for fact in facts:
            self._line(story, fact)
        self._moving(story)
        sys.stdout.flush()

    def _line(self, story: Story, fact: Fact) -> None:
        if self._json:
            print(to_json(fact, story.run_id, self._began))
            return
        line = to_line(fact, self._began, self._before)
        self._before = fact.at
        self._clear()
        print(self._paint(_COLOURS.get(fact.what, ""), line))

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
