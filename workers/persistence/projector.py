"""Takes batches of the log into the database: each whole, and however often it is delivered."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from schemas.errors import Unavailable
from workers.persistence.database import Database, is_poison
from workers.persistence.projections.runs import Fact, Rows, to_rows, write_rows

_TRANSACTION_SECONDS = 8.0  # less than the consumer waits for an ack
_PING_SECONDS = 2.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

Unusable = tuple[Fact, Exception]
StillAtWork = Callable[[], Awaitable[None]]


class Projector:
    """Writes facts, one transaction for each batch; waits for as long as the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopping = asyncio.Event()

    async def project(self, facts: Sequence[Fact], still_at_work: StillAtWork) -> list[Unusable]:
        """Store a batch; return the facts that can't ever be stored, with the reason for each.

        `still_at_work` is called whenever the database makes us wait. Raises Unavailable once
        `stop` was called and it still does not answer.
        """
        rows, unusable = to_rows(facts)
        try:
            await self._write(rows, still_at_work)
        except DBAPIError as error:
            unreadable = {fact.seq for fact, _ in unusable}
            readable = [fact for fact in facts if fact.seq not in unreadable]
            if len(readable) == 1:
                return [*unusable, (readable[0], error)]
            middle = len(readable) // 2
            for half in (readable[:middle], readable[middle:]):
                unusable += await self.project(half, still_at_work)
        return unusable

    async def _write(self, rows: Rows, still_at_work: StillAtWork) -> None:
        """Write until it works. Raises DBAPIError if it is the values that the database refuses."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._database.connect(_TRANSACTION_SECONDS) as connection:
                    await write_rows(connection, rows)
                    await connection.commit()
            except (SQLAlchemyError, OSError) as error:
                if isinstance(error, DBAPIError) and is_poison(error):
                    raise
                self._database.health.down(error)
            else:
                self._database.health.up()
                return
            await still_at_work()
            if await self._stops_within(pause):
                raise Unavailable("the worker stops while the database is away")
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def watch_health(self) -> None:
        """Until `stop`, ask the database every 2 s: an idle worker should know too."""
        while not self._stopping.is_set():
            try:
                async with self._database.connect(_PING_SECONDS) as connection:
                    await connection.execute(text("SELECT 1 FROM projection_positions LIMIT 1"))
            except (SQLAlchemyError, OSError) as error:
                self._database.health.down(error)
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
