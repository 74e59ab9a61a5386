"""A small web server for tests: what it answers is a function; what it was asked is kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass
class Asked:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Its target without the query."""
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        """Its body, read."""
        return msgspec.json.decode(self.body)


@dataclass
class Told:
    """One response. A `stream` writes by itself after the head, for as long as it likes."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stream: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None


Answering = Callable[[Asked], Told | Awaitable[Told]]


@dataclass
class Web:
    """A running server."""

    port: int
    asked: list[Asked]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def allowed(self) -> str:
        """The same, as JAN_OUTBOUND_ALLOW has it."""
        return f"127.0.0.1:{self.port}"


def page(text: str, **headers: str) -> Told:
    """An HTML page."""
    return Told(text.encode(), headers={"content-type": "text/html; charset=utf-8"} | headers)


def answer(value: Any, status: int = 200) -> Told:
    """A JSON response."""
    return Told(msgspec.json.encode(value), status, {"content-type": "application/json"})


def redirect(to: str, status: int = 302) -> Told:
    """A redirect."""
    return Told(status=status, headers={"location": to})


@asynccontextmanager
async def serving(
    answering: Answering, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Web]:
    """Serve for the context's life."""
    asked: list[Asked] = []

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            request = await _read(reader)
            asked.append(request)
            told = answering(request)
            await _write(writer, told if isinstance(told, Told) else await told)
        writer.close()

    server = await asyncio.start_server(on_connection, host, port)
    try:
        yield Web(server.sockets[0].getsockname()[1], asked)
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


async def _write(writer: asyncio.StreamWriter, told: Told) -> None:
    headers = {"connection": "close"} | told.headers
    if told.stream is None:
        headers.setdefault("content-length", str(len(told.body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {told.status} X\r\n{lines}\r\n".encode() + told.body)
    await writer.drain()
    if told.stream is not None:
        await told.stream(writer)
