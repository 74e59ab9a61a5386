"""/mcp on a real edge, with a real worker of a test's own tools behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bus import Bus, open_bus
from schemas import subjects
from schemas.tools import ToolFinished, decode_tool_finished
from tests.support.edge import edge_settings, running_edge, store_key
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.tools import Said, running_tools, scripted
from workers.tools.outcome import Answer, Failed
from workers.tools.tool import Context, ServerTool


class Text(msgspec.Struct):
    """What `echo` gives."""

    text: str


class Held:
    """A tool that goes on until it is stopped, and tells of both."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()

    async def run(self, _said: Said, _call: Context) -> Answer:
        """Go on."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        return Answer("")


async def echo(said: Said, _call: Context) -> Answer:
    """Say it as often as asked."""
    return Answer(said.text * said.times, structured=Text(said.text * said.times))


async def large(_said: Said, _call: Context) -> Answer:
    """Say more than a message of the bus holds."""
    return Answer("large", structured=Text("x" * 300_000))


async def split(said: Said, _call: Context) -> Answer:
    """Give what is structured, but no object."""
    return Answer(said.text, structured=list(said.text))


async def count(said: Said, call: Context) -> Answer:
    """Tell how far it is, no faster than that is passed on."""
    for number in range(1, said.times + 1):
        call.progress(number, said.times, f"step {number}")
        await asyncio.sleep(0.25)
    return Answer("counted")


async def refuse(_said: Said, _call: Context) -> Answer:
    """Fail."""
    raise Failed("refused", "I would rather not.")


def toolset(held: Held) -> dict[str, ServerTool]:
    """The tools of these tests."""
    made = [
        scripted(echo, name="echo", output=Text),
        scripted(large, name="large", output=Text),
        scripted(count, name="count"),
        scripted(split, name="split", output=list[str]),
        scripted(refuse, name="refuse"),
        scripted(held.run, name="held", idempotent=False),
        scripted(echo, name="quick", timeout=0.2),
        scripted(echo, name="absent", lacks=lambda _: "nobody paid for it"),
    ]
    return {tool.about.name: tool for tool in made}


@dataclass
class Mcp:
    """A server: its address, who looks at its bus, its edge and its worker of tools."""

    url: str
    nats: NatsServer
    observer: Bus
    held: Held
    edge: AsyncExitStack
    worker: AsyncExitStack

    async def key(self, *scopes: str) -> str:
        """An API key of a new user."""
        key, _ = await store_key(self.nats, scopes=list(scopes))
        return key

    @asynccontextmanager
    async def http(self, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
        """A plain client, to send what the SDK's would not."""
        known = {"authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(base_url=self.url, headers=known, timeout=60) as client:
            yield client

    async def finished(self, tool: str) -> ToolFinished:
        """What the log says of the one call of a tool."""
        async with asyncio.timeout(20):
            while True:
                async for stored in self.observer.read_subject(
                    subjects.EVENTS, "events.tool.finished.*"
                ):
                    told = decode_tool_finished(stored.data)
                    if told.tool == tool:
                        return told


@asynccontextmanager
async def serving_mcp(folder: Path, **settings: Any) -> AsyncIterator[Mcp]:
    """Run a bus, an edge and a worker of tools."""
    held = Held()
    told = {"guest_in_flight": 200, "guest_rpm": 10_000} | settings
    with running_nats(folder / "nats") as nats:
        await migrate(nats)
        async with (
            open_bus(nats.url("cli"), name="observer") as observer,
            AsyncExitStack() as edge,
            AsyncExitStack() as worker,
        ):
            settled = edge_settings(nats, folder / "edge", **told)
            url = await edge.enter_async_context(running_edge(settled))
            await worker.enter_async_context(running_tools(nats, toolset(held)))
            yield Mcp(url, nats, observer, held, edge, worker)
