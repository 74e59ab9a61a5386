"""Pulling from a consumer: never more than there is room for, and nothing that arrives is dropped.

One request is open at a time. It is for as much as there is room for, lasts for less than the
server's patience with a silent worker, and is made anew at once when it is used up, refused or
over, and when the connection is back: what the old server was asked for, the new one knows
nothing of.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import structlog

from bus.connection import Bus, Subscription
from bus.wire import Message

logger = structlog.get_logger()

_LOOK_SECONDS: Final = 0.25
_OVERDUE_SECONDS: Final = 1.0  # after a request's end, in which the server has to say so
_AFTER_REFUSAL: Final = 0.5
_OVER: Final = (404, 408)


class Delivery(NamedTuple):
    """One delivery of a message: what it is, and where its ack goes."""

    bus: Bus
    subject: str
    data: bytes
    headers: bytes
    reply: str
    seq: int
    nth: int  # delivery of it
    time: float  # at which the server stored it, in unix seconds

    def ack(self) -> None:
        """It is done."""
        self.bus.publish(self.reply, b"+ACK")

    def in_progress(self) -> None:
        """It is being worked on: give it to nobody else yet."""
        self.bus.publish(self.reply, b"+WPI")

    def again(self, seconds: float) -> None:
        """Deliver it again, later. If this is lost it comes when its ack is overdue."""
        self.bus.publish(self.reply, b'-NAK {"delay":%d}' % int(seconds * 1e9))

    def end(self) -> None:
        """Never deliver it again."""
        self.bus.publish(self.reply, b"+TERM")


def to_delivery(bus: Bus, message: Message) -> Delivery:
    """Take the sequence, the time and so on from the ack's subject, counted from its end.

    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<seq>.<nth>.<ns>.<pending>`
    and, with a domain, one more token.
    """
    reply = message.reply.decode()
    tokens = reply.split(".")
    at = 4 if len(tokens) < 11 else 6
    nth, seq, ns = int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 3])
    subject = message.subject.decode()
    return Delivery(bus, subject, message.data, message.headers, reply, seq, nth, ns / 1e9)


class Pull:
    """Asks a consumer for messages; each goes to `on_delivery`, and counts until `done`."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        on_delivery: Callable[[Delivery], None],
        *,
        room: int,
        seconds: float,
    ) -> None:
        self._bus = bus
        self._target = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._on_delivery = on_delivery
        self._room = room
        self._seconds = seconds
        self._held = 0
        self._number = 0  # of the open request
        self._left = 0  # messages that it may still bring
        self._ends = 0.0
        self._not_before = 0.0
        self._inbox = bus.nc.new_inbox()
        self._stopped = False

    def done(self, count: int = 1) -> None:
        """So many deliveries are settled."""
        self._held -= count
        self._fill()

    async def run(self) -> None:
        """Ask until cancelled."""
        subscription: Subscription = await self._bus.subscribe(f"{self._inbox}.*", self._on_message)
        forget = self._bus.on_reconnect(self._forget)
        try:
            while True:
                self._fill()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._stopped = True
            forget()
            await subscription.unsubscribe()

    def _fill(self) -> None:
        """Ask for as much as there is room for, unless something is asked for."""
        now = asyncio.get_running_loop().time()
        if self._left and now > self._ends + _OVERDUE_SECONDS:
            logger.warning("a request for messages got no answer", target=self._target)
            self._left = 0
        room = self._room - self._held
        if self._stopped or self._left or room <= 0 or now < self._not_before:
            return
        if not self._bus.connected:
            return
        self._number += 1
        self._left = room
        self._ends = now + self._seconds
        request = b'{"batch":%d,"expires":%d}' % (room, int(self._seconds * 1e9))
        self._bus.publish(self._target, request, reply=f"{self._inbox}.{self._number}")

    def _forget(self) -> None:
        self._left = 0
        self._fill()

    def _on_message(self, message: Message) -> None:
        if not message.reply:
            self._on_status(message)
            return
        self._left = max(0, self._left - 1)
        self._held += 1
        self._on_delivery(to_delivery(self._bus, message))
        self._fill()

    def _on_status(self, message: Message) -> None:
        if not message.subject.endswith(b".%d" % self._number):
            return
        if message.status not in _OVER:
            # The consumer is not there (503), has a new leader, or has too many waiting (409).
            self._not_before = asyncio.get_running_loop().time() + _AFTER_REFUSAL
        self._left = 0
        self._fill()


class Batches:
    """Gathers what is pulled, and hands it on in batches, one at a time.

    A batch begins at once if the last one began some time ago, so that a lone message does not
    wait; under load it waits until there is more to write at once, or somebody is in a hurry.
    """

    def __init__(
        self, size: int, pause: float, on_batch: Callable[[list[Delivery]], Awaitable[None]]
    ) -> None:
        self.waiting: list[Delivery] = []
        self.done: Callable[[int], None] = lambda _: None
        self._size = size
        self._pause = pause
        self._on_batch = on_batch
        self._stopped = False
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """Take a message."""
        self.waiting.append(delivery)
        self._arrived.set()
        if len(self.waiting) >= self._size:
            self._urgent.set()

    def hurry(self) -> None:
        """Begin the next batch without a pause: somebody waits for what it has."""
        self._urgent.set()

    async def run(self) -> None:
        """Handle batches until `stop`; `done` is told how many messages are settled."""
        loop = asyncio.get_running_loop()
        began = 0.0
        while True:
            await self._arrived.wait()
            wait = began + self._pause - loop.time()
            if wait > 0 and len(self.waiting) < self._size:
                await _within(self._urgent, wait)
            if self._stopped:
                return
            began = loop.time()
            await self._handle_next()

    async def _handle_next(self) -> None:
        batch, self.waiting = self.waiting[: self._size], self.waiting[self._size :]
        if not self.waiting:
            self._arrived.clear()
        if len(self.waiting) < self._size:
            self._urgent.clear()
        await self._on_batch(batch)
        self.done(len(batch))

    def stop(self) -> None:
        """Begin no other batch: what waits is delivered to somebody else."""
        self._stopped = True
        self._arrived.set()
        self._urgent.set()


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
