"""Makes tables anew from the log: in tables of their own beside the real ones, then compared.

Readers and writers go on meanwhile. At the end the real tables are locked for as long as it takes
to catch up, compare and, where they differ, put in what the log says.
"""

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec
from sqlalchemy import Table, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bus, streams
from schemas import subjects
from schemas.events import decode_state_changed
from workers.persistence import changes, positions
from workers.persistence.commander import ToldEvent
from workers.persistence.database import is_poison, is_transient, open_engine
from workers.persistence.facts import Fact, to_fact
from workers.persistence.projector import Batch, to_batch, write
from workers.persistence.tables import (
    conversation_branches,
    conversation_items,
    conversations,
    deleted_users,
    entity_events,
    metadata,
    processed_commands,
    projects,
    prompt_templates,
    response_items,
    responses,
    run_attempts,
    run_events,
    runs,
    shares,
    stored_completions,
    user_settings,
)

PROJECTIONS: Final[dict[str, tuple[Table, ...]]] = {
    "runs": (runs, run_attempts, run_events),
    "conversations": (conversations, conversation_branches, conversation_items, shares),
    "projects": (projects,),
    "settings": (user_settings,),
    "prompts": (prompt_templates,),
    "completions": (stored_completions,),
    "responses": (responses, response_items),
    "history": (entity_events,),
    "users": (deleted_users,),
}
_SHADOW: Final = "rebuild"
_BATCH: Final = 1000
_ATTEMPTS: Final = 5  # of locking: somebody who writes may want the same tables the other way round
_LOCK: Final = 0x6A616E_726264  # "janrbd": one rebuild at a time

Progress = Callable[[int, int], None]  # the sequence that was taken in, the last one


class Incomplete(Exception):
    """The log does not go back to the beginning; the message says since when it does."""


class InUse(Exception):
    """Another rebuild is under way."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What the log says of a table, against what is there."""

    table: str
    rows: int  # as the log has them
    missing: int  # rows that are not there
    extra: int  # rows that should not be there, or not so

    @property
    def equal(self) -> bool:
        """Whether it is as the log says."""
        return not self.missing and not self.extra


@dataclass(slots=True)
class Rebuild:
    """One rebuild of some projections. `older`: facts from an export, before the log's first."""

    database_url: str
    bus: Bus
    names: Sequence[str]
    older: Iterable[Fact] = ()
    only_check: bool = False
    progress: Progress = lambda _seq, _last: None
    _seen: int = field(default=0, init=False)

    async def run(self) -> list[Compared]:
        """Do it; return how the tables compared before. Raises Incomplete, InUse, BusError."""
        first, _ = await streams.bounds(self.bus, subjects.EVENTS)
        older = iter(self.older)
        head = next(older, None)
        engine = open_engine(self.database_url, pool_size=1)
        try:
            async with engine.connect() as connection:
                await _claim(connection)
                begins = min(first, head.seq) if head is not None else first
                if not await positions.is_whole(connection, begins):
                    raise Incomplete(
                        f"the log begins with its message {first}: an export has the older ones"
                    )
                await _make_shadow(connection)
                if head is not None:
                    for facts in _chunks((head, *older), before=first):
                        await self._take(connection, facts)
                await self._catch_up(connection)
                return await self._settle(connection)
        finally:
            await engine.dispose()

    async def _catch_up(self, connection: AsyncConnection) -> None:
        _, last = await streams.bounds(self.bus, subjects.EVENTS)
        facts: list[Fact] = []
        async for fact in self._after(self._seen):
            facts.append(fact)
            if len(facts) == _BATCH:
                await self._take(connection, facts)
                self.progress(self._seen, last)
                facts = []
        await self._take(connection, facts)
        self.progress(self._seen, max(self._seen, last))

    async def _after(self, seq: int) -> AsyncIterator[Fact]:
        async for stored in self.bus.read_subject(subjects.EVENTS, "events.>", seq + 1):
            yield to_fact(stored)

    async def _take(self, connection: AsyncConnection, facts: Sequence[Fact]) -> None:
        """Write facts into the shadow. What can't be stored was buried when it first came."""
        if not facts:
            return
        try:
            async with _shadow(connection):
                await write(connection, self._chosen(to_batch(facts)[0]))
            await connection.commit()
        except DBAPIError as error:
            await connection.rollback()
            if not is_poison(error):
                raise
            middle = len(facts) // 2
            for half in (facts[:middle], facts[middle:]) if middle else ():
                await self._take(connection, half)
        self._seen = facts[-1].seq

    def _chosen(self, batch: Batch) -> Batch:
        """Only what belongs to the projections that are made anew; no place in the log."""
        tables = {table.name for table in self._tables()}
        return Batch(
            of_runs=batch.of_runs if "runs" in self.names else Batch().of_runs,
            state={name: rows for name, rows in batch.state.items() if name in tables},
            of_entities=batch.of_entities if "history" in self.names else [],
        )

    def _tables(self) -> list[Table]:
        return [table for name in self.names for table in PROJECTIONS[name]]

    async def _settle(self, connection: AsyncConnection) -> list[Compared]:
        """Lock the tables, catch up, compare, and replace what differs."""
        for attempt in range(_ATTEMPTS):
            try:
                compared = await self._settle_once(connection)
            except DBAPIError as error:
                await connection.rollback()
                if not is_transient(error) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                await connection.execute(text(f"DROP SCHEMA {_SHADOW} CASCADE"))
                await connection.commit()
                return compared
        raise AssertionError("unreachable")

    async def _settle_once(self, connection: AsyncConnection) -> list[Compared]:
        tables = self._tables()
        named = ["processed_commands", *[table.name for table in tables], "projection_positions"]
        locks = ", ".join(f"public.{name}" for name in named)
        await connection.execute(text(f"LOCK TABLE {locks} IN SHARE ROW EXCLUSIVE MODE"))
        # The real tables may be behind the log, and the log behind a command that has just been
        # carried out: both are brought to the same point.
        rest = [fact async for fact in self._after(self._seen)]
        for batch in (to_batch(rest)[0], await _read_untold(connection)):
            async with _shadow(connection):
                await write(connection, self._chosen(batch))
        behind = [fact async for fact in self._after(await positions.reached(connection))]
        await write(connection, self._chosen(to_batch(behind)[0]))
        compared = [await _compare(connection, table) for table in tables]
        for table, found in zip(tables, compared, strict=True):
            if not found.equal and not self.only_check:
                await _replace(connection, table)
        await connection.commit()
        return compared


async def _claim(connection: AsyncConnection) -> None:
    """Be the only rebuild, for the connection's life. Raises InUse."""
    await connection.execute(text("SET statement_timeout = 0"))
    taken = text("SELECT pg_try_advisory_lock(:key)")
    if not await connection.scalar(taken, {"key": _LOCK}):
        raise InUse
    await connection.commit()


async def _make_shadow(connection: AsyncConnection) -> None:
    """Make empty tables like all of ours in a schema of their own."""
    await connection.execute(text(f"DROP SCHEMA IF EXISTS {_SHADOW} CASCADE"))
    await connection.execute(text(f"CREATE SCHEMA {_SHADOW}"))
    for name in metadata.tables:
        await connection.execute(
            text(
                f"CREATE TABLE {_SHADOW}.{name} (LIKE public.{name}"
                " INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING INDEXES)"
            )
        )
    await connection.commit()


@asynccontextmanager
async def _shadow(connection: AsyncConnection) -> AsyncIterator[None]:
    """Have every table's name mean the one in the shadow."""
    await connection.execute(text(f"SET LOCAL search_path = {_SHADOW}"))
    yield
    await connection.execute(text("SET LOCAL search_path = public"))


async def _read_untold(connection: AsyncConnection) -> Batch:
    """What commands have done that the log has not heard of yet."""
    found = await connection.scalars(
        select(processed_commands.c.event).where(processed_commands.c.event.is_not(None))
    )
    batch = Batch()
    for told in found:
        event = msgspec.json.decode(told, type=ToldEvent).event
        for table, rows in changes.decode_rows(decode_state_changed(event)).items():
            batch.state.setdefault(table, []).extend(rows)
    return batch


async def _compare(connection: AsyncConnection, table: Table) -> Compared:
    columns = _columns(table)
    made = f"SELECT {columns} FROM {_SHADOW}.{table.name}"  # noqa: S608 - own names
    real = f"SELECT {columns} FROM public.{table.name}"  # noqa: S608
    rows, missing, extra = [
        int(await connection.scalar(text(f"SELECT count(*) FROM ({question}) q")) or 0)  # noqa: S608
        for question in (made, f"{made} EXCEPT {real}", f"{real} EXCEPT {made}")
    ]
    return Compared(table.name, rows, missing, extra)


async def _replace(connection: AsyncConnection, table: Table) -> None:
    columns = _columns(table)
    await connection.execute(text(f"TRUNCATE public.{table.name}"))
    await connection.execute(
        text(
            f"INSERT INTO public.{table.name} ({columns})"  # noqa: S608 - own names
            f" SELECT {columns} FROM {_SHADOW}.{table.name}"
        )
    )


def _columns(table: Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.c if column.computed is None)


def _chunks(facts: Iterable[Fact], *, before: int) -> Iterator[list[Fact]]:
    """Cut what is older than the log into batches."""
    older = itertools.takewhile(lambda fact: fact.seq < before, facts)
    while chunk := list(itertools.islice(older, _BATCH)):
        yield chunk
