"""Questions about stored things, answered from the database and the log."""

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bus
from schemas import subjects
from schemas.errors import InvalidRequest, JanError, Unavailable
from schemas.events import RunFinished, decode_run_finished
from schemas.queries import AskRun, decode_ask_run, encode_answer, encode_failure
from workers.persistence.database import Database, describe, is_poison
from workers.persistence.queries import runs

logger = structlog.get_logger()

_SECONDS = 3.0

Read = Callable[[AsyncConnection, AskRun], Awaitable[msgspec.Struct]]


class Answers:
    """The handlers of `query.>`; each takes the question's bytes and returns the answer's."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    async def on_get_run(self, question: bytes) -> bytes:
        """Answer `query.runs.get`."""
        return await self._answer(question, runs.get_run)

    async def on_get_run_events(self, question: bytes) -> bytes:
        """Answer `query.runs.events`."""
        return await self._answer(question, runs.get_events)

    async def on_get_run_result(self, question: bytes) -> bytes:
        """Answer `query.runs.result`."""

        async def read(connection: AsyncConnection, ask: AskRun) -> msgspec.Struct:
            return await runs.get_result(connection, ask, self._read_finished)

        return await self._answer(question, read)

    async def _answer(self, question: bytes, read: Read) -> bytes:
        try:
            ask = decode_ask_run(question)
        except (msgspec.DecodeError, ValueError) as error:  # ValueError: it is not UTF-8
            return encode_failure(InvalidRequest(f"the question can't be read: {error}"))
        try:
            async with self._database.connect(_SECONDS) as connection:
                return encode_answer(await read(connection, ask))
        except JanError as error:
            return encode_failure(error)
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, DBAPIError) and is_poison(error):
                return encode_failure(InvalidRequest(f"the question is refused: {describe(error)}"))
            self._database.health.down(error)
            return encode_failure(Unavailable("the database does not answer"))

    async def _read_finished(self, seq: int) -> RunFinished | None:
        stored = await self._bus.message_at(subjects.EVENTS, seq)
        return decode_run_finished(stored.data) if stored is not None else None
