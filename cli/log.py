"""`jan log`: what happened to a run, to a conversation, in a trace; or which runs there were."""

import argparse
import asyncio
import re
import sys
import time
from dataclasses import dataclass
from typing import Literal, get_args

from bus import Bus, Message, open_bus
from cli.exits import BadSetup, Exit
from cli.loop import read_loop
from cli.moments import past_moment
from cli.printer import Printer
from cli.run_list import Filters, show_runs
from cli.run_reader import CLOCKS_DIFFER, Place, Reader, ask
from cli.state import default_data, load
from cli.stories import tell_conversation, tell_trace
from cli.timeline import in_order
from schemas import ids, subjects
from schemas.commands import Kind
from schemas.errors import BusError, BusUnavailable, InternalError, NotFound, Unavailable
from schemas.queries.runs import AskRun, RunEvents, RunFacts

HELP = "show what happened to a run, a conversation, a trace; or which runs there were"
_CONVERSATION = re.compile(r"conv_[0-9a-zA-Z]{1,64}")
_PREFIXES = ("run_", "chatcmpl-", "cmpl-", "embd-", "resp_", "conv_")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,256}")
_LISTED = 20
_LOOK_AGAIN = 1.0  # seconds without a word, when following
_REST = 0.1  # at least, between two readings of a run in full flow
_WAIT_FOR_END = 5.0  # seconds after RunFinished: beyond the token hour no end is stored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "id",
        nargs="?",
        help="run_…, resp_…, chatcmpl-…, cmpl-…, an X-Request-Id, conv_…, or a trace (32 "
        "hexadecimal digits, or a traceparent); without one, a list of runs",
    )
    parser.add_argument(
        "--follow", action="store_true", help="go on until the run has ended; with a list, for ever"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")
    parser.add_argument("--data", default=default_data(), help="of which server")
    listed = parser.add_argument_group("which runs are listed")
    listed.add_argument(
        "--since", type=past_moment, metavar="WHEN", help="10m, 2h, or 2026-11-24T10:00 (UTC)"
    )
    listed.add_argument("--kind", choices=get_args(Kind), help="of this kind")
    listed.add_argument("--principal", metavar="ID", help="of this principal")
    listed.add_argument("--model", metavar="ID", help="of this model")
    listed.add_argument(
        "--parent", metavar="ID", help="the steps of this response, which are not listed otherwise"
    )
    listed.add_argument(
        "--failed", action="store_true", help="those that failed, or that a full queue refused"
    )
    listed.add_argument("--limit", type=int, metavar="N", help=f"the newest N (default: {_LISTED})")


async def main(args: argparse.Namespace) -> int:
    """Tell it. Exit codes: 1 nothing is known of the id, 2 it is not an id."""
    filters = read_filters(args)
    wanted = parse_id(args.id) if args.id is not None else None
    if wanted is not None:
        _require_no_filters(args, wanted)
    url = load(args.data).nats_url("cli")
    try:
        async with open_bus(url, name="jan log") as bus:
            await _tell_wanted(bus, wanted, filters, Printer(args.json), follow=args.follow)
    except BusUnavailable as error:
        raise Exit(f"{error.message}: is the server running?") from None
    except BusError as error:
        raise Exit(f"the bus does not answer: {error.message}") from None
    return 0


async def _tell_wanted(
    bus: Bus, wanted: "Wanted | None", filters: Filters, printer: Printer, *, follow: bool
) -> None:
    if wanted is None:
        await show_runs(bus, filters, printer, follow=follow)
    elif wanted.what == "conversation":
        await tell_conversation(bus, wanted.given, printer)
    elif wanted.what != "trace":
        await tell(bus, wanted, printer, follow=follow)
    elif not await tell_trace(bus, ids.trace_id_of(wanted.given.lower()) or "", printer):
        await tell(bus, Wanted(wanted.given, "request"), printer, follow=follow)  # may look so


def read_filters(args: argparse.Namespace) -> Filters:
    """Read which runs are to be listed. Raises BadSetup."""
    if args.limit is not None and args.limit < 1:
        raise BadSetup("--limit is 1 or more")
    return Filters(
        since=args.since,
        kind=args.kind,
        principal=args.principal,
        model=args.model,
        parent=_read_parent(args.parent),
        failed=args.failed,
        limit=args.limit or _LISTED,
    )


def _read_parent(given: str | None) -> str | None:
    run_id = ids.run_id_of(given) if given is not None else None
    if given is not None and run_id is None:
        raise BadSetup(f"--parent is resp_… or run_…, not {given!r}")
    return run_id


def _require_no_filters(args: argparse.Namespace, wanted: "Wanted") -> None:
    for name in ("since", "kind", "principal", "model", "parent", "failed", "limit"):
        if getattr(args, name):
            raise BadSetup(f"--{name} goes with a list of runs, not with an id")
    if args.follow and wanted.what in ("conversation", "trace"):
        raise BadSetup("--follow goes with one run, or with a list of runs")


@dataclass(frozen=True)
class Wanted:
    """What is asked for: a run by one of its ids or its request's, a conversation, a trace."""

    given: str
    what: Literal["run", "request", "conversation", "trace"]
    run_id: str | None = None


def parse_id(given: str) -> Wanted:
    """Read what was typed. Raises BadSetup if it can't be an id."""
    run_id = ids.run_id_of(given)
    if run_id is not None:
        return Wanted(given, "run", run_id)
    if _CONVERSATION.fullmatch(given):
        return Wanted(given, "conversation")
    if ids.trace_id_of(given.lower()) is not None:
        return Wanted(given, "trace")
    if given.startswith(_PREFIXES) or not _REQUEST_ID.fullmatch(given):
        raise BadSetup(f"{given!r} is not an id: run_… has 26 letters and digits after its prefix")
    return Wanted(given, "request")


async def locate(bus: Bus, wanted: Wanted) -> Place:
    """Find where to read: from the index in the database, else from the time in the id."""
    if wanted.run_id and ids.created_ms(wanted.run_id) > (time.time() + CLOCKS_DIFFER) * 1000:
        raise _unknown(wanted)  # from the future
    try:
        run_id = wanted.run_id or await _run_of_request(bus, wanted.given)
        known = await ask(bus, "runs", "events", AskRun(run_id=run_id), RunEvents)
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
    return (await ask(bus, "runs", "get", AskRun(request_id=request_id), RunFacts)).run_id


def _unknown(wanted: Wanted) -> Exit:
    return Exit(f"nothing is known of {wanted.given}")


async def tell(bus: Bus, wanted: Wanted, printer: Printer, *, follow: bool) -> None:
    """Print what is known of a run; with `follow`, until it has ended."""
    reader = Reader(bus, await locate(bus, wanted))
    story = reader.story
    news = await listen(bus, story.run_id) if follow else asyncio.Event()
    facts = await reader.read()
    if not story.known:
        raise _unknown(wanted)
    over = not follow or story.finished is not None
    if over:
        facts = in_order([*facts, *story.flush(), *story.from_the_end()])
    printer.show(story, facts, await read_loop(bus, story) if over else ())
    if follow:
        await _follow(reader, printer, news)
    if not over:
        printer.show(story, await read_loop(bus, story))


async def _follow(reader: Reader, printer: Printer, news: asyncio.Event) -> None:
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
