"""From the facts about runs to rows: `fold` adds them up in memory, `write_rows` stores them.

Both hold for any order and any number of deliveries: a fact that comes again, late, or before those
that it follows from, changes nothing that a later one has settled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.events import Attempt, Status
from schemas.ids import trace_id_of
from schemas.raw import OptionalRaw
from workers.persistence.facts import Fact
from workers.persistence.statements import Statement

_BIGINT = (1 << 63) - 1
_SHORT = (
    1024  # characters of a text that is indexed: PostgreSQL refuses index rows over 2,704 bytes
)


# The events once more, without what the projection does not keep: the request above all, which
# can be a megabyte and is then skipped instead of copied.
class _Turn(msgspec.Struct):
    conversation: str
    project: str | None = None


class _Command(msgspec.Struct):
    run_id: str
    kind: str
    edge: str
    principal: str
    model: str
    request_id: str = ""
    stream: bool = False
    background: bool = False
    api_key: str | None = None
    traceparent: str | None = None
    parent: str | None = None
    turn: _Turn | None = None


class _Accepted(msgspec.Struct):
    command: _Command
    at: float


class _Refused(msgspec.Struct):
    run_id: str
    at: float


class _Started(msgspec.Struct):
    run_id: str
    attempt: int
    worker: str
    deployment: str
    epoch: int
    resumed_at: int
    at: float


class _Finished(msgspec.Struct):
    run_id: str
    status: Status
    at: float
    deployment: str = ""
    attempts: list[Attempt] = []
    frames: int = 0
    first_frame_at: float | None = None
    finish_reason: str | None = None
    usage: OptionalRaw = None
    error: OptionalRaw = None
    parent: str | None = None


class _Other(msgspec.Struct):
    """A fact that a newer release tells: indexed, so that the timeline shows it."""

    run_id: str
    at: float | None = None


_decode_accepted = msgspec.json.Decoder(_Accepted).decode
_decode_refused = msgspec.json.Decoder(_Refused).decode
_decode_started = msgspec.json.Decoder(_Started).decode
_decode_finished = msgspec.json.Decoder(_Finished).decode
_decode_other = msgspec.json.Decoder(_Other).decode


@dataclass(slots=True)
class RunRow:
    """What a batch says about one run; None where it says nothing."""

    run_id: str
    status: str = "accepted"
    principal: str | None = None
    api_key_id: str | None = None
    kind: str | None = None
    model: str | None = None
    deployment: str | None = None
    edge: str | None = None
    stream: bool | None = None
    background: bool | None = None
    request_id: str | None = None
    trace_id: str | None = None
    conversation_id: str | None = None
    project_id: str | None = None
    parent: str | None = None
    accepted_at: float | None = None
    started_at: float | None = None
    first_frame_at: float | None = None
    finished_at: float | None = None
    frames: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    usage: bytes | None = None
    finish_reason: str | None = None
    error: bytes | None = None


@dataclass(slots=True)
class AttemptRow:
    """What a batch says about one fence of a run."""

    run_id: str
    epoch: int
    attempt: int
    worker: str
    deployment: str | None
    at: float
    first: int
    count: int | None


class EventRow(NamedTuple):
    """Where one fact lies."""

    run_id: str
    seq: int
    verb: str
    at: float


@dataclass(slots=True)
class Rows:
    """A batch, folded."""

    runs: dict[str, RunRow] = field(default_factory=dict)
    attempts: dict[tuple[str, int], AttemptRow] = field(default_factory=dict)
    events: dict[tuple[str, int], EventRow] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)  # of what has said something: of parts

    def run(self, run_id: str) -> RunRow:
        """The row of a run, made when it is first named."""
        row = self.runs.get(run_id)
        if row is None:
            row = self.runs[run_id] = RunRow(run_id)
        return row


def fold(rows: Rows, fact: Fact) -> None:
    """Add a fact to a batch. Raises DecodeError or ValueError if it can't be read."""
    verb = fact.verb
    match verb:
        case "accepted":
            accepted = _decode_accepted(fact.data)
            run_id, at = accepted.command.run_id, accepted.at
            _fold_accepted(rows.run(to_text(run_id)), accepted)
        case "refused":
            refused = _decode_refused(fact.data)
            run_id, at = refused.run_id, refused.at
            _fold_refused(rows.run(to_text(run_id)))
        case "started":
            started = _decode_started(fact.data)
            run_id, at = started.run_id, started.at
            _fold_started(rows, started)
        case "finished":
            finished = _decode_finished(fact.data)
            run_id, at = finished.run_id, finished.at
            _fold_finished(rows, finished)
            if finished.parent and fact.noun == "run":
                rows.parents.add(to_text(finished.parent))
        case _:
            other = _decode_other(fact.data)
            run_id, at = other.run_id, other.at or fact.time
    key = (to_text(run_id), fact.seq)
    told = verb if fact.noun == "run" else f"{fact.noun}.{verb}"
    rows.events[key] = EventRow(*key, to_text(told), at)


def _fold_accepted(row: RunRow, event: _Accepted) -> None:
    command = event.command
    row.accepted_at = event.at
    row.principal = to_text(command.principal)
    row.api_key_id = to_text(command.api_key) if command.api_key else None
    row.kind = to_text(command.kind)
    row.model = to_text(command.model)
    row.edge = to_text(command.edge)
    row.parent = to_text(command.parent) if command.parent else None
    row.stream = command.stream
    row.background = command.background
    row.request_id = to_text(command.request_id)
    row.trace_id = trace_id_of(command.traceparent) if command.traceparent else None
    if command.turn is not None:
        row.conversation_id = to_text(command.turn.conversation)
        row.project_id = to_text(command.turn.project) if command.turn.project else None


def _fold_refused(row: RunRow) -> None:
    if row.status == "accepted":  # a repeat under its Idempotency-Key may have run after all
        row.status = "refused"


def _fold_started(rows: Rows, event: _Started) -> None:
    run_id = to_text(event.run_id)
    row = rows.run(run_id)
    row.started_at = min(event.at, row.started_at or event.at)
    if row.status in ("accepted", "refused"):
        row.status = "running"
    if row.finished_at is None:
        row.deployment = to_text(event.deployment)
    known = rows.attempts.get((run_id, event.epoch))
    rows.attempts[run_id, event.epoch] = AttemptRow(
        run_id,
        event.epoch,
        event.attempt,
        to_text(event.worker),
        to_text(event.deployment),
        min(known.at, event.at) if known else event.at,
        event.resumed_at,
        known.count if known else None,
    )


def _fold_finished(rows: Rows, event: _Finished) -> None:
    run_id = to_text(event.run_id)
    row = rows.run(run_id)
    row.status = event.status
    row.finished_at = event.at
    row.deployment = to_text(event.deployment) or row.deployment
    row.frames = event.frames
    row.first_frame_at = event.first_frame_at
    row.finish_reason = to_text(event.finish_reason) if event.finish_reason else None
    row.error = _json(event.error)
    row.parent = to_text(event.parent) if event.parent else row.parent
    row.usage = _json(event.usage)
    row.prompt_tokens, row.completion_tokens, row.total_tokens = _token_counts(row.usage)
    for attempt in event.attempts:
        known = rows.attempts.get((run_id, attempt.epoch))
        rows.attempts[run_id, attempt.epoch] = AttemptRow(
            run_id,
            attempt.epoch,
            attempt.attempt,
            to_text(attempt.worker),
            known.deployment if known else None,
            min(known.at, attempt.at) if known else attempt.at,
            attempt.first,
            attempt.count,
        )


def _json(raw: msgspec.Raw | None) -> bytes | None:
    told = bytes(raw) if raw is not None else b"null"
    return told if told != b"null" else None


def _token_counts(usage: bytes | None) -> tuple[int | None, int | None, int | None]:
    """The counts that can be added up; an upstream may have put anything there."""
    if usage is None:
        return None, None, None
    try:
        told = msgspec.json.decode(usage, type=dict[str, Any])
    except msgspec.DecodeError:
        return None, None, None
    prompt, completion, total = (
        value if type(value := told.get(name)) is int and 0 <= value <= _BIGINT else None
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    return prompt, completion, total


def to_text(value: str) -> str:
    """Make a text that PostgreSQL takes: it refuses NUL, and an index refuses long ones."""
    return value.replace("\0", "\ufffd")[:_SHORT]


_RUN_TYPES = {
    "accepted_at": "float8",
    "started_at": "float8",
    "first_frame_at": "float8",
    "finished_at": "float8",
    "stream": "boolean",
    "background": "boolean",
    "frames": "int8",
    "prompt_tokens": "int8",
    "completion_tokens": "int8",
    "total_tokens": "int8",
    "usage": "bytea",
    "error": "bytea",
}
_RUN_COLUMNS = tuple(RunRow.__slots__)
_ENDED = "r.status IN ('completed', 'failed', 'cancelled')"
_RUN_MERGES = {
    "status": f"CASE WHEN {_ENDED} OR excluded.status = 'accepted'"
    " OR (excluded.status = 'refused' AND r.status = 'running')"
    " THEN r.status ELSE excluded.status END",
    "deployment": f"CASE WHEN {_ENDED} THEN coalesce(r.deployment, excluded.deployment)"
    " ELSE coalesce(excluded.deployment, r.deployment) END",
    "started_at": "least(r.started_at, excluded.started_at)",
}


def _unnest(columns: Sequence[str], types: dict[str, str]) -> str:
    """SELECT that turns one array for each column into rows; times become timestamps."""
    arrays = ", ".join(f"CAST(:{name} AS {types.get(name, 'text')}[])" for name in columns)
    values = ", ".join(f"to_timestamp({n})" if n in _TIMES else f'"{n}"' for n in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    return f"SELECT {values} FROM unnest({arrays}) AS given({names})"  # noqa: S608 - own names


_TIMES = frozenset({"accepted_at", "started_at", "first_frame_at", "finished_at", "at"})

_UPSERT_RUNS = Statement(
    f"INSERT INTO runs AS r ({', '.join(_RUN_COLUMNS)}) "
    + _unnest(_RUN_COLUMNS, _RUN_TYPES)
    + " ON CONFLICT (run_id) DO UPDATE SET "
    + ", ".join(
        f"{name} = {_RUN_MERGES.get(name, f'coalesce(excluded.{name}, r.{name})')}"
        for name in _RUN_COLUMNS
        if name != "run_id"
    )
)

_ATTEMPT_COLUMNS = tuple(AttemptRow.__slots__)
_ATTEMPT_TYPES = {
    "epoch": "int8", "attempt": "int4", "at": "float8", "first": "int8", "count": "int8"
}  # fmt: skip
_UPSERT_ATTEMPTS = Statement(
    'INSERT INTO run_attempts AS a (run_id, epoch, attempt, worker, deployment, at, "first", count)'
    " " + _unnest(_ATTEMPT_COLUMNS, _ATTEMPT_TYPES) + " ON CONFLICT (run_id, epoch) DO UPDATE SET"
    " deployment = coalesce(excluded.deployment, a.deployment),"
    " at = least(a.at, excluded.at),"
    ' "first" = coalesce(excluded."first", a."first"),'
    " count = coalesce(excluded.count, a.count)"
)

_INSERT_EVENTS = Statement(
    "INSERT INTO run_events (run_id, seq, verb, at) "
    + _unnest(EventRow._fields, {"seq": "int8", "at": "float8"})
    + " ON CONFLICT DO NOTHING"
)


# A part may say something after its run was erased: then that has to go too.
_ERASE_AGAIN = Statement(
    "UPDATE erasures AS e SET done_at = NULL FROM ("
    "  SELECT accepted_at,"
    "   unnest(ARRAY[conversation_id, 'resp_' || substr(run_id, 5), principal]) AS entity"
    "  FROM runs WHERE run_id = ANY(CAST(:parents AS text[]))) AS of_run"
    " WHERE e.entity = of_run.entity AND e.done_at IS NOT NULL"
    " AND e.asked_at >= of_run.accepted_at"
)


async def write_rows(connection: AsyncConnection, rows: Rows) -> None:
    """Write a folded batch inside the caller's transaction."""
    if not rows.events:
        return
    # In one order everywhere: two workers with the same run in their batches must not deadlock.
    runs = [rows.runs[key] for key in sorted(rows.runs)]
    if runs:
        await _UPSERT_RUNS.run(connection, _columns(runs, _RUN_COLUMNS))
    attempts = [rows.attempts[key] for key in sorted(rows.attempts)]
    if attempts:
        await _UPSERT_ATTEMPTS.run(connection, _columns(attempts, _ATTEMPT_COLUMNS))
    events = [rows.events[key] for key in sorted(rows.events)]
    await _INSERT_EVENTS.run(connection, _columns(events, EventRow._fields))
    if rows.parents:
        await _ERASE_AGAIN.run(connection, {"parents": sorted(rows.parents)})


def _columns(rows: Sequence[object], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [getattr(row, name) for row in rows] for name in names}
