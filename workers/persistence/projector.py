"""Takes batches of the log into the database: each whole, and however often it is delivered."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import BusError, Unavailable
from schemas.events import decode_state_changed
from workers.persistence import changes, positions
from workers.persistence.commander import note_told
from workers.persistence.database import Database, is_poison, is_transient
from workers.persistence.facts import Fact
from workers.persistence.projections import entities, runs, tools
from workers.persistence.turns import Ends, Told, Turns, find_ends

logger = structlog.get_logger()

_OF_RUNS = ("run", "erased")  # the latter: told again without what was said
_TRANSACTION_SECONDS = 8.0  # less than the consumer waits for an ack
_PING_SECONDS = 2.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

Unusable = tuple[Fact, Exception]
StillAtWork = Callable[[], Awaitable[None]]
LogFloor = Callable[[], Awaitable[int]]


@dataclass(slots=True)
class Batch:
    """Facts, folded: what they say of runs, and the rows that they carry."""

    of_runs: runs.Rows = field(default_factory=runs.Rows)
    state: dict[str, list[changes.Row]] = field(default_factory=dict)
    of_entities: list[entities.Row] = field(default_factory=list)
    of_commands: dict[str, int] = field(default_factory=dict)  # where the log has their events
    sequences: list[int] = field(default_factory=list)


def to_batch(facts: Sequence[Fact]) -> tuple[Batch, list[Unusable]]:
    """Fold facts; those that can't be read come back with the reason."""
    batch = Batch(sequences=[fact.seq for fact in facts])
    unreadable: list[Unusable] = []
    for fact in facts:
        try:
            _fold(batch, fact)
        except (msgspec.DecodeError, ValueError, KeyError, RecursionError) as error:
            # ValueError: it is not UTF-8.
            unreadable.append((fact, error))
    return batch, unreadable


def _fold(batch: Batch, fact: Fact) -> None:
    if tools.is_about_call(fact):
        tools.fold(batch.of_runs, batch.of_entities, fact)
    elif fact.noun in _OF_RUNS:
        runs.fold(batch.of_runs, fact)
    elif fact.noun in changes.NOUNS:
        event = decode_state_changed(fact.data)
        for table, rows in changes.decode_rows(event).items():
            batch.state.setdefault(table, []).extend(rows)
        batch.of_entities.append(entities.to_row(fact, event))
        if event.command:
            batch.of_commands[event.command] = fact.seq


async def write(connection: AsyncConnection, batch: Batch) -> int:
    """Write a folded batch inside the caller's transaction; return what is reached then."""
    await runs.write_rows(connection, batch.of_runs)
    await changes.apply_told(connection, batch.state)
    await note_told(connection, batch.of_commands)
    await entities.write_rows(connection, batch.of_entities)
    return await positions.advance(connection, batch.sequences)


class Projector:
    """Writes facts, one transaction for each batch; waits for as long as the database is away.

    `log_floor` tells up to where nothing of the log is left to be handed out; `on_progress` is
    told, when a batch is in the database, up to where everything is. `turns` stores what runs have
    generated; without it, facts are written and nothing is decided on them.
    """

    def __init__(
        self,
        database: Database,
        log_floor: LogFloor,
        on_progress: Callable[[int], None] = lambda _: None,
        turns: Turns | None = None,
    ) -> None:
        self._turns = turns
        self._on_progress = on_progress
        self._database = database
        self._log_floor = log_floor
        self._stopping = asyncio.Event()

    async def project(self, facts: Sequence[Fact], still_at_work: StillAtWork) -> list[Unusable]:
        """Store a batch; return the facts that can't ever be stored, with the reason for each.

        `still_at_work` is called whenever the database makes us wait. Raises Unavailable once
        `stop` was called and it still does not answer, and BusError if what runs were asked for
        can't be read, or what was stored of them can't be told: all of it is then done again.
        """
        batch, unusable = to_batch(facts)
        try:
            await self._write(batch, still_at_work, facts)
        except DBAPIError as error:
            unreadable = {fact.seq for fact, _ in unusable}
            readable = [fact for fact in facts if fact.seq not in unreadable]
            if len(readable) == 1:
                await self._write_least(batch, still_at_work)
                return [*unusable, (readable[0], error)]
            await self._write(Batch(sequences=sorted(unreadable)), still_at_work)
            middle = len(readable) // 2
            for half in (readable[:middle], readable[middle:]):
                unusable += await self.project(half, still_at_work)
        return unusable

    async def pass_over(self, fact: Fact, still_at_work: StillAtWork) -> None:
        """Note that a fact was there, and write nothing of it. Raises Unavailable as `project`."""
        await self._write(Batch(sequences=[fact.seq]), still_at_work)

    async def _write_least(self, batch: Batch, still_at_work: StillAtWork) -> None:
        """Write of a refused fact what is left: a run has ended, and counts, without its turn."""
        try:
            await self._write(batch, still_at_work)
        except DBAPIError:
            await self._write(Batch(sequences=batch.sequences), still_at_work)

    async def _write(
        self, batch: Batch, still_at_work: StillAtWork, facts: Sequence[Fact] = ()
    ) -> None:
        """Write until it works. Raises DBAPIError if it is the values that the database refuses."""
        pause = _FIRST_PAUSE
        ends = find_ends(facts) if self._turns is not None else Ends()
        told: list[Told] = []
        while batch.sequences:
            try:
                async with self._database.connect(_TRANSACTION_SECONDS) as connection:
                    if self._turns is not None and ends.finished:
                        others = [row["id"] for row in batch.state.get("conversations", ())]
                        told = await self._turns.store(connection, ends, others)
                    reached = await write(connection, batch)
                    await connection.commit()
            except (SQLAlchemyError, OSError) as error:
                if isinstance(error, DBAPIError) and is_poison(error):
                    raise
                if not (isinstance(error, DBAPIError) and is_transient(error)):
                    self._database.health.down(error)
            else:
                self._database.health.up()
                self._on_progress(reached)
                if self._turns is not None:
                    await self._turns.tell(told)
                return
            await still_at_work()
            if await self._stops_within(pause):
                raise Unavailable("the worker stops while the database is away")
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def watch(self) -> None:
        """Until `stop`, every 2 s: does the database answer, and is something missing for good?

        An idle worker should know the former too. What was erased from the log before anybody read
        it would otherwise keep readers waiting for it.
        """
        while not self._stopping.is_set():
            try:
                async with self._database.connect(_PING_SECONDS) as connection:
                    if await positions.has_holes(connection):
                        await positions.fill(connection, await self._log_floor())
                        await connection.commit()
            except (SQLAlchemyError, OSError) as error:
                self._database.health.down(error)
            except BusError as error:
                logger.warning("the log does not tell how far it was read", error=str(error))
            else:
                self._database.health.up()
            await self._stops_within(_PING_SECONDS)

    def stop(self) -> None:
        """Wait for the database no longer: what is not written yet is for the next worker."""
        self._stopping.set()

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True
