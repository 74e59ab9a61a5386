"""Webhooks on their way: sent, and sent again with longer and longer pauses until they arrive."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx2
import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from bus import Bus
from schemas import subjects
from schemas.errors import BusError
from schemas.outbound import Blocked
from schemas.sealing import SealError, unseal
from schemas.webhooks import SendWebhook, decode_send_webhook, secret_of, to_headers
from workers.runtime import bury
from workers.runtime.delivery import Delivery
from workers.runtime.pull import Pull, Queue, pull_jobs

logger = structlog.get_logger()

QUEUE: Final = "webhooks"
SLOTS: Final = 32
ACK_WAIT: Final = 30.0  # seconds: the consumer's; no heartbeats stretch it

_SECONDS: Final = 15.0  # that a server has to answer
_PAUSES: Final = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800)  # seconds; 16 hours in all
_GONE: Final = 410


class Webhooks:
    """Sends webhooks. `key` is what their secrets follow from."""

    def __init__(
        self, bus: Bus, web: httpx2.AsyncClient, key: str, registry: CollectorRegistry
    ) -> None:
        self._bus = bus
        self._web = web
        self._key = key
        self._sending: set[asyncio.Task[None]] = set()
        self._sent = Counter(
            "jan_tools_webhooks", "Webhooks by what became of them.", ["how"], registry=registry
        )

    def start(self, delivery: Delivery, on_done: Callable[[], None]) -> None:
        """Send one; `on_done` is called when its slot is free again."""
        task = asyncio.create_task(self._carry_out(delivery))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        task.add_done_callback(lambda _: on_done())

    async def drain(self) -> None:
        """Stop what is under way: it is delivered again."""
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)

    async def _carry_out(self, delivery: Delivery) -> None:
        try:
            webhook = decode_send_webhook(delivery.data)
        except msgspec.DecodeError as error:
            await self._bury(delivery, f"it can't be read: {error}")
            return
        fault = await self._send(webhook)
        if fault is None:
            self._sent.labels("arrived").inc()
            delivery.ack()
        elif delivery.delivered > len(_PAUSES):
            await self._bury(delivery, f"{webhook.url} {fault}")
        else:
            self._sent.labels("failed").inc()
            delivery.nak(_PAUSES[delivery.delivered - 1])

    async def _send(self, webhook: SendWebhook) -> str | None:
        """Send it; say what was wrong. Nothing, if it arrived or nobody wants it any more."""
        body = bytes(webhook.body)
        try:
            secret = self._secret_of(webhook)
        except SealError as error:
            return f"can't be signed: {error}"
        headers = to_headers(secret, webhook.id, int(time.time()), body)
        headers |= {"content-type": "application/json", "user-agent": "jan-server"}
        try:
            async with (
                asyncio.timeout(_SECONDS),
                self._web.stream("POST", webhook.url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except Blocked as error:
            return f"may not be reached: {error}"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as error:
            return f"did not answer: {type(error).__name__}"
        if status == _GONE:
            logger.info("a webhook is not wanted any more", run_id=webhook.run_id)
            return None
        return None if 200 <= status < 300 else f"answered {status}"

    def _secret_of(self, webhook: SendWebhook) -> str:
        """What it is signed with. Raises SealError if that was sealed with another key."""
        if webhook.secret:
            return unseal(self._key, webhook.secret)
        return secret_of(self._key, webhook.principal)

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        """Keep it for people to look at."""
        self._sent.labels("given up").inc()
        try:
            await bury(
                self._bus,
                subjects.JOBS,
                delivery.subject,
                delivery.data,
                error=reason,
                sequence=delivery.sequence,
            )
        except BusError as error:
            logger.warning("a webhook can't be buried yet", error=str(error))
            return
        delivery.term()


@asynccontextmanager
async def open_webhooks(webhooks: Webhooks, bus: Bus) -> AsyncIterator[None]:
    """Send what waits, for the context's life."""
    queues = [Queue(subjects.tool_consumer(QUEUE), background=False)]
    pull = Pull(bus, queues, lambda: SLOTS, webhooks.start, ACK_WAIT)
    try:
        async with pull_jobs(pull):
            yield
    finally:
        await webhooks.drain()
