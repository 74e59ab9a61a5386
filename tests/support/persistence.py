"""A persistence worker inside the test's own process, over a real bus and a real database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from bus import attach
from tests.support.nats import NatsServer
from workers.persistence.app import Work, open_worker
from workers.persistence.settings import PersistenceSettings
from workers.runtime import create_broker


@dataclass(frozen=True)
class Running:
    """A worker at work, and its metrics."""

    work: Work
    registry: CollectorRegistry


@asynccontextmanager
async def running_worker(
    nats: NatsServer,
    database_url: str,
    *,
    batch: int = 256,
    read_url: str | None = None,
    **more: Any,
) -> AsyncIterator[Running]:
    """Run a worker for the context's life, opened and closed as its process does it."""
    settings = PersistenceSettings(
        nats_url=SecretStr(nats.url("persistence")),
        database_url=SecretStr(database_url),
        database_read_url=SecretStr(read_url) if read_url is not None else None,
        projection_batch=batch,
        **more,
    )
    broker = create_broker(settings)
    await broker.connect()
    bus = await attach(broker.connection)
    registry = CollectorRegistry()
    try:
        async with open_worker(settings, bus, registry) as work:
            await bus.arrived(5)  # the server knows of its subscriptions
            yield Running(work, registry)
    finally:
        await broker.stop()
        await bus.close()
