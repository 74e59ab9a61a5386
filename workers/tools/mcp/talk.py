"""Talking with an MCP server that is not trusted: each call on a connection of its own.

The server may answer nothing, too much, for ever, or what is no MCP: every answer has a bound in
bytes, every call one in time, and whatever goes wrong is a Failed of that call. A tool's result is
not held against the server's own schema here, as a pattern in it could keep this process busy.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx2
import mcp_types
import msgspec
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from pydantic import TypeAdapter, ValidationError

from schemas.outbound import Blocked
from schemas.tool_options import McpHints, McpTool
from workers.runtime.guard import Guard, GuardedTransport
from workers.tools.outcome import Failed

ResultT = TypeVar("ResultT")

MAX_BYTES: Final = 4 << 20  # of one response
LIST_TIMEOUT: Final = 20.0  # seconds that a server has to list its tools
MAX_LIST: Final = 200 * 1024  # bytes of a list of tools, which travels as one result

_MAX_TOOLS: Final = 500
_MAX_PAGES: Final = 20
_MAX_DESCRIPTION: Final = 4096
_MAX_MESSAGE: Final = 1000
_CONNECT_TIMEOUT: Final = 10.0
_GOODBYE: Final = 2.0  # seconds to end a session whose result is there
_FAULTS: Final = (
    mcp_types.CONNECTION_CLOSED,
    mcp_types.REQUEST_TIMEOUT,
    mcp_types.INTERNAL_ERROR,
    mcp_types.PARSE_ERROR,
)
_OWN_HEADERS: Final = ("host", "content-length", "content-type", "transfer-encoding", "connection")
_RESULT: Final = TypeAdapter(mcp_types.CallToolResult)
_EMPTY: Final = msgspec.Raw(b'{"type":"object","properties":{}}')

OnProgress = Callable[[float, float | None, str], None]
Use = Callable[[Client], Awaitable[ResultT]]


def be_silent() -> None:
    """Keep what strangers' servers say out of our log."""
    for name in ("mcp", "httpx2", "httpcore2", "client"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Blob:
    """Bytes in a result: an image, a sound, a file."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Said:
    """What a tool of a server has answered."""

    text: str
    structured: dict[str, Any] | None
    is_error: bool
    blobs: list[Blob] = field(default_factory=list)


@dataclass(frozen=True)
class Remote:
    """A server over HTTP, and how it is reached; `headers` hold its credentials."""

    label: str
    url: str
    guard: Guard
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    async def use(self, use: Use[ResultT], timeout: float) -> ResultT:
        """Connect, use, and end the session. Raises Failed."""
        for name in self.headers:
            if name.lower() in _OWN_HEADERS:
                raise Failed("invalid_options", f"The header {name} can't be set.")
        statuses: list[int] = []
        done: list[ResultT] = []
        try:
            async with asyncio.timeout(timeout) as limit:
                async with self._connected(statuses, timeout) as client:
                    done.append(await use(client))
                    limit.reschedule(asyncio.get_running_loop().time() + _GOODBYE)
        except Exception as error:  # whatever comes of a stranger's answer
            if not done:
                raise to_failed(self.label, error, statuses) from None
        return done[0]

    @asynccontextmanager
    async def _connected(self, statuses: list[int], timeout: float) -> AsyncIterator[Client]:
        async def note(response: httpx2.Response) -> None:
            statuses.append(response.status_code)

        self.guard.check(self.url)
        http = httpx2.AsyncClient(
            transport=GuardedTransport(self.guard, max_bytes=MAX_BYTES),
            timeout=httpx2.Timeout(_CONNECT_TIMEOUT, read=timeout),
            headers=self.headers,
            event_hooks={"response": [note]},
            trust_env=False,
        )
        transport = streamable_http_client(self.url, http_client=http)
        async with http, open_client(transport, timeout) as client:
            yield client


@asynccontextmanager
async def open_client(transport: Any, timeout: float) -> AsyncIterator[Client]:
    """Talk over a transport for the context's life, in the newest version that both know."""
    about = mcp_types.Implementation(name="jan-server", version="0.1.0")
    async with Client(
        transport, client_info=about, read_timeout_seconds=timeout, cache=None
    ) as client:
        yield client


async def list_tools(client: Client) -> list[McpTool]:
    """All tools of a server. Raises Failed if there are too many."""
    found: list[McpTool] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += [_to_tool(tool) for tool in page.tools]
        if len(found) > _MAX_TOOLS or len(msgspec.json.encode(found)) > MAX_LIST:
            break
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise Failed("too_large", "The MCP server lists too many tools, or too long ones.")


def _to_tool(tool: mcp_types.Tool) -> McpTool:
    schema = tool.input_schema
    raw = msgspec.Raw(msgspec.json.encode(schema)) if schema.get("type") == "object" else _EMPTY
    return McpTool(
        name=tool.name,
        input_schema=raw,
        description=(tool.description or "")[:_MAX_DESCRIPTION],
        title=(tool.title or "")[:200],
        annotations=_to_hints(tool.annotations),
    )


def _to_hints(said: mcp_types.ToolAnnotations | None) -> McpHints | None:
    if said is None:
        return None
    return McpHints(
        title=(said.title or "")[:200] or None,
        read_only_hint=said.read_only_hint,
        destructive_hint=said.destructive_hint,
        idempotent_hint=said.idempotent_hint,
        open_world_hint=said.open_world_hint,
    )


async def call_tool(client: Client, name: str, arguments: dict[str, Any], tell: OnProgress) -> Said:
    """Call a tool of a server."""

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        tell(progress, total, (message or "")[:200])

    async def ask() -> mcp_types.CallToolResult:
        parameters = mcp_types.CallToolRequestParams(name=name, arguments=arguments)
        request = mcp_types.CallToolRequest(params=parameters)
        return await client.session.send_request(request, _RESULT, progress_callback=on_progress)

    try:
        result = await ask()
    except MCPError as error:
        if error.code != mcp_types.HEADER_MISMATCH:
            raise
        await client.list_tools()  # says which arguments go into headers too
        result = await ask()
    return _to_said(result)


def _to_said(result: mcp_types.CallToolResult) -> Said:
    texts: list[str] = []
    blobs: list[Blob] = []
    for block in result.content:
        match block:
            case mcp_types.TextContent():
                texts.append(block.text)
            case mcp_types.ImageContent() | mcp_types.AudioContent():
                _take(blobs, texts, block.type, block.mime_type, block.data)
            case mcp_types.ResourceLink():
                texts.append(f"{block.title or block.name}: {block.uri}")
            case mcp_types.EmbeddedResource():
                match block.resource:
                    case mcp_types.TextResourceContents():
                        texts.append(block.resource.text)
                    case mcp_types.BlobResourceContents():
                        kind = block.resource.mime_type or "application/octet-stream"
                        name = str(block.resource.uri).rsplit("/", 1)[-1]
                        _take(blobs, texts, name, kind, block.resource.blob)
    structured = result.structured_content
    if not texts and structured is not None:
        texts.append(msgspec.json.encode(structured).decode())
    return Said(
        "\n\n".join(texts),
        structured if isinstance(structured, dict) else None,
        bool(result.is_error),
        blobs,
    )


def _take(blobs: list[Blob], texts: list[str], name: str, kind: str, data: str) -> None:
    try:
        decoded = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        texts.append(f"[{kind[:100]}, which can't be decoded]")
        return
    texts.append(f"[{kind[:100]}, {len(decoded)} bytes]")
    blobs.append(Blob(name[:100] or "file", kind[:100], decoded))


def to_failed(label: str, error: BaseException, statuses: list[int] | None = None) -> Failed:
    """What the model is told of something that went wrong with a server."""
    found = _leaves(error)
    shown = f"The MCP server {label}"
    for one in found:
        if isinstance(one, Failed):
            return one
        if isinstance(one, Blocked):
            return Failed("refused", f"{shown} is not asked: {one}.")
    refused = next((status for status in statuses or () if status in (401, 403)), None)
    if refused is not None:
        return Failed("unauthorized", f"{shown} wants other credentials (status {refused}).")
    told = next(filter(None, (_describe(one, shown) for one in found)), None)
    reason = type(found[0]).__name__
    return told or Failed(
        "bad_response", f"{shown} can't be understood ({reason}).", retryable=True
    )


def _describe(error: BaseException, shown: str) -> Failed | None:
    match error:
        case MCPError():
            message = " ".join(error.error.message.split())[:_MAX_MESSAGE]
            code = "timeout" if error.code == mcp_types.REQUEST_TIMEOUT else "mcp_error"
            retryable = error.code in _FAULTS
            return Failed(code, f"{shown} failed: {message}", retryable=retryable)
        case TimeoutError() | httpx2.TimeoutException():
            return Failed("timeout", f"{shown} did not answer in time.", retryable=True)
        case httpx2.HTTPError() | OSError():
            reason = type(error).__name__
            return Failed("unreachable", f"{shown} can't be reached ({reason}).", retryable=True)
        case ValidationError():
            message = f"{shown} answered something that is no MCP."
            return Failed("bad_response", message, retryable=True)
        case _:
            return None


def is_closed(error: BaseException) -> bool:
    """Whether the connection itself has ended."""
    found = [one for one in _leaves(error) if isinstance(one, MCPError)]
    return any(one.code == mcp_types.CONNECTION_CLOSED for one in found)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
