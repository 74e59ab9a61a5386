"""The operator's MCP servers: their tools become the server's own, and stay up to date."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Protocol
from urllib.parse import urlsplit

import structlog
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from schemas.tool_options import McpHints, McpTool
from schemas.tools import Tool
from workers.runtime import beside
from workers.runtime.guard import Guard
from workers.tools.mcp.answering import keep_blobs
from workers.tools.mcp.file import McpFile, McpServer
from workers.tools.mcp.talk import (
    LIST_TIMEOUT,
    Remote,
    ResultT,
    Use,
    call_tool,
    is_closed,
    list_tools,
    open_client,
    to_failed,
)
from workers.tools.means import Means
from workers.tools.outcome import Answer, Failed
from workers.tools.tool import Context, ServerTool

logger = structlog.get_logger()

QUEUE: Final = "mcp"

_FIRST_LOOK: Final = 5.0  # seconds that a start waits for the servers
_AGAIN: Final = 5.0  # seconds until one that can't be reached is asked again
_RESTART: Final = 1.0
_LONGEST_NAME: Final = 64  # what OpenAI's functions may have

OnTools = Callable[[Sequence[ServerTool]], None]


class Way(Protocol):
    """How a server is reached."""

    async def use(self, use: Use[ResultT], timeout: float) -> ResultT:
        """Use a connection to it. Raises Failed."""


class Started:
    """A server that is a process here, kept running; its calls share one connection."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._broken = asyncio.Event()

    async def run(self) -> None:
        """Keep it running until cancelled."""
        server = self._server
        assert server.command is not None
        parameters = StdioServerParameters(
            command=server.command, args=server.args, env=server.env, cwd=server.cwd
        )
        while True:
            try:
                transport = stdio_client(parameters)
                async with open_client(transport, server.timeout_s) as client:
                    self._client.set_result(client)
                    await self._broken.wait()
            except Exception as error:  # whatever a program of others does
                reason = to_failed(server.label, error).message
                logger.warning("an MCP server ended", label=server.label, error=reason)
            self._forget()
            self._broken.clear()
            await asyncio.sleep(_RESTART)

    def _forget(self) -> None:
        """The connection is of no use any more: who wants one waits for the next."""
        if self._client.done():
            self._client = asyncio.get_running_loop().create_future()

    async def use(self, use: Use[ResultT], timeout: float) -> ResultT:
        """Use its connection, once there is one. Raises Failed."""
        try:
            async with asyncio.timeout(timeout):
                return await use(await asyncio.shield(self._client))
        except Exception as error:  # as above
            if is_closed(error):
                self._forget()
                self._broken.set()
            raise to_failed(self._server.label, error) from None


class Listed:
    """One server's tools, as they were when it was last asked."""

    def __init__(self, server: McpServer, way: Way) -> None:
        self.label = server.label
        self.tools: list[ServerTool] = []
        self._server = server
        self._way = way
        self._lacks = ""

    async def look(self) -> bool:
        """Ask for the tools; whether it answered. If not, those known are told as unavailable."""
        try:
            found = await self._way.use(list_tools, min(self._server.timeout_s, LIST_TIMEOUT))
        except Failed as failed:
            logger.warning("an MCP server has no tools now", label=self.label, error=failed.message)
            self._lacks = failed.message.removesuffix(".")
            return False
        self._lacks = ""
        self.tools = [self._to_tool(tool) for tool in found if self._server.wants(tool.name)]
        return True

    def _to_tool(self, tool: McpTool) -> ServerTool:
        server, way = self._server, self._way

        async def run(arguments: dict[str, object], call: Context) -> Answer:
            shown = f"the MCP server {server.label}"
            with call.means.breakers.guard(f"mcp:{server.label}", shown):
                said = await way.use(
                    lambda client: call_tool(client, tool.name, arguments, call.progress),
                    server.timeout_s,
                )
            return await keep_blobs(said, call)

        hints = tool.annotations or McpHints()
        about = Tool(
            name=tool_name(server.label, tool.name),
            description=tool.description,
            parameters=tool.input_schema,
            queue=QUEUE,
            title=tool.title,
            idempotent=bool(hints.read_only_hint or hints.idempotent_hint),
            timeout=server.timeout_s,
            hints=tool.annotations,
        )
        return ServerTool(about, read=lambda found: found, run=run, lacks=lambda _: self._lacks)


class Servers:
    """All servers of the file. Made by `open_servers`."""

    def __init__(self, listed: list[Listed], kept: float, on_tools: OnTools) -> None:
        self._listed = listed
        self._kept = kept
        self._on_tools = on_tools

    def absent(self, name: str) -> str:
        """What is to say of a tool that is not there, but whose server may be away."""
        label = name.partition("__")[0]
        known = any(one.label == label and not one.tools for one in self._listed)
        return f"The MCP server {label} can't be reached now." if known else ""

    async def look(self) -> None:
        """Ask all for their tools at once; what they have is told as soon as they have."""
        await asyncio.gather(*(self._look_at(one) for one in self._listed))

    async def follow(self) -> None:
        """Ask each again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for one in self._listed:
                tasks.create_task(self._follow(one))

    async def _look_at(self, one: Listed) -> bool:
        answered = await one.look()
        self._on_tools([tool for each in self._listed for tool in each.tools])
        return answered

    async def _follow(self, one: Listed) -> None:
        answered = bool(one.tools)
        while True:
            await asyncio.sleep(self._kept if answered and self._kept else _AGAIN)
            answered = await self._look_at(one)


@asynccontextmanager
async def open_servers(file: McpFile, means: Means, on_tools: OnTools) -> AsyncIterator[Servers]:
    """Have the tools of the file's servers for the context's life."""
    async with AsyncExitStack() as stack:
        listed = []
        for server in file.servers:
            way: Way
            if server.url is None:
                started = Started(server)
                await stack.enter_async_context(beside(started.run()))
                way = started
            else:
                way = Remote(server.label, server.url, _guard_of(server, means), server.headers)
            listed.append(Listed(server, way))
        servers = Servers(listed, means.settings.mcp_list_kept, on_tools)
        first = asyncio.create_task(servers.look())
        try:
            await asyncio.wait([first], timeout=_FIRST_LOOK)
            async with beside(servers.follow()):
                yield servers
        finally:
            first.cancel()


def _guard_of(server: McpServer, means: Means) -> Guard:
    """Whom the operator names may be anywhere, but leads nowhere else."""
    parts = urlsplit(server.url or "")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return Guard([f"{host}:{port}", *means.settings.outbound_allow])


def tool_name(label: str, tool: str) -> str:
    """The name of a server's tool here: one that every client's function calls can have."""
    name = f"{label}__" + re.sub(r"[^A-Za-z0-9_-]", "_", tool)
    if len(name) <= _LONGEST_NAME and name == f"{label}__{tool}":
        return name
    told = hashlib.sha256(tool.encode()).hexdigest()[:6]
    return f"{name[: _LONGEST_NAME - 7]}_{told}"
