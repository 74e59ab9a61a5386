"""Large requests and files that tools made lie in the object store until nobody can need them."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from bus import ObjectStore
from schemas.errors import Unavailable
from workers.runtime import beside

logger = structlog.get_logger()

_EVERY = 600.0


async def expire(objects: ObjectStore, kept: Mapping[str, float], every: float = _EVERY) -> None:
    """Remove what is older than its folder keeps it (seconds), again and again until cancelled.

    Requests by age, not at a run's end: it may never have begun, and its log can still be read.
    """
    while True:
        for folder, seconds in kept.items():
            try:
                removed = await objects.expire(folder, time.time() - seconds)
            except (Unavailable, OSError) as error:
                logger.warning("old objects stay", folder=folder, error=str(error))
            else:
                if removed:
                    logger.info("old objects are removed", folder=folder, count=removed)
        await asyncio.sleep(every)


@asynccontextmanager
async def tidying(objects: ObjectStore, kept: Mapping[str, float]) -> AsyncIterator[None]:
    """Keep removing them for the context's life."""
    async with beside(expire(objects, kept)):
        yield
