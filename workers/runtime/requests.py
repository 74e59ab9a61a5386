"""Large requests lie in the object store; here they are removed once no job can need them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from bus import ObjectStore
from schemas.errors import Unavailable
from schemas.objects import REQUESTS
from workers.runtime import beside

logger = structlog.get_logger()

_EVERY = 600.0


async def expire_requests(objects: ObjectStore, kept: float, every: float = _EVERY) -> None:
    """Remove what is older than `kept` seconds, again and again until cancelled.

    By age, not at a run's end: it may never have begun, and its log can still be read.
    """
    while True:
        try:
            removed = await objects.expire(REQUESTS, time.time() - kept)
        except (Unavailable, OSError) as error:
            logger.warning("old requests stay in the object store", error=str(error))
        else:
            if removed:
                logger.info("old requests are removed", count=removed)
        await asyncio.sleep(every)


@asynccontextmanager
async def tidy_requests(objects: ObjectStore, kept: float) -> AsyncIterator[None]:
    """Keep removing them for the context's life."""
    async with beside(expire_requests(objects, kept)):
        yield
