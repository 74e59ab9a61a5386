"""The one way to PostgreSQL: the engine, its limits, and what its errors mean."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

logger = structlog.get_logger()

_CONNECT_SECONDS = 3
_STATEMENT_MS = 15_000
_READ_MS = 2_500  # less than a question may take: the server must not go on with it for nobody
# A server that has vanished without a word is noticed after this, instead of in two hours.
_SILENCE_MS = 10_000

# The SQLSTATE classes of errors that lie in the values and come back each time: data exceptions,
# violated constraints, program limits. All others (connection, resources, a missing table) pass.
_OF_THE_VALUES = ("22", "23", "54")


def to_url(url: str) -> URL:
    """Read a database address; `postgres://` too means psycopg. Raises ValueError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("this is not a database address") from None
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ValueError(f"the database must be PostgreSQL, not {parsed.drivername}")
    return parsed.set(drivername="postgresql+psycopg")


def open_engine(
    url: str, *, pool_size: int, only_reads: bool = False, idle_ms: int = 0
) -> AsyncEngine:
    """Make the engine; it connects on first use. Close it with `dispose()`.

    `only_reads`: each statement stands alone, which saves two round trips. `idle_ms`: how long a
    transaction may do nothing (0: for ever): a worker that stands still must not keep its locks.
    """
    statement_ms = _READ_MS if only_reads else _STATEMENT_MS
    options = f"-c statement_timeout={statement_ms} -c timezone=UTC"
    if idle_ms:
        options += f" -c idle_in_transaction_session_timeout={idle_ms}"
    return create_async_engine(
        to_url(url),
        pool_size=pool_size,
        max_overflow=0,
        isolation_level="AUTOCOMMIT" if only_reads else "READ COMMITTED",
        pool_timeout=2.0,
        pool_pre_ping=False,  # a broken connection shows at its next use, and its work is repeated
        pool_recycle=1800,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "options": options,
            "application_name": "jan persistence",
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": _SILENCE_MS,
        },
    )


def is_poison(error: DBAPIError) -> bool:
    """Tell whether a statement failed because of its values, and would again."""
    if isinstance(error.orig, psycopg.DataError):
        return True  # also what never reaches the server, and has no state: NUL in a text
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if isinstance(error.orig, psycopg.ProgrammingError) and not sqlstate:
        return True  # never reached the server either: a value that no column can be
    return sqlstate[:2] in _OF_THE_VALUES


# Two transactions got in each other's way: serialization failure, deadlock, and a row that the
# other one made first, which a second look will find.
_TRANSIENT = ("40001", "40P01", "23505")


def is_transient(error: DBAPIError) -> bool:
    """Tell whether a transaction lost against another one, and may do better now."""
    return getattr(error.orig, "sqlstate", None) in _TRANSIENT


def is_too_slow(error: BaseException) -> bool:
    """Tell whether the database has given a statement up for the time that it takes."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == "57014"


def describe(error: BaseException) -> str:
    """Say what went wrong in one line, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


class Health:
    """Whether a database answers, as presence and /readyz show it. Changes are logged."""

    def __init__(self, otherwise: str = "events wait in the log", name: str = "database") -> None:
        self.state = "ok"
        self._otherwise = otherwise
        self._name = name

    def up(self) -> None:
        """It answered."""
        if self.state != "ok":
            logger.info(f"the {self._name} answers again")
        self.state = "ok"

    def down(self, error: BaseException) -> None:
        """It did not."""
        if self.state != "down":
            logger.warning(
                f"the {self._name} does not answer: {self._otherwise}", error=describe(error)
            )
        self.state = "down"


class Database:
    """The connections of a worker. Each use is bounded, even when the server says nothing at all.

    psycopg, cancelled in the middle of a statement, waits for the server's word for ever; so time
    is up by cutting the socket, which it takes for what it is: a lost connection.
    """

    def __init__(self, engine: AsyncEngine, health: Health | None = None) -> None:
        self.health = health or Health()
        self._engine = engine
        self._open: set[psycopg.AsyncConnection[object]] = set()

    @asynccontextmanager
    async def connect(self, seconds: float) -> AsyncIterator[AsyncConnection]:
        """Lend a connection, for so long. Raises SQLAlchemyError, also from within."""
        async with self._engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert isinstance(raw, psycopg.AsyncConnection)
            end = asyncio.get_running_loop().call_later(seconds, _cut, raw)
            self._open.add(raw)
            try:
                yield connection
            finally:
                end.cancel()
                self._open.discard(raw)

    async def close(self) -> None:
        """End what is under way, and close all connections."""
        for connection in self._open:
            _cut(connection)
        await self._engine.dispose()


def _cut(connection: psycopg.AsyncConnection[object]) -> None:
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)
