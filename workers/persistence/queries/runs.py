"""Reading runs. Every query is scoped by the principal, if the question names one."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, DateTime, Double, Row, Select, and_, cast, extract, select
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import ids
from schemas.api.lists import MAX_PAGE_BYTES, Paging
from schemas.errors import Gone, InvalidRequest, NotFound
from schemas.events import RunAccepted, RunFinished
from schemas.queries.runs import (
    AskRun,
    AskRunEvents,
    AskRuns,
    AttemptFacts,
    EventAt,
    RunEvents,
    RunFacts,
    RunList,
    RunRecord,
    RunResult,
)
from workers.persistence import positions
from workers.persistence.queries.pages import Page, read_page
from workers.persistence.tables import run_attempts, run_events, runs

_MOST_EVENTS = 1000
_MOST_ATTEMPTS = 100
_ROW_BYTES = 4096  # of a run in a list, without what is counted; its texts are cut at 1,024

# By their sequences in the log.
ReadFact = Callable[[int], Awaitable[bytes | None]]
ReadAccepted = Callable[[int], Awaitable[RunAccepted | None]]
ReadFinished = Callable[[int], Awaitable[RunFinished | None]]


async def get_run(connection: AsyncConnection, ask: AskRun) -> RunFacts:
    """Everything that is known of a run. Raises NotFound."""
    row = await _find(connection, select(*_columns(runs.c)).where(_is_asked(ask)), ask)
    told = row._asdict()
    found = await connection.execute(
        select(*_columns(run_attempts.c))
        .where(run_attempts.c.run_id == told["run_id"])
        .order_by(run_attempts.c.epoch)
        .limit(_MOST_ATTEMPTS)
    )
    told["attempts"] = [_to_attempt(attempt) for attempt in found]
    return _to_facts(told)


async def list_runs(connection: AsyncConnection, ask: AskRuns) -> RunList:
    """A page of runs, by their age. Raises InvalidRequest if there is no run to go on from.

    An index finds each of `principal`, `status`, `kind`, `model`, `conversation_id` and the
    moments; a principal's list is filtered by the other columns in the index itself.
    """
    for param, cursor in (("after", ask.after_id), ("before", ask.before_id)):
        if cursor is not None:
            await _require_cursor(connection, cursor, ask.principal, param)
    question = select(*_columns(runs.c)).where(*_filters(ask))
    paging = Paging(limit=ask.limit, order=ask.order)
    places = {"after": ask.after_id, "before": ask.before_id}
    page = await read_page(connection, question, runs.c.run_id, paging, **places)
    backwards = ask.before_id is not None and ask.after_id is None
    rows, has_more = _bounded(page, backwards=backwards)
    return RunList([_to_facts(row._asdict()) for row in rows], has_more)


async def get_events(
    connection: AsyncConnection, ask: AskRunEvents, read_fact: ReadFact
) -> RunEvents:
    """Where a run's facts lie in the log, oldest first, and what they say. Raises NotFound."""
    row = await _find(connection, select(runs.c.run_id, runs.c.status).where(_is_asked(ask)), ask)
    question = select(*_columns(run_events.c)).where(run_events.c.run_id == row.run_id)
    if ask.bodies:
        question = question.where(run_events.c.seq <= await positions.reached(connection))
    page = question.order_by(run_events.c.seq).offset(ask.skip).limit(_MOST_EVENTS)
    found = await connection.execute(page)
    events = [EventAt(event.seq, event.verb, event.at) for event in found]
    if not ask.bodies:
        return RunEvents(row.run_id, events, row.status)
    await connection.rollback()  # the log is read without holding the database
    told = await _with_bodies(events, read_fact)
    return RunEvents(row.run_id, told, row.status, has_more=len(told) < len(events))


async def get_result(
    connection: AsyncConnection, ask: AskRun, read_finished: ReadFinished
) -> RunResult:
    """How a run ended, with the body that the log holds. Raises NotFound."""
    columns = (runs.c.run_id, runs.c.status, runs.c.kind, runs.c.stream, runs.c.finish_reason)
    last = last_fact("finished")
    question = select(*columns, runs.c.error, last).where(_is_asked(ask))
    row = await _find(connection, question, ask)
    await connection.rollback()  # the log is read without holding the database
    finished = await read_finished(row.finished_seq) if row.finished_seq else None
    return RunResult(
        row.run_id,
        row.status,
        row.kind,
        row.stream,
        row.finish_reason,
        msgspec.Raw(row.error) if row.error is not None else None,
        finished.result if finished is not None else None,
    )


async def get_command(
    connection: AsyncConnection,
    ask: AskRun,
    read_accepted: ReadAccepted,
    read_finished: ReadFinished,
) -> RunRecord:
    """What a run was asked and how it ended, from the log. Raises NotFound, Gone."""
    columns = (runs.c.run_id, last_fact("accepted"), last_fact("finished"))
    row = await _find(connection, select(*columns).where(_is_asked(ask)), ask)
    await connection.rollback()  # the log is read without holding the database
    accepted = await read_accepted(row.accepted_seq) if row.accepted_seq else None
    if accepted is None:
        raise Gone("the log no longer holds this run's request", code="request_expired")
    return RunRecord(accepted, await read_finished(row.finished_seq) if row.finished_seq else None)


def last_fact(verb: str) -> ColumnElement[Any]:
    """Where the last such fact of a run lies in the log, as the column `<verb>_seq`."""
    return (
        select(run_events.c.seq)
        .where(and_(run_events.c.run_id == runs.c.run_id, run_events.c.verb == verb))
        .order_by(run_events.c.seq.desc())
        .limit(1)
        .scalar_subquery()
        .label(f"{verb}_seq")
    )


def _filters(ask: AskRuns) -> list[ColumnElement[bool]]:
    """The conditions that a question puts on the runs of its list."""
    conditions = [
        runs.c[name] == _text(value)
        for name in ("principal", "kind", "status", "model", "conversation_id", "trace_id")
        if (value := getattr(ask, name)) is not None
    ]
    of_parent = runs.c.parent.is_(None)
    conditions.append(of_parent if ask.parent is None else runs.c.parent == _text(ask.parent))
    if ask.failed:
        conditions.append(runs.c.status.in_(("failed", "refused")))
    if ask.since is not None:
        conditions.append(runs.c.run_id >= ids.first_id("run_", ask.since))
    if ask.until is not None:
        conditions.append(runs.c.run_id < ids.first_id("run_", ask.until))
    return conditions


async def _with_bodies(events: list[EventAt], read_fact: ReadFact) -> list[EventAt]:
    """As many facts as an answer can hold, one at least, with what they say."""
    told: list[EventAt] = []
    size = 0
    for event in events:
        data = await read_fact(event.seq)
        size += len(data or b"")
        if told and size > MAX_PAGE_BYTES:
            break
        told.append(EventAt(event.seq, event.verb, event.at, _json(data)))
    return told


def _json(data: bytes | None) -> msgspec.Raw | None:
    """What was erased, or can't be read, says nothing."""
    try:
        msgspec.json.decode(data or b"", type=msgspec.Raw)
    except (msgspec.DecodeError, ValueError):
        return None
    return msgspec.Raw(data or b"")


async def _require_cursor(
    connection: AsyncConnection, cursor: str, principal: str | None, param: str
) -> None:
    """Somebody else's run is no place in one's own list. Raises InvalidRequest."""
    question = select(runs.c.run_id).where(runs.c.run_id == _text(cursor))
    if principal is not None:
        question = question.where(runs.c.principal == _text(principal))
    if await connection.scalar(question) is None:
        raise InvalidRequest(f"'{param}': there is no run {cursor}", param=param)


def _bounded(page: Page, *, backwards: bool) -> tuple[list[Row[Any]], bool]:
    """What of a page an answer can hold, as errors may be long: it is cut at its far end."""
    size = 0
    for kept, row in enumerate(reversed(page.rows) if backwards else page.rows):
        size += _ROW_BYTES + len(row.usage or b"") + len(row.error or b"")
        if kept and size > MAX_PAGE_BYTES:
            return page.rows[-kept:] if backwards else page.rows[:kept], True
    return page.rows, page.has_more


async def _find(connection: AsyncConnection, question: Select[Any], ask: AskRun) -> Row[Any]:
    newest = question.order_by(runs.c.run_id.desc()).limit(1)
    found: Row[Any] | None = (await connection.execute(newest)).first()
    if found is None:
        raise NotFound(f"there is no run {ask.run_id or ask.request_id}")
    return found


def _is_asked(ask: AskRun) -> ColumnElement[bool]:
    """The condition that a question puts on the table of runs. Raises InvalidRequest."""
    if ask.run_id:
        wanted = runs.c.run_id == _text(ask.run_id)
    elif ask.request_id:
        wanted = runs.c.request_id == _text(ask.request_id)
    else:
        raise InvalidRequest("a run_id or a request_id is needed")
    if ask.principal is None:
        return wanted
    return and_(wanted, runs.c.principal == _text(ask.principal))


def _text(value: str) -> str:
    """PostgreSQL refuses NUL; nothing that it stores contains one."""
    return value.replace("\0", "\ufffd")


def _columns(columns: Any) -> list[ColumnElement[Any]]:
    """All of a table's columns, times as unix seconds."""
    return [
        cast(extract("epoch", column), Double).label(column.name)
        if isinstance(column.type, DateTime)
        else column
        for column in columns
    ]


def _to_facts(told: dict[str, Any]) -> RunFacts:
    for name in ("usage", "error"):
        told[name] = msgspec.Raw(told[name]) if told[name] is not None else None
    return RunFacts(**told)


def _to_attempt(row: Row[Any]) -> AttemptFacts:
    told = row._asdict()
    del told["run_id"]
    return AttemptFacts(**told)
