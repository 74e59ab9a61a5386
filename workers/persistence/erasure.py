"""Legal deletion: what was deleted goes from the log, the streams and the object store too.

A tombstone asks for it (`changes.apply` notes it in `erasures`). What runs did is told once more
without its content, on `events.erased.<verb>`, so that usage stays counted when the tables are made
anew; then the facts themselves are overwritten in the log, one by one, by their place in the index.
So are those of a response's steps and of its calls of tools.
What was deleted inside a conversation is taken out of its facts (redaction.py). Everything here can
be done twice.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import (
    Select,
    and_,
    bindparam,
    delete,
    exists,
    false,
    or_,
    select,
    text,
    union,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bus, ObjectStore, streams
from schemas import subjects
from schemas.commands import digest_of
from schemas.errors import JanError
from schemas.events import decode_run_accepted, decode_run_finished, encode_event
from schemas.objects import EXPORTS, exports_of, request_name, resolved_name
from schemas.tools import ToolFinished, decode_tool_finished, decode_tool_result
from workers.persistence import positions, redaction
from workers.persistence.database import Database, describe
from workers.persistence.facts import Fact
from workers.persistence.projections import entities
from workers.persistence.tables import (
    entity_events,
    erasures,
    processed_commands,
    run_events,
    runs,
    shares,
)

logger = structlog.get_logger()

CALL_ENDED: Final = "tool.finished"  # of the calls of tools that the run made
_EVERY: Final = 2.0  # seconds between looks
_RUNS_AT_ONCE: Final = 500
_SAID: Final = ("accepted", "finished", CALL_ENDED)  # the facts about a run that have content
_SECONDS: Final = 10.0  # of one read or write of the database
_PASS_SECONDS: Final = 600.0  # of one look with all that is due then
_LOCK: Final = 0x6A616E_657261  # "janera": one worker at a time
_DELETIONS: Final = r"\.(delete(_many)?|forget)$"  # names of commands whose answers have no content
_EXPORTED: Final = ("conversations", "deleted_users")  # whose content exports may have
_QUEUES: Final = (subjects.COMMANDS, subjects.JOBS)


class Asked(NamedTuple):
    """An erasure that is due."""

    entity: str
    kind: str  # conversations, stored_completions, deleted_users, …: the table of the tombstone
    principal: str
    asked_at: Any
    within: str | None = None  # the conversation of an item or a share


class Place(NamedTuple):
    """A fact in the log."""

    seq: int
    verb: str
    run_id: str | None


class Eraser:
    """Carries out erasures, oldest first, until it is stopped."""

    def __init__(self, database: Database, bus: Bus, objects: ObjectStore) -> None:
        self._database = database
        self._bus = bus
        self._objects = objects
        self._emptied = True

    async def run(self) -> None:
        """Look for what is due until cancelled; what fails is done again."""
        while True:
            try:
                while await self.erase_some():
                    self._emptied = False
                if not self._emptied:
                    self._emptied = await self._empty_queues()
            except (SQLAlchemyError, OSError, JanError) as error:
                logger.warning("an erasure is tried again", error=describe(error))
            await asyncio.sleep(_EVERY)

    async def erase_some(self) -> int:
        """Carry out some of what is due; return how many, 0 while another worker is at it.

        Two at once could tell each other's facts again with what they are to erase.
        """
        if not await self._find_due():
            return 0
        async with self._database.connect(_PASS_SECONDS) as connection:
            holder = await connection.execution_options(isolation_level="AUTOCOMMIT")
            try:
                if not await holder.scalar(_TAKE, {"key": _LOCK}):
                    return 0
                due = await self._find_due()
                await self._erase_all(due)
            finally:
                await holder.invalidate()  # the lock ends with its connection
        return len(due)

    async def _find_due(self) -> list[Asked]:
        async with self._database.connect(_SECONDS) as connection:
            return [Asked(*row) for row in await connection.execute(_DUE)]

    async def _erase_all(self, due: Sequence[Asked]) -> None:
        for asked in due:
            if asked.within is None:
                await self._erase(asked)
        for within, principal in {(one.within, one.principal) for one in due if one.within}:
            await self._erase_parts(within, principal)

    async def _erase(self, asked: Asked) -> None:
        async with self._database.connect(_SECONDS) as connection:
            run_ids = [row.run_id for row in await connection.execute(_runs_of(asked))]
            places = await _find_places(connection, asked, run_ids)
        for place in places:
            await self._erase_fact(place)
        await self._erase_runs(run_ids)
        if asked.kind in _EXPORTED:
            await self._erase_exports(asked.principal)
        async with self._database.connect(_SECONDS) as connection:
            await _forget(connection, asked, run_ids, places)
            if len(run_ids) < _RUNS_AT_ONCE:
                await connection.execute(_DONE, {"which": asked.entity})
            await connection.commit()
        logger.info("erased", what=asked.kind, id=asked.entity, facts=len(places))

    async def _erase_parts(self, within: str, principal: str) -> None:
        """Erase what was deleted inside a conversation, and what its runs say of it."""
        async with self._database.connect(_SECONDS) as connection:
            parts = await redaction.find_parts(connection, within)
            seqs = await redaction.find_facts(connection, parts)
            run_ids = await _with_steps(connection, parts.run_ids)
            places = await _find_said(connection, run_ids)
        redacted = [fact for seq in seqs if (fact := await self._redact(seq, parts))]
        for place in places:
            await self._erase_fact(place)
        await self._erase_runs(run_ids)
        await self._erase_exports(principal)
        places += [Place(fact.seq, "", None) for fact in redacted]
        async with self._database.connect(_SECONDS) as connection:
            await _forget_places(connection, run_ids, places)
            await redaction.note_done(connection, parts, redacted)
            await connection.commit()
        logger.info("erased", what="parts", id=within, parts=len(parts.ids), facts=len(places))

    async def _redact(self, seq: int, parts: redaction.Parts) -> redaction.Redacted | None:
        """Tell a fact once more without what was deleted, if it has that, and overwrite it."""
        stored = await self._bus.message_at(subjects.EVENTS, seq)
        if stored is None:
            return redaction.Redacted(seq, None)
        event = redaction.redact(stored.data, parts.ids)
        if event is None:
            return None
        data = encode_event(event)
        # Once more after a crash it may be without something else, too: that is another message.
        msg_id = f"EVENTS:redacted:{seq}:{digest_of(data)}"
        ack = await self._bus.store(stored.subject, data, msg_id=msg_id)
        await streams.erase(self._bus, subjects.EVENTS, seq)
        fact = Fact(ack.seq, stored.subject, data, stored.time)
        return redaction.Redacted(seq, entities.to_row(fact, event))

    async def _erase_runs(self, run_ids: Sequence[str]) -> None:
        """What runs were asked and what they generated, where it lies for a day and for an hour."""
        for run_id in run_ids:
            for name in (request_name(run_id), resolved_name(run_id)):
                await self._objects.delete(name)
            await self._erase_frames(run_id)

    async def _erase_exports(self, principal: str) -> None:
        """Exports hold all of a principal's conversations, as they were."""
        await self._objects.expire(EXPORTS, time.time(), exports_of(principal))

    async def _erase_fact(self, place: Place) -> None:
        stored = await self._bus.message_at(subjects.EVENTS, place.seq)
        if stored is None:
            return
        if place.verb == CALL_ENDED:
            await self._erase_call(decode_tool_finished(stored.data))
        if place.run_id is not None:
            without = to_content_free(place.verb, stored.data)
            if without is not None:
                verb = place.verb.split(".")[0]
                await self._bus.store(
                    subjects.erased_event(verb, place.run_id),
                    without,
                    msg_id=f"EVENTS:erased.{verb}:{place.run_id}:{place.seq}",
                )
        await streams.erase(self._bus, subjects.EVENTS, place.seq)

    async def _erase_call(self, call: ToolFinished) -> None:
        """What a call wrote into its frames, and the files that it made."""
        await self._erase_frames(call.call_id)
        with suppress(msgspec.DecodeError):  # the log may have it shortened
            result = decode_tool_result(call.result or b"")
            for artifact in result.artifacts:
                await self._objects.delete(artifact.reference)

    async def _erase_frames(self, run_id: str) -> None:
        """What a run generated is kept for an hour: end that now."""
        frames = self._bus.read_subject(subjects.TOKENS, subjects.frames_anywhere(run_id))
        for seq in [stored.seq async for stored in frames]:
            await streams.erase(self._bus, subjects.TOKENS, seq)

    async def _empty_queues(self) -> bool:
        """Drop the files of queues that are empty: what was taken from them still lies there.

        Only what is before the next message to come: nothing is lost. Return whether all were.
        """
        return all([await streams.compact_empty(self._bus, queue) for queue in _QUEUES])


def to_content_free(verb: str, data: bytes) -> bytes | None:
    """A run's fact without what was said; None if nothing of it has to stay."""
    if verb == "accepted":
        event = decode_run_accepted(data)
        command = msgspec.structs.replace(
            event.command, request=None, request_ref=None, sources=None, webhook=None
        )
        return encode_event(msgspec.structs.replace(event, command=command))
    if verb == "finished":
        finished = decode_run_finished(data)
        return encode_event(msgspec.structs.replace(finished, result=None, error=None, told={}))
    if verb == CALL_ENDED:
        call = decode_tool_finished(data)
        return encode_event(msgspec.structs.replace(call, arguments=None, result=None, error=None))
    return None


def _runs_of(asked: Asked) -> Select[tuple[str]]:
    """Some of the runs that an erasure is about, and their steps, whose content the log has."""
    table = runs.c
    match asked.kind:
        case "conversations":
            condition = table.conversation_id == asked.entity
        case "stored_completions":
            condition = table.run_id == asked.entity.replace("chatcmpl-", "run_", 1)
        case "responses":
            condition = table.run_id == asked.entity.replace("resp_", "run_", 1)
        case "deleted_users":
            condition = and_(
                table.principal == asked.principal, table.accepted_at <= asked.asked_at
            )
        case _:
            condition = false()
    found = select(table.run_id).where(condition).cte("found")
    steps = select(table.run_id).join(found, table.parent == found.c.run_id)
    named = union(select(found.c.run_id), steps).subquery()
    said = exists().where(run_events.c.run_id == named.c.run_id, run_events.c.verb.in_(_SAID))
    return select(named.c.run_id).where(said).limit(_RUNS_AT_ONCE)


async def _with_steps(connection: AsyncConnection, run_ids: Sequence[str]) -> list[str]:
    """Runs, and the steps that they consist of."""
    steps = await connection.scalars(select(runs.c.run_id).where(runs.c.parent.in_(run_ids)))
    return [*run_ids, *steps]


async def _find_places(
    connection: AsyncConnection, asked: Asked, run_ids: Sequence[str]
) -> list[Place]:
    """Where what was said lies in the log. That it was deleted stays told."""
    runs_said = await _find_said(connection, run_ids)
    table = entity_events.c
    if asked.kind == "deleted_users":
        about = and_(table.principal == asked.principal, table.at <= asked.asked_at)
    else:
        shared = select(shares.c.id).where(shares.c.conversation_id == asked.entity)
        about = or_(table.entity == asked.entity, table.entity.in_(shared))
    of_entity = select(table.seq, table.verb).where(about, ~table.verb.like("%deleted"))
    others = [Place(row.seq, row.verb, None) for row in await connection.execute(of_entity)]
    return runs_said + others


async def _find_said(connection: AsyncConnection, run_ids: Sequence[str]) -> list[Place]:
    """Where what runs were asked and what they answered lies in the log."""
    of_runs = select(run_events.c.seq, run_events.c.verb, run_events.c.run_id).where(
        run_events.c.run_id.in_(run_ids), run_events.c.verb.in_(_SAID)
    )
    return [Place(row.seq, row.verb, row.run_id) for row in await connection.execute(of_runs)]


async def _forget_places(
    connection: AsyncConnection, run_ids: Sequence[str], places: Sequence[Place]
) -> None:
    """Forget where facts were."""
    of_runs = [place.seq for place in places if place.run_id is not None]
    of_entities = [place.seq for place in places if place.run_id is None]
    await connection.execute(
        delete(run_events).where(run_events.c.seq.in_(of_runs), run_events.c.run_id.in_(run_ids))
    )
    await connection.execute(delete(entity_events).where(entity_events.c.seq.in_(of_entities)))
    await positions.note_erased(connection, of_runs + of_entities)
    await connection.execute(update(runs).where(runs.c.run_id.in_(run_ids)).values(error=None))


async def _forget(
    connection: AsyncConnection, asked: Asked, run_ids: Sequence[str], places: Sequence[Place]
) -> None:
    """Forget where the facts were, and what commands were answered but that it was deleted."""
    await _forget_places(connection, run_ids, places)
    done = processed_commands.c
    about = done.entity == asked.entity
    if asked.kind == "deleted_users":
        about = and_(done.principal == asked.principal, done.at <= asked.asked_at)
    await connection.execute(
        update(processed_commands)
        .where(about, done.seq.is_not(None), ~done.name.regexp_match(_DELETIONS))
        .values(answer=None)
    )


# A run that is still at work would write more: it is waited for, as long as it can take. So are
# facts about the conversation of an item or a share that the log is still to be told.
_DUE = text(
    "SELECT entity, kind, principal, asked_at, within FROM erasures AS e"
    " WHERE done_at IS NULL AND asked_at < now() - interval '2 seconds' AND NOT EXISTS ("
    "  SELECT 1 FROM runs AS r WHERE r.status IN ('accepted', 'running')"
    "  AND r.accepted_at > now() - interval '1 hour'"
    "  AND (r.conversation_id = e.entity"
    "   OR (e.kind = 'deleted_users' AND r.principal = e.principal)))"
    " AND NOT EXISTS ("
    "  SELECT 1 FROM processed_commands AS p WHERE p.entity = e.within AND p.event IS NOT NULL)"
    " ORDER BY asked_at LIMIT 20"
)
_TAKE = text("SELECT pg_try_advisory_lock(:key)")
_DONE = (
    update(erasures).where(erasures.c.entity == bindparam("which")).values(done_at=text("now()"))
)
