"""What the tools of a worker work with: opened once, shared by all calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2

from bus import Bus, ObjectStore
from workers.runtime.guard import Guard, guarded_client
from workers.tools.breakers import Breakers
from workers.tools.fetching import Robots
from workers.tools.mcp.lists import Lists
from workers.tools.sandbox import Sandbox, open_sandbox
from workers.tools.settings import ToolsSettings

_TIMEOUT = 10.0  # seconds for a step of a request; a call's own time-out bounds the whole


@dataclass(frozen=True, slots=True)
class Means:
    """`web` reaches only what the guard lets it; `providers` only the hosts of the settings."""

    settings: ToolsSettings
    bus: Bus
    objects: ObjectStore
    breakers: Breakers
    guard: Guard
    web: httpx2.AsyncClient
    robots: Robots
    providers: httpx2.AsyncClient
    sandbox: Sandbox
    lists: Lists


@asynccontextmanager
async def open_means(settings: ToolsSettings, bus: Bus) -> AsyncIterator[Means]:
    """Open all of it for the context's life."""
    guard = Guard(settings.outbound_allow)
    async with (
        guarded_client(guard, timeout=_TIMEOUT) as web,
        httpx2.AsyncClient(timeout=_TIMEOUT) as providers,
    ):
        yield Means(
            settings=settings,
            bus=bus,
            objects=settings.open_objects(),
            breakers=Breakers(settings.tool_breaker_failures, settings.tool_breaker_seconds),
            guard=guard,
            web=web,
            robots=Robots(web, guard),
            providers=providers,
            sandbox=await open_sandbox(settings),
            lists=Lists(settings.mcp_list_kept),
        )
