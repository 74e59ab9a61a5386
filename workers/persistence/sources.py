"""The databases that questions are read from, and how far in the log each of them is."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.errors import JanError
from schemas.queries import Ask
from workers.persistence import positions
from workers.persistence.database import Database, is_poison
from workers.persistence.gathering import Gathering

_SECONDS: Final = 3.0
_LOOK_AGAIN: Final = 0.02
_KNOWN_SECONDS: Final = 1.0
_LEFT_ALONE: Final = 5.0  # seconds that a replica which did not answer is not asked

Answer = msgspec.Struct | bytes  # a struct, or JSON that is ready
Read = Callable[[AsyncConnection, Any], Awaitable[Answer]]
ReadMany = Callable[[AsyncConnection, Sequence[Any]], Awaitable[Sequence[Answer | JanError]]]


class Question(NamedTuple):
    """What is asked, and what answers it."""

    kind: type[Ask]
    read: Read


class GatheredQuestion(NamedTuple):
    """What is asked by many at a time, and what answers all who wait: each on its own terms."""

    kind: type[Ask]
    read_many: ReadMany


class Behind(Exception):
    """A database has not taken in all that the asker has written."""


class Source:
    """A database that can answer so many questions at once, and how far it is known to have come.

    Who waits for the log holds no connection: all who wait share one look at it.
    """

    def __init__(self, name: str, database: Database, at_once: int) -> None:
        self.name = name
        self.database = database
        self.on_wait: Callable[[], None] = lambda: None  # called as long as somebody waits
        self._free = asyncio.Semaphore(at_once)
        self._gathered: dict[ReadMany, Gathering[Ask, Answer]] = {}
        self._reached = 0
        self._looked = 0.0
        self._looking = asyncio.Lock()
        self._left_alone_until = 0.0
        self._progress = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether it is worth a try: one that was away a moment ago is not."""
        return _now() >= self._left_alone_until

    def fail(self, error: BaseException) -> None:
        """It did not answer."""
        self.database.health.down(error)
        self._left_alone_until = _now() + _LEFT_ALONE

    def advanced(self, reached: int) -> None:
        """The projection has just written something, and all of the log up to there is in it."""
        self._note(reached)
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def until_reached(self, seq: int, patience: float) -> None:
        """Wait until it is known to have all of the log up to `seq`. Raises Behind."""
        end = _now() + patience
        while not self._knows(seq):
            if _now() >= end:
                raise Behind
            self.on_wait()
            if _now() >= self._looked + _LOOK_AGAIN:
                await self._look()
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._progress.wait(), _LOOK_AGAIN)

    async def read(self, question: Question | GatheredQuestion, ask: Ask) -> Answer:
        """Read an answer. Raises Behind, JanError, SQLAlchemyError, OSError."""
        if isinstance(question, GatheredQuestion):
            return await self._gathering(question.read_many).read(ask)
        async with self._free, self.database.connect(_SECONDS) as connection:
            [is_current] = await self._are_current(connection, [ask])
            if not is_current:
                raise Behind
            return await question.read(connection, ask)

    def _gathering(self, read_many: ReadMany) -> Gathering[Ask, Answer]:
        known = self._gathered.get(read_many)
        if known is None:
            known = Gathering(partial(self._read_many, read_many))
            self._gathered[read_many] = known
        return known

    async def _read_many(
        self, read_many: ReadMany, asks: Sequence[Ask]
    ) -> Sequence[Answer | Exception]:
        """Read together; if a fault may lie in one of them, each by itself."""
        try:
            return await self._read_together(read_many, asks)
        except Exception as error:
            if len(asks) == 1 or _is_of_all(error):
                raise
        told: list[Answer | Exception] = []
        for ask in asks:
            try:
                told += await self._read_together(read_many, [ask])
            except Exception as error:  # the asker's to tell
                told.append(error)
        return told

    async def _read_together(
        self, read_many: ReadMany, asks: Sequence[Ask]
    ) -> Sequence[Answer | Exception]:
        async with self._free, self.database.connect(_SECONDS) as connection:
            current = await self._are_current(connection, asks)
            if all(current):
                return await read_many(connection, asks)
            some = [ask for ask, is_current in zip(asks, current, strict=True) if is_current]
            answers = iter(await read_many(connection, some) if some else ())
            return [next(answers) if is_current else Behind() for is_current in current]

    async def _are_current(self, connection: AsyncConnection, asks: Sequence[Ask]) -> list[bool]:
        """Say for each whether all of the log that it asks for is here."""
        if not all(self._knows(ask.after) for ask in asks):
            self._note(await positions.reached(connection))
        return [self._knows(ask.after) for ask in asks]

    async def _look(self) -> None:
        async with self._looking:
            if _now() >= self._looked + _LOOK_AGAIN:
                async with self._free, self.database.connect(_SECONDS) as connection:
                    self._note(await positions.reached(connection))

    def _note(self, reached: int) -> None:
        self._reached, self._looked = reached, _now()

    def _knows(self, seq: int) -> bool:
        # Known for a moment only: who restores a backup takes the database back.
        return not seq or (seq <= self._reached and _now() < self._looked + _KNOWN_SECONDS)


def _is_of_all(error: Exception) -> bool:
    """Tell whether the database failed, and not one of the questions."""
    if isinstance(error, DBAPIError) and is_poison(error):
        return False
    return isinstance(error, SQLAlchemyError | OSError)


def _now() -> float:
    return asyncio.get_running_loop().time()
