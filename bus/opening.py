"""Opens connections to NATS, with the options that every process of this server has."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import structlog
from nats.aio.client import Client
from nats.errors import StaleConnectionError

from bus.connection import Bus
from schemas.errors import BusUnavailable

logger = structlog.get_logger()


@asynccontextmanager
async def open_bus(url: str, *, name: str, patient: bool = False) -> AsyncIterator[Bus]:
    """Connect to NATS as `name` and keep the connection for the context's life.

    A `patient` one writes in fewer pieces, for who asks much and writes no tokens.

    Raises BusUnavailable if the server can't be reached within 5 s or refuses the credentials.
    """
    nc = await connect(url, name=name)
    bus = await attach(nc, patient=patient)
    try:
        yield bus
    finally:
        await bus.close()


async def connect(url: str, *, name: str) -> Client:
    """Open a nats-py client with the options that every process of this server uses."""
    seen: list[Exception] = []

    async def note(error: Exception) -> None:
        seen.append(error)
        if "authorization" in str(error).lower():
            refused.set()  # trying again, as for a server that starts late, would not help

    refused = asyncio.Event()
    nc = Client()
    options = connect_options(url, name=name) | {"error_cb": note}
    opening = asyncio.ensure_future(nc.connect(url, **options))
    waiting = asyncio.ensure_future(refused.wait())
    await asyncio.wait({opening, waiting}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if opening.done() and opening.exception() is None:
        nc._error_cb = _log_error
        return nc
    opening.cancel()
    reason = seen[-1] if seen else "no answer within 5 s"
    raise BusUnavailable(f"NATS can't be reached: {reason}")


def connect_options(url: str, *, name: str) -> dict[str, Any]:
    """Options for nats-py's connect, also when FastStream makes the call.

    Each user has an inbox prefix of its own, `_INBOX.<user>`: nobody can read others' answers.
    """
    user = urlsplit(url).username
    return {
        "name": name,
        "inbox_prefix": f"_INBOX.{user}" if user else "_INBOX",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "connect_timeout": 2,
        "ping_interval": 5,
        "max_outstanding_pings": 2,
        "error_cb": _log_error,
    }


async def _log_error(error: Exception) -> None:
    # That the bus is away is told once, not for each try to reach it.
    note = logger.debug if isinstance(error, OSError | StaleConnectionError) else logger.warning
    note("nats", error=str(error) or type(error).__name__)


async def attach(nc: Client, *, patient: bool = False) -> Bus:
    """Put a Bus on an open nats-py connection, for instance FastStream's."""
    bus = Bus(nc, patient=patient)
    await bus.start()
    return bus
