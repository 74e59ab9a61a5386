"""An edge and a persistence worker in the test's own process: what is stored, over real HTTP."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.edge import edge_settings, running_edge, store_key
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer


class Stored:
    """The server; `client` makes the client of a new user."""

    def __init__(self, nats: NatsServer, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._nats = nats
        self._stack = stack

    async def client(self, **headers: str) -> httpx.AsyncClient:
        """A client with a key of its own; its paths begin below /v1."""
        key, _ = await store_key(self._nats)
        return await self.anybody(authorization=f"Bearer {key}", **headers)

    async def anybody(self, **headers: str) -> httpx.AsyncClient:
        """A client without a credential, unless one is among the headers."""
        client = httpx.AsyncClient(base_url=f"{self.url}/v1", headers=headers, timeout=60)
        return await self._stack.enter_async_context(client)


@asynccontextmanager
async def running_stored(
    postgres: PostgresServer, folder: Path, **settings: Any
) -> AsyncIterator[Stored]:
    """Run a bus, a persistence worker and an edge for the context's life."""
    with running_nats(folder / "nats") as nats:
        await migrate(nats)
        told = edge_settings(nats, folder / "edge", **settings)
        async with (
            postgres.database() as database,
            running_worker(nats, database),
            running_edge(told) as url,
            AsyncExitStack() as stack,
        ):
            yield Stored(nats, url, stack)
