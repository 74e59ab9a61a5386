"""Which deployments have failed lately: tried last, as long as others are there.

What a worker finds out it shares through the bucket `health`, so that not every worker has to wait
for the same dead deployment. Nothing is refused because of it: a deployment that is alone is tried.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog

from bus import Bucket, Bus
from schemas import subjects
from schemas.errors import BusError, JanError, UpstreamRateLimited

logger = structlog.get_logger()

_FAILURES = 3  # in a row, after which a deployment counts as down
_SHORTEST = 2.0  # seconds that it does, doubled each time …
_LONGEST = 12.0  # … up to nearly what the bucket keeps

PREFIX = "deployment"


class DeploymentState(msgspec.Struct, frozen=True):
    """The value in the bucket; `until` in unix seconds."""

    deployment: str
    until: float
    reason: str = ""
    v: int = 1


_decode = msgspec.json.Decoder(DeploymentState).decode


def key_of(deployment: str) -> str:
    """The key in the bucket of a deployment's state."""
    return f"{PREFIX}.{subjects.slug(deployment)}-{zlib.crc32(deployment.encode()):08x}"


class Breakers:
    """Counts failures, and knows what others have found."""

    def __init__(self, bucket: Bucket | None = None) -> None:
        self._bucket = bucket
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def is_down(self, deployment: str) -> bool:
        """Whether it is better to try another one first."""
        until = self._until.get(deployment)
        return until is not None and time.time() < until

    def note_success(self, deployment: str) -> None:
        """It works: whatever was, is forgotten."""
        self._failures.pop(deployment, None)
        if self._until.pop(deployment, 0.0) > time.time():
            self._tell(DeploymentState(deployment, 0.0))

    def note_failure(self, deployment: str, error: JanError) -> None:
        """It failed in a way that another one might not."""
        count = self._failures[deployment] = self._failures.get(deployment, 0) + 1
        if isinstance(error, UpstreamRateLimited):
            seconds = min(error.retry_after or 1.0, _LONGEST)
        elif count >= _FAILURES:
            seconds = min(_SHORTEST * 2 ** (count - _FAILURES), _LONGEST)
        else:
            return
        self._until[deployment] = time.time() + seconds
        self._tell(DeploymentState(deployment, self._until[deployment], error.message))

    def on_change(self, key: str, value: bytes | None, _: int) -> None:
        """Take what a worker says of a deployment."""
        if value is None:
            return  # it has expired, and so has what it said
        try:
            state = _decode(value)
        except msgspec.DecodeError as error:
            logger.warning("a deployment's state can't be read", key=key, error=str(error))
            return
        self._until[state.deployment] = state.until

    def _tell(self, state: DeploymentState) -> None:
        if self._bucket is not None:
            telling = asyncio.create_task(self._put(self._bucket, state))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _put(self, bucket: Bucket, state: DeploymentState) -> None:
        try:
            await bucket.put(key_of(state.deployment), msgspec.json.encode(state))
        except BusError as error:
            logger.debug("a deployment's state was not shared", error=str(error))


@asynccontextmanager
async def open_breakers(bus: Bus) -> AsyncIterator[Breakers]:
    """Share the state of deployments with other workers for the context's life."""
    bucket = Bucket(bus, subjects.KV_HEALTH)
    breakers = Breakers(bucket)
    watch = await bucket.watch(breakers.on_change, prefix=PREFIX)
    try:
        yield breakers
    finally:
        await watch.stop()
