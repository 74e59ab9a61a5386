"""Waiting for what nothing tells of: by asking again and again."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(holds: Callable[[], bool | Awaitable[object]], timeout: float = 30.0) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(timeout):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)
