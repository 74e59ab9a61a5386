"""A real tools worker in a test's own process, tools that a test scripts, and a desk that calls."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bus import Bus, open_bus
from schemas import frames, ids, subjects
from schemas.commands import encode
from schemas.tools import (
    CallTool,
    Progress,
    ToolFinished,
    ToolResult,
    Word,
    decode_progress,
    decode_tool_finished,
    decode_tool_result,
    decode_word,
)
from tests.support import reading
from tests.support.nats import NatsServer
from workers.runtime import create_registry
from workers.tools.app import Tools, open_tools
from workers.tools.builtin import TOOLS
from workers.tools.mcp.file import McpFile
from workers.tools.outcome import Answer
from workers.tools.settings import ToolsSettings
from workers.tools.tool import Context, ServerTool, builtin

EDGE = "edge-1"

Run = Callable[[Any, Context], Awaitable[Answer]]


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the tests' own tools take."""

    text: Annotated[str, msgspec.Meta(max_length=100)] = ""
    times: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1


def scripted(run: Run, *, name: str = "echo", idempotent: bool = True, **given: Any) -> ServerTool:
    """A tool of a test; its calls wait in the queue `mcp`."""
    tool = builtin(name, "Says it again.", Said, run, title="Echo", idempotent=idempotent, **given)
    return replace(tool, about=msgspec.structs.replace(tool.about, queue="mcp"))


class Reading(reading.Stored):
    """What is stored of a call."""

    @property
    def progress(self) -> list[Progress]:
        """What it has told of itself."""
        told = [frame for frame in self.data if not frame.flags & frames.RESULT]
        events = [event for frame in told for event in frames.split_events(frame.data)]
        return [decode_progress(frames.chunk_of(event)) for event in events]

    @property
    def results(self) -> list[ToolResult]:
        """All that it came to: it should be one."""
        ends = [frame for frame in self.data if frame.flags & frames.RESULT]
        return [decode_tool_result(frame.data) for frame in ends]

    @property
    def result(self) -> ToolResult:
        """The one committed result."""
        (result,) = self.results
        return result


@dataclass
class ToolDesk:
    """Calls tools, as an edge or the loop of a response does."""

    bus: Bus
    observer: Bus

    async def call(
        self,
        tool: str,
        arguments: Any = None,
        *,
        queue: str = "mcp",
        options: Any = None,
        deadline: float = 60.0,
        **given: Any,
    ) -> CallTool:
        """Put a call into its queue. Arguments that are bytes go as they are."""
        now = time.time()
        raw = arguments if isinstance(arguments, bytes) else msgspec.json.encode(arguments or {})
        job = CallTool(
            call_id=given.pop("call_id", "") or ids.new_id("tool_"),
            tool=tool,
            arguments=msgspec.Raw(raw),
            principal=given.pop("principal", "somebody"),
            edge=EDGE,
            created=int(given.pop("created", now)),
            deadline=now + deadline,
            request_id="req_1",
            options=None if options is None else msgspec.Raw(msgspec.json.encode(options)),
            **given,
        )
        await self.send(job, queue)
        return job

    async def send(self, job: CallTool, queue: str = "mcp", step: int = 0) -> None:
        """Put this very call into the queue; another `step` makes the server take it again."""
        await self.bus.store(
            subjects.tool_job(queue), encode(job), msg_id=f"JOBS:tool:{job.call_id}:{step}"
        )

    async def result(self, tool: str, arguments: Any = None, **given: Any) -> ToolResult:
        """Call a tool, and wait for what comes of it."""
        job = await self.call(tool, arguments, **given)
        return (await self.until_ended(job.call_id)).result

    async def cancel(self, run_id: str) -> None:
        """Cancel a call, or the run that it is a part of."""
        await reading.cancel(self.bus, run_id)

    async def read(self, call_id: str) -> Reading:
        """Read what is stored of a call."""
        return await reading.read(self.bus, EDGE, call_id, Reading())

    async def until(
        self, call_id: str, enough: Callable[[Reading], bool], timeout: float = 30.0
    ) -> Reading:
        """Read until it is enough."""
        return await reading.read_until(self.bus, EDGE, call_id, Reading, enough, timeout)

    async def until_begun(self, call_id: str) -> Reading:
        """Read until somebody has fenced it."""
        return await self.until(call_id, lambda stored: bool(stored.fences))

    async def until_ended(self, call_id: str, timeout: float = 60.0) -> Reading:
        """Read until its END."""
        return await self.until(call_id, lambda stored: stored.fold.ended, timeout)

    async def finished(self, job: CallTool) -> list[ToolFinished]:
        """The log's ToolFinished of a call."""
        subject = subjects.tool_event("finished", job.call_id, job.parent)
        found = [
            decode_tool_finished(stored.data)
            async for stored in self.observer.read_subject(subjects.EVENTS, subject)
        ]
        return [event for event in found if event.call_id == job.call_id]

    async def until_empty(self, timeout: float = 30.0) -> None:
        """Wait until no call is in a queue or in progress."""
        async with asyncio.timeout(timeout):
            while True:
                info = await self.observer.ask("$JS.API.STREAM.INFO.JOBS", b"")
                if not msgspec.json.decode(info)["state"]["messages"]:
                    return

    async def switch(self, name: str, **told: Any) -> None:
        """Say something of a tool, as an operator."""
        await self.observer.store(f"$KV.tools.switch.{name}", msgspec.json.encode(told))


@asynccontextmanager
async def open_tool_desk(server: NatsServer) -> AsyncIterator[ToolDesk]:
    """Connect as an edge does, and as an operator who may look at everything."""
    async with reading.connected(server, EDGE) as (bus, observer):
        yield ToolDesk(bus, observer)


@asynccontextmanager
async def running_tools(
    server: NatsServer,
    builtins: Mapping[str, ServerTool] = TOOLS,
    name: str = "tools-1",
    file: McpFile | None = None,
    **given: Any,
) -> AsyncIterator[Tools]:
    """Run a worker for the context's life; leaving it drains."""
    given = {"drain_timeout": 5.0, "data": Path("/nonexistent"), "_env_file": None} | given
    settings = ToolsSettings(nats_url=server.url("tools"), name=name, **given)
    async with (
        open_bus(server.url("tools"), name=name) as bus,
        open_tools(settings, bus, create_registry(), builtins, file) as tools,
    ):
        yield tools


async def words_for(bus: Bus, parent: str) -> "asyncio.Queue[Word]":
    """Hear what a run's parts tell it."""
    heard: asyncio.Queue[Word] = asyncio.Queue()
    await bus.subscribe(
        subjects.words(parent), lambda message: heard.put_nowait(decode_word(message.data))
    )
    return heard
