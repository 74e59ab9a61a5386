"""What commands and questions about stored things take, through the whole server.

A client's requests are bytes on a connection of its own: a full client would be the bench's load.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from cli.measure.scenarios import quantile

_ITEM = {"type": "message", "role": "user", "content": "How does a message find its way? " * 8}


class StoredRow(msgspec.Struct):
    """One load's figures; times in milliseconds."""

    load: str
    in_flight: int
    requests: int
    failed: int
    requests_per_second: float
    p50: float
    p99: float


class Client:
    """One connection, one request at a time."""

    def __init__(self, url: str, api_key: str) -> None:
        target = urlsplit(url)
        self._address = (target.hostname or "127.0.0.1", target.port or 80)
        self._path = target.path
        self._key = api_key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Send a request and read its answer whole."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        content = msgspec.json.encode(body) if body is not None else b""
        head = (
            f"{method} {self._path}{path} HTTP/1.1\r\nHost: bench\r\n"
            f"Authorization: Bearer {self._key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        answer = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).lower()
        length = int(answer.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        return int(answer[9:12]), await asyncio.wait_for(reader.readexactly(length), 30)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


async def create_conversations(url: str, api_key: str, count: int) -> list[str]:
    """Make conversations to work on; returns their ids."""
    client = Client(url, api_key)
    made = []
    for _ in range(count):
        _, body = await client.request("POST", "/conversations", {"items": [_ITEM] * 4})
        made.append(msgspec.json.decode(body)["id"])
    client.close()
    return made


async def measure(
    load: str,
    url: str,
    api_key: str,
    conversations: Sequence[str],
    *,
    in_flight: int,
    seconds: float,
) -> StoredRow:
    """Run one load.

    `append` adds an item, `get` reads a conversation, `items` a page of its items, `list` a page of
    conversations, `search` one of those that have two words.
    """
    latencies: list[float] = []
    failed = 0
    until = time.monotonic() + seconds
    prepare = _LOADS[load]

    async def work(number: int) -> None:
        nonlocal failed
        client = Client(url, api_key)
        at = number
        while time.monotonic() < until:
            method, path, body = prepare(conversations[at % len(conversations)])
            at += in_flight
            began = time.perf_counter()
            status, _ = await client.request(method, path, body)
            latencies.append((time.perf_counter() - began) * 1000)
            failed += status != 200
        client.close()

    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(in_flight):
            tasks.create_task(work(number))
    took = time.monotonic() - began
    return StoredRow(
        load,
        in_flight,
        len(latencies),
        failed,
        len(latencies) / took,
        quantile(latencies, 0.5),
        quantile(latencies, 0.99),
    )


Prepared = tuple[str, str, object]
_LOADS: dict[str, Callable[[str], Prepared]] = {
    "append": lambda one: ("POST", f"/conversations/{one}/items", {"items": [_ITEM]}),
    "get": lambda one: ("GET", f"/conversations/{one}", None),
    "items": lambda one: ("GET", f"/conversations/{one}/items?limit=20", None),
    "list": lambda _: ("GET", "/conversations?limit=20", None),
    "search": lambda _: ("GET", "/conversations?limit=20&search=harbour+lantern", None),
}
