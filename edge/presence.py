"""Who is there: this edge says so every two seconds, and watches edges, workers and deployments."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import structlog

from bus.buckets import Bucket
from bus.connection import Bus
from schemas import subjects
from schemas.errors import BusError
from schemas.health import WorkerFacts, decode_worker

logger = structlog.get_logger()

_EVERY = 2.0  # seconds
_ABSENT_AFTER = 6.0  # seconds without a word, by this process's own clock
_GONE_AFTER = 60.0  # … of an edge: on a busy machine one that is late still serves


class Fact(msgspec.Struct, frozen=True):
    """What a process says of itself, as far as an edge needs it."""

    kind: str = ""
    name: str = ""
    draining: bool = False
    loading: str = ""  # a worker's: how far its engines are, until they are open
    database: bool | str | None = None  # a persistence worker's: whether it reaches PostgreSQL


@dataclass(slots=True)
class _Seen:
    fact: Fact
    at: float
    value: bytes = b""


_decode = msgspec.json.Decoder(Fact).decode


class Presence:
    """What is known of all processes; `facts` is what this edge says of itself."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        facts: Callable[[], dict[str, object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draining = False
        self._bus = bus
        self._bucket = Bucket(bus, subjects.KV_HEALTH)
        self._name = name
        self._facts = facts
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._edges = 1
        self._counted_at = 0.0

    def on_change(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take a change from the bucket's watch."""
        if not key.startswith(("edge.", "worker.")):
            return
        if value is None:
            self._seen.pop(key, None)
            return
        try:
            self._seen[key] = _Seen(_decode(value), self._clock(), value)
        except msgspec.MsgspecError as error:
            logger.warning("a process's presence can't be read", key=key, error=str(error))

    def edges(self) -> int:
        """How many edges serve now, this one included. Counted twice a second."""
        now = self._clock()
        if now - self._counted_at > 0.5:
            self._counted_at = now
            others = [key for key in self._present("edge.") if key != f"edge.{self._name}"]
            self._edges = 1 + len(others)
        return self._edges

    def has_peers(self) -> bool:
        """Whether other edges may serve, those that are stopping or late with their word too."""
        oldest, mine = self._clock() - _GONE_AFTER, f"edge.{self._name}"
        return any(
            key.startswith("edge.") and key != mine and seen.at >= oldest
            for key, seen in self._seen.items()
        )

    def workers(self, kind: str) -> list[Fact]:
        """The workers of a kind that are there and take work."""
        present = self._present(f"worker.{kind}.").values()
        return [fact for fact in present if not fact.loading]

    def loading(self, kind: str) -> list[str]:
        """What the workers of a kind that are not open yet say of it."""
        present = self._present(f"worker.{kind}.").values()
        return [fact.loading for fact in present if fact.loading]

    def inference(self) -> list[WorkerFacts]:
        """What the inference workers that are there say of their pools and deployments."""
        return [decode_worker(self._seen[key].value) for key in self._present("worker.inference.")]

    async def announce(self) -> None:
        """Say once that this edge is there; an error is logged, the next word comes soon."""
        if not self._bus.connected:
            return
        told = {
            "at": time.time(),
            "kind": "edge",
            "name": self._name,
            "pid": os.getpid(),
            "draining": self.draining,
            **self._facts(),
        }
        try:
            await self._bucket.put(f"edge.{self._name}", msgspec.json.encode(told))
        except BusError as error:
            logger.warning("presence not announced", error=str(error))

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            await self.announce()
            await asyncio.sleep(_EVERY)

    async def leave(self) -> None:
        """Take the announcement back."""
        if not self._bus.connected:
            return
        try:
            await asyncio.wait_for(self._bucket.delete(f"edge.{self._name}"), 0.5)
        except (BusError, TimeoutError) as error:
            logger.warning("presence stays until it expires", error=str(error))

    async def watch(self) -> None:
        """Begin to watch the others; returns when those that are there are known."""
        self._watch = await self._bucket.watch(self.on_change)

    def _present(self, prefix: str) -> dict[str, Fact]:
        oldest = self._clock() - _ABSENT_AFTER
        return {
            key: seen.fact
            for key, seen in self._seen.items()
            if key.startswith(prefix) and seen.at >= oldest and not seen.fact.draining
        }


@asynccontextmanager
async def open_presence(presence: Presence) -> AsyncIterator[Presence]:
    """Keep this edge announced, and the others watched, for the context's life."""
    await presence.watch()
    announcing = asyncio.create_task(presence.run())
    try:
        yield presence
    finally:
        announcing.cancel()
        await presence.leave()
