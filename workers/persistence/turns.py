"""Stores what runs generate: in conversations, as stored completions and as responses.

It follows from a run's two facts alone, in the order of the log and in the transaction that takes
`run.finished` in. A row of `processed_commands` makes it happen once; the fact that tells it is
stored after the commit, and again if it is not known whether it was.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import structlog
from sqlalchemy import Text, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bus, ObjectStore
from schemas import ids, subjects
from schemas.api.history import last_text, to_answer_items, to_input_items
from schemas.api.items import Item, id_prefix
from schemas.commands import Command, RunInference, encode
from schemas.errors import NotFound
from schemas.events import RunAccepted, RunFinished, decode_run_accepted, decode_run_finished
from workers.persistence import responses
from workers.persistence.changes import Effect, Row
from workers.persistence.commander import Decided, claim_all, conclude_all
from workers.persistence.commands.conversations import NOUN, append, touch
from workers.persistence.facts import Fact
from workers.persistence.held import Held, hold
from workers.persistence.refusals import is_refused
from workers.persistence.statements import Statement
from workers.persistence.tables import run_events
from workers.persistence.titles import COUNTED, is_due, to_title

logger = structlog.get_logger()

_BEFORE: Final = 2.0  # seconds before a run's making, from where the log is looked through for it
_PAUSES: Final = (0.05, 0.2, 0.5)  # seconds between looks for it
_UNREADABLE: Final = (
    msgspec.DecodeError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    RecursionError,
)
_MARKS: Final = (b'"turn":', b'"store":true')

Told = bytes  # an event that the log may not have yet


class Teller(Protocol):
    """What stores events of what was done."""

    async def tell_all(self, told: Sequence[Told]) -> None:
        """Store events. Raises BusError."""


class Ended(NamedTuple):
    """A run that has ended and is to be stored."""

    accepted: RunAccepted
    finished: RunFinished
    asked: "_Request"
    request: bytes

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.finished.run_id

    @property
    def command(self) -> RunInference:
        """What was asked for."""
        return self.accepted.command


Stored = Literal["completion", "response", "turn"]


class Part(NamedTuple):
    """One thing that is stored of a run that has ended, by a command of its own."""

    what: Stored
    end: Ended
    command: Command

    @classmethod
    def of(cls, what: Stored, end: Ended) -> "Part":
        """Make its command."""
        command = Command(
            id=f"{what}:{end.run_id}",
            principal=end.command.principal,
            at=end.finished.at,
            deadline=0.0,
            body=msgspec.Raw(encode(end.run_id)),
            request_id=end.command.request_id,
        )
        return cls(what, end, command)


@dataclass(slots=True)
class Ends:
    """What a batch of the log says of runs that are to be stored, in its order."""

    finished: dict[str, RunFinished] = field(default_factory=dict)
    accepted: dict[str, RunAccepted] = field(default_factory=dict)


class _Request(msgspec.Struct):
    """What is kept of a client's request."""

    messages: msgspec.Raw = msgspec.Raw(b"[]")
    metadata: dict[str, str] | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode
_decode_body = msgspec.json.Decoder(dict[str, Any]).decode


def find_ends(facts: Iterable[Fact]) -> Ends:
    """Find the runs that have ended and are to be stored, and what the batch says of them.

    An imported fact decides nothing: what followed from it is in the log as well.
    """
    ends = Ends()
    told = [fact for fact in facts if fact.noun == "run" and not fact.imported]
    for fact in told:
        if fact.verb == "finished" and any(mark in fact.data for mark in _MARKS):
            finished = _read(decode_run_finished, fact)
            if finished is not None and (finished.store or finished.turn is not None):
                ends.finished.setdefault(finished.run_id, finished)
    if ends.finished:
        for fact in told:
            accepted = _read(decode_run_accepted, fact) if fact.verb == "accepted" else None
            if accepted is not None:
                ends.accepted[accepted.command.run_id] = accepted
    return ends


class Turns:
    """Stores the ends of runs. `teller` stores the events."""

    def __init__(self, bus: Bus, objects: ObjectStore, teller: Teller) -> None:
        self._bus = bus
        self._objects = objects
        self._teller = teller

    async def store(
        self, connection: AsyncConnection, ends: Ends, others: Iterable[str] = ()
    ) -> list[Told]:
        """Store what runs generated, in the caller's transaction; return what to tell after it.

        `others` are further conversations that the transaction will write. Raises BusError if the
        log can't be read.
        """
        known = await self._complete(connection, ends)
        parts = [
            Part.of("response" if end.command.kind == "response" else "completion", end)
            for end in known
            if end.finished.store or end.command.kind == "response"
        ]
        parts += [Part.of("turn", end) for end in known if end.finished.turn is not None]
        if not parts:
            return []
        branches = {
            (turn.conversation, turn.branch) for end in known if (turn := end.finished.turn)
        }
        held = await hold(connection, branches, others)
        before = await claim_all(
            connection, [(f"runs.store_{one.what}", one.command) for one in parts]
        )
        decided = []
        for one in parts:
            if one.command.id not in before:
                effect = await _to_effect(connection, held, one)
                if effect is not None:
                    decided.append(Decided(one.command, effect, one.end.run_id))
        done = [*before.values(), *await conclude_all(connection, decided)]
        return [one.event for one in done if one.event is not None]

    async def tell(self, told: Sequence[Told]) -> None:
        """Tell the log what was stored. Raises BusError: it must be delivered again."""
        if told:
            await self._teller.tell_all(told)

    async def _complete(self, connection: AsyncConnection, ends: Ends) -> list[Ended]:
        """Find what each of the runs was asked for, in the order in which they ended."""
        missing = [run_id for run_id in ends.finished if run_id not in ends.accepted]
        found = dict(ends.accepted)
        if missing:
            seqs = dict(await _ACCEPTED.all(connection, {"runs": missing}))
            for accepted in await asyncio.gather(
                *[self._read_accepted(run_id, seqs.get(run_id)) for run_id in missing]
            ):
                if accepted is not None:
                    found[accepted.command.run_id] = accepted
        known: list[Ended] = []
        for run_id, finished in ends.finished.items():
            request = await self._read_request(found[run_id]) if run_id in found else b""
            try:
                asked = _decode_request(request)
            except msgspec.DecodeError:
                logger.error("what a run was asked for is not known: not stored", run_id=run_id)
            else:
                known.append(Ended(found[run_id], finished, asked, request))
        return known

    async def _read_accepted(self, run_id: str, seq: int | None) -> RunAccepted | None:
        """Read that a run was accepted from the log; another worker may be just taking it in."""
        if seq is not None:
            stored = await self._bus.message_at(subjects.EVENTS, seq)
            return decode_run_accepted(stored.data) if stored is not None else None
        for pause in (*_PAUSES, None):
            accepted = await self._look_for_accepted(run_id)
            if accepted is not None or pause is None:
                return accepted
            await asyncio.sleep(pause)  # two streams: a run may end before the log has its begin
        return None

    async def _look_for_accepted(self, run_id: str) -> RunAccepted | None:
        made = datetime.fromtimestamp(ids.created_ms(run_id) / 1000 - _BEFORE, UTC)
        shard = self._bus.read_subject(
            subjects.EVENTS, subjects.run_event("accepted", run_id), start_time=made.isoformat()
        )
        async for stored in shard:
            if run_id.encode() in stored.data:
                accepted = decode_run_accepted(stored.data)
                if accepted.command.run_id == run_id:
                    return accepted
        return None

    async def _read_request(self, accepted: RunAccepted) -> bytes:
        """Read a client's own JSON. One that was too old for the object store has no messages."""
        command = accepted.command
        data = bytes(command.request) if command.request is not None else b"{}"
        if command.request_ref is not None:
            try:
                data = await self._objects.get(command.request_ref)
            except NotFound:
                logger.error("a request is gone: stored without it", run_id=command.run_id)
        return data


async def _to_effect(connection: AsyncConnection, held: Held, part: Part) -> Effect | None:
    end = part.end
    match part.what:
        case "turn":
            return await _to_turn(connection, held, end)
        case "response":
            return await responses.to_response(connection, end.accepted, end.finished, end.request)
        case "completion":
            return _to_completion(end)


async def _to_turn(connection: AsyncConnection, held: Held, end: Ended) -> Effect | None:
    """A run's messages and its answer on a branch; None if there is none any more."""
    turn = end.finished.turn
    assert turn is not None
    said, answered = await _to_items(connection, end)
    row = held.find((turn.conversation, turn.branch), end.command.principal)
    if row is None or not (said or answered):
        return None
    _retitle(held, row, said)
    items = append(row, turn.branch, said, end.accepted.at, run_id=end.run_id)
    items += append(row, turn.branch, answered, end.finished.at, run_id=end.run_id)
    touch(row, end.finished.at)
    # As it is after this turn: the next one of the batch changes it again.
    rows = {"conversations": [dict(row)], "conversation_items": items}
    return Effect(NOUN, "turn_added", turn.conversation, rows, b"null")


async def _to_items(connection: AsyncConnection, end: Ended) -> tuple[list[Item], list[Item]]:
    """What was said and what was answered, with ids that are the same whoever makes them.

    Nothing of a request that was refused: it would be in the way of every later one.
    """
    finished = end.finished
    if end.command.kind == "response":
        return await responses.to_said(connection, end.command, finished, end.request)
    if is_refused(finished):
        return [], []
    said = _read_items(end, lambda: to_input_items(_decode_messages(end.asked.messages)))
    answered = []
    if finished.result is not None:
        result, whole = finished.result, finished.status == "completed"
        answered = _read_items(end, lambda: to_answer_items(_decode_body(result), whole=whole))
    for number, item in enumerate((*said, *answered)):
        item["id"] = ids.derived_id(id_prefix(item["type"]), end.run_id, number)
    return said, answered


def _read_items(end: Ended, read: Callable[[], list[Item]]) -> list[Item]:
    """What a client or an upstream has said; nothing if nobody can read it."""
    try:
        return read()
    except _UNREADABLE as error:
        what = type(error).__name__  # its text, and its locals, may have what was said
        logger.error("a part of a run is not stored: no reading it", run_id=end.run_id, error=what)
        return []


def _retitle(held: Held, row: Row, said: Sequence[Item]) -> None:
    """Give a conversation a title from what its user says, unless it was given one by hand."""
    text = last_text(said)
    if row["title_locked"] or text is None:
        return
    before = held.spoken[row["id"]]
    after = held.spoken[row["id"]] = before + sum(item.get("role") == "user" for item in said)
    if before < COUNTED and is_due(before, after):
        row["title"] = to_title(text) or row["title"]


def _to_completion(end: Ended) -> Effect | None:
    """A stored completion; None if the run has come to nothing."""
    command, result = end.command, end.finished.result
    if result is None:
        return None
    completion_id = ids.public_id(end.run_id, command.kind)
    row: Row = {
        "id": completion_id,
        "principal": command.principal,
        "version": 1,
        "run_id": end.run_id,
        "model": command.model,
        "metadata": end.asked.metadata or {},
        "messages": bytes(end.asked.messages),
        "body": bytes(result),
        "created_at": command.created,
        "deleted_at": None,
    }
    return Effect("completion", "stored", completion_id, {"stored_completions": [row]}, b"null")


def _read(decode: Any, fact: Fact) -> Any:
    """Read a fact; what can't be read is told by whoever projects it."""
    try:
        return decode(fact.data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


_ACCEPTED = Statement(
    select(run_events.c.run_id, func.min(run_events.c.seq).label("seq"))
    .where(
        run_events.c.run_id == any_(bindparam("runs", type_=ARRAY(Text))),
        run_events.c.verb == "accepted",
    )
    .group_by(run_events.c.run_id)
)
