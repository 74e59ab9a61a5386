"""`jan log` without an id: runs, one line each; and those that end from now on."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from bus import Bus, Message, Stored
from cli.exits import Exit
from cli.moments import show_moment
from cli.printer import Printer
from cli.run_reader import ask
from cli.timeline import printable, show_time
from schemas import events, subjects
from schemas.errors import BusError, InternalError, NotFound, Unavailable
from schemas.queries import encode_answer
from schemas.queries.runs import AskRun, AskRuns, RunFacts, RunList

_PAGE = 100
_FACTS_OF_RUNS = "events.run.*.*"
_REMEMBERED = 100_000  # runs that have begun and not ended, when following
_LOOK_AGAIN = 1.0  # seconds without a word
_REST = 0.1
_LONGEST_NAME = 31


@dataclass(frozen=True)
class Filters:
    """Which runs are listed: the newest `limit` of those that meet all that is not None.

    Steps of responses are listed only for their `parent`.
    """

    limit: int
    since: float | None = None
    kind: str | None = None
    principal: str | None = None
    model: str | None = None
    parent: str | None = None
    failed: bool = False

    def accept(self, run: RunFacts) -> bool:
        """Tell whether a run is one of them."""
        return (
            self.kind in (None, run.kind)
            and self.principal in (None, run.principal)
            and self.model in (None, run.model)
            and self.parent == run.parent
            and (not self.failed or run.status in ("failed", "refused"))
        )


async def show_runs(bus: Bus, filters: Filters, printer: Printer, *, follow: bool) -> None:
    """Print the runs that there were, the newest last; with `follow`, each that ends from now."""
    ends = Ends(bus)
    news = await ends.begin() if follow else asyncio.Event()
    for run in await find_runs(bus, filters):
        _show(printer, run)
    while follow:
        with suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), _LOOK_AGAIN)
        news.clear()
        with suppress(BusError):  # the bus is away, and comes back
            async for run in ends.read():
                if filters.accept(run):
                    _show(printer, run)
        await asyncio.sleep(_REST)


def _show(printer: Printer, run: RunFacts) -> None:
    printer.show_row(to_json_row(run) if printer.as_json else to_row(run), run.status)


async def find_runs(bus: Bus, filters: Filters) -> list[RunFacts]:
    """The newest runs that are asked for, the oldest of them first."""
    found: list[RunFacts] = []
    question = AskRuns(
        since=filters.since,
        kind=filters.kind,
        principal=filters.principal,
        model=filters.model,
        parent=filters.parent,
        failed=filters.failed,
    )
    while len(found) < filters.limit:
        question = msgspec.structs.replace(
            question,
            limit=min(_PAGE, filters.limit - len(found)),
            after_id=found[-1].run_id if found else None,
        )
        try:
            page = await ask(bus, "runs", "list", question, RunList)
        except (BusError, Unavailable, InternalError) as error:
            raise Exit(
                f"runs are looked up in the database ({error.message}): is PostgreSQL running? "
                "(jan doctor says more)"
            ) from None
        found += page.runs
        if not page.has_more:
            break
    return found[::-1]


class Ends:
    """Reads the log from now on, and tells each run that ends."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._seq = 0
        self._begun: OrderedDict[str, RunFacts] = OrderedDict()

    async def begin(self) -> asyncio.Event:
        """Note where the log ends; get an event that is set whenever it grows."""
        news = asyncio.Event()

        def on_message(_: Message) -> None:
            news.set()

        await self._bus.subscribe(_FACTS_OF_RUNS, on_message)
        last = await self._bus.last_message(subjects.EVENTS, _FACTS_OF_RUNS)
        self._seq = last.seq if last is not None else 0
        return news

    async def read(self) -> AsyncIterator[RunFacts]:
        """Read what is new; yields the runs that have ended, in the order of their ends."""
        messages = self._bus.read_subject(subjects.EVENTS, _FACTS_OF_RUNS, self._seq + 1)
        async for stored in messages:
            self._seq = stored.seq
            try:
                run = self._fold(stored)
            except (msgspec.DecodeError, ValueError):
                continue  # jan dead tells of it
            if run is not None:
                yield await self._complete(run)

    def _fold(self, stored: Stored) -> RunFacts | None:
        """Take in a fact; return the run, if it ends with it."""
        match stored.subject.split(".")[2]:
            case "accepted":
                run = _begun(events.decode_run_accepted(stored.data))
                self._begun[run.run_id] = run
                if len(self._begun) > _REMEMBERED:
                    self._begun.popitem(last=False)
            case "refused":
                refused = events.decode_run_refused(stored.data)
                run = self._begun.pop(refused.run_id, RunFacts(refused.run_id, ""))
                error, at = refused.error, refused.at
                return msgspec.structs.replace(run, status="refused", finished_at=at, error=error)
            case "finished":
                end = events.decode_run_finished(stored.data)
                return _ended(self._begun.pop(end.run_id, RunFacts(end.run_id, "")), end)
        return None

    async def _complete(self, run: RunFacts) -> RunFacts:
        """Look up how a run began that began before we looked."""
        if run.accepted_at is not None:
            return run
        try:
            known = await ask(self._bus, "runs", "get", AskRun(run_id=run.run_id), RunFacts)
        except (BusError, NotFound, Unavailable, InternalError):
            return run
        names = ("principal", "kind", "model", "accepted_at", "request_id", "parent")
        return msgspec.structs.replace(run, **{name: getattr(known, name) for name in names})


def _begun(event: events.RunAccepted) -> RunFacts:
    job = event.command
    return RunFacts(
        job.run_id,
        "accepted",
        principal=job.principal,
        api_key_id=job.api_key,
        kind=job.kind,
        model=job.model,
        edge=job.edge,
        stream=job.stream,
        request_id=job.request_id,
        parent=job.parent,
        accepted_at=event.at,
    )


def _ended(run: RunFacts, end: events.RunFinished) -> RunFacts:
    return msgspec.structs.replace(
        run,
        status=end.status,
        deployment=end.deployment,
        parent=end.parent or run.parent,
        finished_at=end.at,
        first_frame_at=end.first_frame_at,
        frames=end.frames,
        finish_reason=end.finish_reason,
        usage=end.usage,
        total_tokens=_total(end.usage),
        error=end.error,
    )


def _total(usage: msgspec.Raw | None) -> int | None:
    if usage is None:
        return None
    try:
        told = msgspec.json.decode(usage)
    except msgspec.DecodeError:
        return None
    count = told.get("total_tokens") if isinstance(told, dict) else None
    return count if isinstance(count, int) else None


def to_row(run: RunFacts) -> str:
    """A run as one line: when, id, principal, model, status, tokens, seconds, what went wrong."""
    at = show_moment(run.accepted_at) if run.accepted_at is not None else "?"
    tokens = f"{run.total_tokens:,} tokens" if run.total_tokens is not None else ""
    took = ""
    if run.finished_at is not None and run.accepted_at is not None:
        took = show_time(run.finished_at - run.accepted_at)
    named = f"{at:<19}  {run.run_id}  {_short(run.principal):<{_LONGEST_NAME}}"
    told = f"{_short(run.model):<20}  {run.status:<9}  {tokens:>13}  {took:>11}"
    return printable(f"{named}  {told}  {_error_code(run.error)}".rstrip())


def to_json_row(run: RunFacts) -> str:
    """A run as one JSON object."""
    return encode_answer(run).decode()


def _short(name: str | None) -> str:
    text = name or "?"
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _error_code(envelope: msgspec.Raw | None) -> str:
    try:
        told = msgspec.json.decode(envelope) if envelope is not None else None
        return str(told["error"]["code"] or told["error"]["type"]) if told else ""
    except (msgspec.DecodeError, KeyError, TypeError):
        return "error"
