"""Carries out commands: each once, whole or not at all, and told to the log.

The effect, the command's own row and the event to be told are one transaction. Then the event is
stored, the answer sent, the command acked; whatever is missing after a crash is made up for when
the command is delivered again. That the log has the event is noted when it comes back from there,
with many others at once: see the projector.

Before anything is committed, the waiting edge has been told BEGUN and the bus has confirmed that:
an edge that never heard of a beginning can say that nothing was stored, and nothing will be.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import Text, any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bus
from schemas import subjects
from schemas.commands import BEGUN, Command, Reply, encode
from schemas.errors import (
    BusError,
    Gone,
    IdempotencyConflict,
    InvalidRequest,
    JanError,
    Unavailable,
)
from schemas.events import StateChanged, encode_event
from schemas.queries import encode_failure
from workers.persistence.changes import Effect, Row, apply, encode_rows
from workers.persistence.database import Database, describe, is_poison, is_transient
from workers.persistence.statements import Statement, pipelined
from workers.persistence.tables import processed_commands as processed

logger = structlog.get_logger()

_TRANSACTION_SECONDS: Final = 2.5  # less than the consumer waits for an ack
_ATTEMPTS: Final = 5  # of a transaction that lost against another one
_EVENT_SECONDS: Final = 2.0
_WORD_SECONDS: Final = 1.0
_LATEST: Final = 1.0  # seconds after its deadline in which a command that was begun may end

Decide = Callable[[AsyncConnection, Command, Any], Awaitable[Effect]]
FollowUp = Callable[[AsyncConnection, Bus, Command], Awaitable[None]]


class Action(NamedTuple):
    """What a command's body is, and what decides on its effect, in the transaction.

    `follow_up` is done before the answer is told, again with each delivery, and must bear that.
    """

    kind: type[msgspec.Struct]
    decide: Decide
    follow_up: FollowUp | None = None


class Done(NamedTuple):
    """A command that was carried out. `event` is what the log may not have yet."""

    digest: bytes
    event: bytes | None
    seq: int | None
    answer: bytes | None


class ToldEvent(msgspec.Struct, frozen=True):
    """An event on its way: its subject, its id, itself."""

    subject: str
    msg_id: str
    event: msgspec.Raw


class DatabaseAway(Exception):
    """It is not known whether the command was carried out: it must be delivered again."""


class Commander:
    """Does what commands say."""

    def __init__(self, database: Database, bus: Bus, actions: Mapping[str, Action]) -> None:
        self._database = database
        self._bus = bus
        self._actions = {
            name: (msgspec.json.Decoder(action.kind).decode, action.decide)
            for name, action in actions.items()
        }
        self._follow_ups = {name: action.follow_up for name, action in actions.items()}

    async def carry_out(self, name: str, command: Command) -> bytes:
        """Carry out a command and tell the log; return the Reply or the Failure, encoded.

        Raises DatabaseAway and BusError: it must be delivered again.
        """
        try:
            done = await self._done(name, command)
            await self._follow_up(name, command)
        except BusError:
            raise
        except JanError as error:
            return encode_failure(error)
        if done.answer is None:
            return encode_failure(Gone("what this made was deleted since", code="deleted"))
        seq = done.seq or await self.tell_log(done.event)
        return encode(Reply(seq, msgspec.Raw(done.answer)))

    async def _follow_up(self, name: str, command: Command) -> None:
        """Do what follows from a command elsewhere. Raises DatabaseAway, BusError."""
        follow_up = self._follow_ups[name]
        if follow_up is None:
            return
        try:
            async with self._database.connect(_TRANSACTION_SECONDS) as connection:
                await follow_up(connection, self._bus, command)
        except (SQLAlchemyError, OSError) as error:
            self._database.health.down(error)
            raise DatabaseAway from error

    async def tell_log(self, told: bytes | None) -> int:
        """Store a command's event; return its sequence."""
        if told is None:
            return 0
        event = msgspec.json.decode(told, type=ToldEvent)
        ack = await self._bus.store(
            event.subject, bytes(event.event), msg_id=event.msg_id, timeout=_EVENT_SECONDS
        )
        return ack.seq

    async def tell_all(self, told: Sequence[bytes]) -> None:
        """Store the events of several commands. Raises BusError."""
        await asyncio.gather(*[self.tell_log(event) for event in told])

    async def _done(self, name: str, command: Command) -> Done:
        """The command's outcome, from now or from before. Raises JanError if it is refused."""
        decode, decide = self._actions[name]
        try:
            body = decode(command.body)
        except (msgspec.DecodeError, ValueError) as error:
            raise InvalidRequest(f"the command {name} can't be read: {error}") from None
        for attempt in range(_ATTEMPTS):
            try:
                return await self._in_transaction(name, command, decide, body)
            except DBAPIError as error:
                if is_transient(error) and attempt < _ATTEMPTS - 1:
                    continue
                if is_poison(error):
                    raise InvalidRequest(f"the database refuses it: {describe(error)}") from error
                self._database.health.down(error)
                raise DatabaseAway from error
        raise AssertionError("unreachable")

    async def _in_transaction(
        self, name: str, command: Command, decide: Decide, body: msgspec.Struct
    ) -> Done:
        committing = False
        try:
            async with self._database.connect(_TRANSACTION_SECONDS) as connection:
                done = await claim(connection, name, command)
                if done is None:
                    _require_time(command)
                    effect = await decide(connection, command, body)
                    telling = asyncio.create_task(self._say_begun(command))
                    try:
                        done = await conclude(connection, Decided(command, effect))
                    finally:
                        await telling
                    _require_time(command, _LATEST)  # it may have stood still
                    committing = True
                    await connection.commit()
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, DBAPIError) and not committing:
                raise
            self._database.health.down(error)
            raise DatabaseAway from error
        self._database.health.up()
        return done

    async def _say_begun(self, command: Command) -> None:
        """Tell who waits that it may be committed from now on. Raises BusTimeout."""
        if command.reply_to:
            self._bus.publish(command.reply_to, BEGUN)
            await self._bus.arrived(_WORD_SECONDS)


def _require_time(command: Command, grace: float = 0.0) -> None:
    """Leave undone what nobody waits for any more. Raises Unavailable.

    Only once the command is claimed: an earlier delivery may have done it just in time.
    """
    if time.time() > command.deadline + grace:
        raise Unavailable("it took too long, and was not done", retry_after=1)


async def claim(connection: AsyncConnection, name: str, command: Command) -> Done | None:
    """Take a command in the caller's transaction; return what it did if it was done before.

    While another worker is at it, this waits for its end. Raises IdempotencyConflict if the id
    stands for another command.
    """
    return (await claim_all(connection, [(name, command)])).get(command.id)


async def claim_all(
    connection: AsyncConnection, commands: Sequence[tuple[str, Command]]
) -> dict[str, Done]:
    """Take commands, each with its name; return those that were done before, by id."""
    rows = [_to_row(name, command) for name, command in commands]
    rows.sort(key=itemgetter("id"))  # in one order everywhere, or two would deadlock
    async with pipelined(connection):  # with the beginning of the transaction
        claimed = await _CLAIM.all(
            connection, {column: [row[column] for row in rows] for column in rows[0]}
        )
    known = {row["id"]: row["digest"] for row in rows}
    for (claimed_id,) in claimed:
        del known[claimed_id]
    if not known:
        return {}
    found = {row.id: Done(*row[1:]) for row in await _FIND.all(connection, {"ids": list(known)})}
    if any(found[one].digest != digest for one, digest in known.items()):
        raise IdempotencyConflict(
            "the Idempotency-Key was used for another request", param="Idempotency-Key"
        )
    return found


def _to_row(name: str, command: Command) -> dict[str, Any]:
    return {
        "id": command.id,
        "principal": command.principal,
        "name": name,
        "digest": hashlib.sha256(name.encode() + b"\0" + command.body).digest(),
        "at": datetime.fromtimestamp(command.at, UTC),
    }


class Decided(NamedTuple):
    """A command with its effect, and the run that it follows from, if it does from one."""

    command: Command
    effect: Effect
    run_id: str | None = None


async def conclude(connection: AsyncConnection, decided: Decided) -> Done:
    """Write a command's effect, and its event to be told, in the caller's transaction."""
    [done] = await conclude_all(connection, [decided])
    return done


async def conclude_all(connection: AsyncConnection, decided: Sequence[Decided]) -> list[Done]:
    """Write the effects of commands, in one round trip."""
    if not decided:
        return []
    done = [Done(b"", encode(_to_told(one)), None, one.effect.answer) for one in decided]
    values = {
        "ids": [one.command.id for one in decided],
        "entities": [one.effect.entity for one in decided],
        "events": [one.event for one in done],
        "answers": [one.answer for one in done],
    }
    rows: dict[str, list[Row]] = {}
    for one in decided:
        for table, changed in one.effect.rows.items():
            rows.setdefault(table, []).extend(changed)
    async with pipelined(connection):
        await _CONCLUDE.run(connection, values)
        await apply(connection, rows, locked=True)
    return done


def _to_told(decided: Decided) -> ToldEvent:
    command, effect, run_id = decided
    event = StateChanged(
        command=command.id,
        principal=command.principal,
        entity=effect.entity,
        at=command.at,
        rows=encode_rows(effect.rows),
        run_id=run_id,
        request_id=command.request_id or None,
    )
    return ToldEvent(
        subjects.state_event(effect.noun, effect.verb, effect.entity),
        f"EVENTS:{effect.noun}.{effect.verb}:{command.id}:0",
        msgspec.Raw(encode_event(event)),
    )


_CLAIM = Statement(
    "INSERT INTO processed_commands (id, principal, name, entity, digest, at)"
    " SELECT id, principal, name, '', digest, at FROM unnest(CAST(:id AS text[]),"
    " CAST(:principal AS text[]), CAST(:name AS text[]), CAST(:digest AS bytea[]),"
    " CAST(:at AS timestamptz[])) AS asked(id, principal, name, digest, at)"
    " ON CONFLICT DO NOTHING RETURNING id"
)
_FIND = Statement(
    select(processed.c.id, *[processed.c[name] for name in Done._fields]).where(
        processed.c.id == any_(bindparam("ids", type_=ARRAY(Text)))
    )
)
_CONCLUDE = Statement(
    "UPDATE processed_commands AS p"
    " SET entity = done.entity, event = done.event, answer = done.answer"
    " FROM unnest(CAST(:ids AS text[]), CAST(:entities AS text[]), CAST(:events AS bytea[]),"
    " CAST(:answers AS bytea[])) AS done(id, entity, event, answer) WHERE p.id = done.id"
)
_NOTE = Statement(
    "UPDATE processed_commands AS p SET event = NULL, seq = told.seq"
    " FROM unnest(CAST(:ids AS text[]), CAST(:seqs AS int8[])) AS told(id, seq)"
    " WHERE p.id = told.id AND p.event IS NOT NULL"
)


async def note_told(connection: AsyncConnection, told: Mapping[str, int]) -> None:
    """Note where the log has the events of commands, in the caller's transaction.

    Not noted, an event is only told once more, if its command is delivered again.
    """
    if told:
        ids = sorted(told)
        await _NOTE.run(connection, {"ids": ids, "seqs": [told[one] for one in ids]})
