"""Server-sent events as a client reads them, with the time that each came."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx
import msgspec


@dataclass(frozen=True)
class Event:
    """One event; `id` is its index."""

    id: int
    data: bytes
    at: float

    @property
    def text(self) -> str:
        """What the event adds to the first choice's text."""
        return text_of(self.data)


@dataclass
class Received:
    """What one reader has got of a stream so far."""

    events: list[Event] = field(default_factory=list)
    run_id: str = ""

    @property
    def ids(self) -> list[int]:
        """The events' indexes, in the order that they came."""
        return [event.id for event in self.events]

    @property
    def text(self) -> str:
        """The first choice's text."""
        return "".join(event.text for event in self.events)

    @property
    def complete(self) -> bool:
        """Whether the last event says that the stream is over."""
        return bool(self.events) and self.events[-1].data == b"[DONE]"

    @property
    def longest_gap(self) -> float:
        """The longest time in seconds between two events."""
        times = [event.at for event in self.events]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    @property
    def whole(self) -> bool:
        """Complete, and no index missing or twice."""
        return self.complete and self.ids == list(range(len(self.events)))


def text_of(data: bytes) -> str:
    """The text in a chunk's first choice; raises AssertionError if the chunk is an error."""
    if data == b"[DONE]":
        return ""
    chunk: dict[str, Any] = msgspec.json.decode(data)
    assert "error" not in chunk, chunk
    choices = chunk["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""


def to_event(block: str, at: float) -> Event | None:
    """Read one event's lines; None if it is only a comment."""
    fields = dict(
        line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":")
    )
    if "data" not in fields:
        return None
    return Event(int(fields.get("id", -1)), fields["data"].encode(), at)


def read_events(response: httpx.Response) -> Iterator[Event]:
    """The events of a streamed response, as they come."""
    buffer = ""
    for text in response.iter_text():
        *blocks, buffer = (buffer + text).split("\n\n")
        for block in blocks:
            if (event := to_event(block, monotonic())) is not None:
                yield event


async def aread_events(response: httpx.Response) -> AsyncIterator[Event]:
    """The same for an asynchronous client."""
    buffer = ""
    async for text in response.aiter_text():
        *blocks, buffer = (buffer + text).split("\n\n")
        for block in blocks:
            if (event := to_event(block, monotonic())) is not None:
                yield event


@dataclass
class Streams:
    """Many streams read at once; `reached` tells when all have got so many events."""

    client: httpx.AsyncClient
    received: list[Received] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self, received: Received, method: str, url: str, **request: Any) -> Received:
        """Read one stream into `received` until it ends or breaks."""
        if received not in self.received:
            self.received.append(received)
        async with self.client.stream(method, url, **request) as response:
            assert response.status_code == 200, await response.aread()
            received.run_id = response.headers.get("x-run-id", received.run_id)
            async for event in aread_events(response):
                received.events.append(event)
                async with self._progress:
                    self._progress.notify_all()
        return received

    async def reached(self, count: int, of: int, timeout: float = 30.0) -> None:
        """Wait until each of `of` streams has got `count` events."""
        async with asyncio.timeout(timeout), self._progress:
            await self._progress.wait_for(
                lambda: (
                    len(self.received) == of
                    and all(len(one.events) >= count for one in self.received)
                )
            )
