"""Forgets commands that were carried out long ago."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from schemas.errors import BusError
from workers.persistence.database import Database, describe

logger = structlog.get_logger()

_EVERY_SECONDS: Final = 3600.0
_BATCH: Final = 1000
_BATCH_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05  # between batches, for those who wait for the disk
_LOCK: Final = 0x6A616E_707275  # "janpru": one worker at a time

_CLAIM = text("SELECT pg_try_advisory_xact_lock(:key)")
_DELETE = text(
    "DELETE FROM processed_commands WHERE id IN (SELECT id FROM processed_commands"
    " WHERE at < :before AND event IS NULL ORDER BY at LIMIT :count)"
)
_UNTOLD = text(
    "SELECT event FROM processed_commands"
    " WHERE at < :before AND event IS NOT NULL ORDER BY at LIMIT :count"
)

Tell = Callable[[bytes], Awaitable[int]]


class Pruner:
    """Every hour, in small batches. `kept`: how long a command is remembered, in seconds.

    A command whose event never reached the log, as the bus has lost its streams say, is kept until
    `tell` has told it.
    """

    def __init__(self, database: Database, tell: Tell, kept: float) -> None:
        self._database = database
        self._tell = tell
        self._kept = kept

    async def run(self) -> None:
        """Prune until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.prune()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("old commands stay for another hour", error=describe(error))
            except BusError as error:
                logger.warning("old commands stay for another hour", error=str(error))

    async def prune(self) -> int:
        """Delete what is old; returns how many, 0 while another worker is at it."""
        before = datetime.fromtimestamp(time.time() - self._kept, UTC)
        await self._tell_rest(before)
        pruned = 0
        while deleted := await self._delete(before):
            pruned += deleted
            await asyncio.sleep(_PAUSE_SECONDS)
        if pruned:
            logger.info("old commands are forgotten", count=pruned)
        return pruned

    async def _tell_rest(self, before: datetime) -> None:
        async with self._database.connect(_BATCH_SECONDS) as connection:
            found = await connection.scalars(_UNTOLD, {"before": before, "count": _BATCH})
            untold = found.all()
        for event in untold:
            await self._tell(event)

    async def _delete(self, before: datetime) -> int:
        async with self._database.connect(_BATCH_SECONDS) as connection:
            if not await connection.scalar(_CLAIM, {"key": _LOCK}):
                return 0
            found = await connection.execute(_DELETE, {"before": before, "count": _BATCH})
            await connection.commit()
        return found.rowcount
