"""Pulling the log, in batches.

FastStream's own loop for batches drops what it has fetched, without an ack, when nats-py's fetch
ends with asyncio's TimeoutError instead of its own (FastStream 0.7.8, nats-py 2.16): a fact then
came to the database when its ack was overdue, after ten seconds. One alone in its batch did so
about every sixth time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bus import Bus

logger = structlog.get_logger()

_GATHER_SECONDS = 0.05  # how long a batch waits for more: a row is that much behind at most
_AFTER_ERROR = 0.5


async def pull_batches(
    bus: Bus,
    consumer: str,
    *,
    stream: str,
    batch: int,
    inbox_prefix: bytes,
    on_messages: Callable[[list[Msg]], Awaitable[None]],
    stopping: asyncio.Event,
) -> None:
    """Fetch from a durable consumer and hand out, one batch after the other, until `stopping`."""
    subscription = await bus.js.pull_subscribe_bind(consumer, stream, inbox_prefix=inbox_prefix)
    while not stopping.is_set():
        try:
            messages = await subscription.fetch(batch, timeout=_GATHER_SECONDS)
        except TimeoutError:
            continue
        except (NatsError, OSError) as error:
            logger.debug("the log can't be read now", error=str(error))
            await asyncio.sleep(_AFTER_ERROR)
            continue
        if messages:
            await on_messages(messages)
    with suppress(NatsError, OSError):  # a server that is gone knows of no subscriptions
        await subscription.unsubscribe()
