"""Which inference workers are there, as all of them tell in the bucket `health`."""

import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import structlog

from bus import Bucket, Bus
from schemas import health, subjects
from schemas.health import ABSENT_AFTER, WorkerFacts

logger = structlog.get_logger()

_PREFIX = "worker.inference"
_COUNTED_FOR = 0.5  # seconds


class Peers:
    """The workers that were heard lately, this one always included."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._heard: dict[str, tuple[WorkerFacts, float]] = {}
        self._counts: dict[str, int] = {}
        self._counted_at = float("-inf")

    def on_change(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take what a worker says of itself."""
        if value is None:
            self._heard.pop(key, None)
            return
        try:
            self._heard[key] = health.decode_worker(value), self._clock()
        except msgspec.DecodeError as error:
            logger.warning("a worker's presence can't be read", key=key, error=str(error))

    def count(self, pool: str) -> int:
        """How many workers serve a pool; counted twice a second."""
        now = self._clock()
        if now - self._counted_at > _COUNTED_FOR:
            self._counts.clear()
            self._counted_at = now
        if pool not in self._counts:
            self._counts[pool] = 1 + len(self._others(pool))
        return self._counts[pool]

    def is_chosen(self, what: str, pool: str) -> bool:
        """Whether this worker is the one of the pool's to do this: all choose the same one.

        Who is gone is not chosen any more once it was not heard for six seconds.
        """
        mine = _lot(self._name, what)
        return all(mine < _lot(other, what) for other in self._others(pool))

    def _others(self, pool: str) -> list[str]:
        oldest = self._clock() - ABSENT_AFTER
        return [
            facts.name
            for facts, at in self._heard.values()
            if at >= oldest and facts.serves(pool) and facts.name != self._name
        ]


def _lot(worker: str, what: str) -> tuple[int, str]:
    return zlib.crc32(f"{what} {worker}".encode()), worker


@asynccontextmanager
async def open_peers(bus: Bus, name: str) -> AsyncIterator[Peers]:
    """Watch the other workers for the context's life."""
    peers = Peers(name)
    watch = await Bucket(bus, subjects.KV_HEALTH).watch(peers.on_change, prefix=_PREFIX)
    try:
        yield peers
    finally:
        await watch.stop()
