"""What happened to several runs, and to what they belong to, in the order of time."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec

from bus import Bus
from cli.exits import Exit
from cli.loop import read_loop
from cli.printer import Line, Printer, Told
from cli.run_reader import Place, Reader, ask
from cli.timeline import Fact, printable
from schemas import subjects
from schemas.errors import BusError, InternalError, Unavailable
from schemas.events import decode_state_changed
from schemas.queries.entities import AskEntity, EntityEvents
from schemas.queries.runs import AskRun, AskRuns, EventAt, RunEvents, RunFacts, RunList

_MOST_RUNS = 500  # the newest ones
_PAGE = 100


async def tell_conversation(bus: Bus, conversation_id: str, printer: Printer) -> None:
    """Print all that happened to a conversation, its runs included."""
    runs = await _find_runs(bus, AskRuns(conversation_id=conversation_id, limit=_PAGE))
    question = AskEntity(entity=conversation_id)
    changes = (await _ask(bus, "entities", question, EntityEvents)).events
    if not runs and not changes:
        raise Exit(f"nothing is known of {conversation_id}")
    lines = [Line(await _read_change(bus, change)) for change in changes]
    await _tell(bus, conversation_id, runs, lines, printer)


async def tell_trace(bus: Bus, trace_id: str, printer: Printer) -> bool:
    """Print what happened to the runs of a trace; false if there is none."""
    runs = await _find_runs(bus, AskRuns(trace_id=trace_id, limit=_PAGE))
    if runs:
        await _tell(bus, f"trace {trace_id}", runs, [], printer)
    return bool(runs)


async def _tell(
    bus: Bus, what: str, runs: Sequence[RunFacts], lines: list[Line], printer: Printer
) -> None:
    head = f"{what} · {_count(len(runs), 'run')}"
    if len(runs) == _MOST_RUNS:
        head += ", the newest ones"
    told = []
    for number, run in enumerate(runs, start=1):
        facts, parts = await _read_run(bus, run)
        named = printable(f"#{number}  {run.run_id} · {run.kind} · {run.model} · {run.status}")
        told.append(Told(named, [Line(part, f"#{number} ", run.run_id) for part in parts]))
        lines += [Line(fact, f"#{number} ", run.run_id) for fact in facts]
    printer.show_all(head, told, sorted(lines, key=attrgetter("fact.at")))


async def _read_run(bus: Bus, run: RunFacts) -> tuple[list[Fact], list[Fact]]:
    """All that is known of a run, in its own order; of a response, what it consists of too."""
    known = await _ask(bus, "runs", AskRun(run_id=run.run_id), RunEvents)
    first = next((one.seq for one in known.events if one.verb == "accepted"), 0)
    reader = Reader(bus, Place(run.run_id, first))
    facts = await reader.read()
    facts += [*reader.story.flush(), *reader.story.from_the_end()]
    return facts, await read_loop(bus, reader.story)


async def _find_runs(bus: Bus, question: AskRuns) -> list[RunFacts]:
    """The newest runs that are asked for, the oldest of them first."""
    found: list[RunFacts] = []
    while len(found) < _MOST_RUNS:
        page = await _ask(bus, "runs", question, RunList, verb="list")
        found += page.runs
        if not page.has_more:
            break
        question = msgspec.structs.replace(question, after_id=found[-1].run_id)
    return found[:_MOST_RUNS][::-1]


async def _ask(bus: Bus, noun: str, question: Any, kind: type[Any], verb: str = "events") -> Any:
    try:
        return await ask(bus, noun, verb, question, kind)
    except (BusError, Unavailable, InternalError) as error:
        raise Exit(
            f"conversations and traces are looked up in the database ({error.message}): "
            "try a run's own id, from the X-Run-Id header"
        ) from None


async def _read_change(bus: Bus, change: EventAt) -> Fact:
    """A change of stored state as a fact: who did what to how many rows."""
    stored = await bus.message_at(subjects.EVENTS, change.seq)
    fields: dict[str, Any] = {"seq": change.seq}
    if stored is None:
        return Fact(change.at, change.verb, "erased from the log", fields | {"erased": True})
    try:
        event = decode_state_changed(stored.data)
    except (msgspec.DecodeError, ValueError) as error:
        return Fact(change.at, "unreadable", f"message {change.seq}: {error}", fields)
    rows = {table: len(changed) for table, changed in event.rows.items()}
    words = [f"by {event.principal}"]
    words += [", ".join(f"{count} of {table}" for table, count in rows.items())] if rows else []
    words += [f"of run {event.run_id}"] if event.run_id else []
    words += [f"request {event.request_id}"] if event.request_id else []
    fields |= {
        "entity": event.entity,
        "principal": event.principal,
        "command": event.command,
        "request_id": event.request_id,
        "run_id": event.run_id,
        "rows": rows,
    }
    return Fact(change.at, change.verb, " · ".join(words), fields)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
