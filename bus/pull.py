"""Pulling from a consumer: a request that is kept open, and what it brings, as it comes.

nats-py's own `fetch` waits for a batch to be full or its time to be over, and can lose what comes
just then: the server gives it again only after `ack_wait`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import msgspec
import structlog

from bus.connection import Bus
from bus.wire import Message

logger = structlog.get_logger()

_LASTS: Final = 5.0  # seconds that a request waits on the server
_OVERDUE: Final = 2.0  # seconds after its end, in which the server has to say that it is over
_AFTER_REFUSAL: Final = 0.5
_OVER: Final = (404, 408)


class Delivery(NamedTuple):
    """A message that was given to us, to be acked, or given back."""

    subject: str
    data: bytes
    headers: bytes
    seq: int  # in its stream
    nth: int  # how often it was delivered, this time included
    time: float  # when it was stored, in unix seconds
    reply: str
    publish: Callable[[str, bytes], None]

    def ack(self) -> None:
        """It is done."""
        self.publish(self.reply, b"+ACK")

    def give_back(self, seconds: float = 0.0) -> None:
        """Have it delivered again, after so long."""
        delay = msgspec.json.encode({"delay": int(seconds * 1e9)})
        self.publish(self.reply, b"-NAK " + delay if seconds else b"-NAK")

    def still_at_work(self) -> None:
        """Begin its `ack_wait` anew."""
        self.publish(self.reply, b"+WPI")

    def end(self) -> None:
        """Never have it delivered again."""
        self.publish(self.reply, b"+TERM")


class Pull:
    """What a consumer has for us. At most `batch` messages are asked for at a time.

    `ahead`: the next ones are asked for while the last ones are worked on.
    """

    def __init__(
        self, bus: Bus, stream: str, consumer: str, *, batch: int, ahead: bool = False
    ) -> None:
        self._bus = bus
        self._target = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._consumer = consumer
        self._batch = batch
        self._ahead = ahead
        self._arrived: list[Delivery] = []
        self._news = asyncio.Event()
        self._inbox = f"{bus.nc.new_inbox()}."
        self._number = 0  # of the request that is open
        self._left = 0  # what it may still bring
        self._ends = 0.0
        self._not_before = 0.0

    async def next(self) -> list[Delivery]:
        """Wait for messages; return all that have come."""
        loop = asyncio.get_running_loop()
        while True:
            if self._arrived:
                taken, self._arrived = self._arrived, []
                if self._ahead:
                    self._ask(loop.time())
                return taken
            self._ask(loop.time())
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), _AFTER_REFUSAL)
            except TimeoutError:
                continue  # a look whether the request is overdue

    def _ask(self, now: float) -> None:
        """Open a request, if there is none and there is room for what it brings."""
        if self._left and now > self._ends + _OVERDUE:
            logger.warning("a request for messages got no answer", consumer=self._consumer)
            self._left = 0
        room = self._batch - len(self._arrived)
        if self._left or room <= 0 or now < self._not_before or not self._bus.connected:
            return
        self._number += 1
        self._left, self._ends = room, now + _LASTS
        asked = msgspec.json.encode({"batch": room, "expires": int(_LASTS * 1e9)})
        self._bus.publish(self._target, asked, reply=f"{self._inbox}{self._number}")

    def _on_message(self, message: Message) -> None:
        if message.status:
            self._on_status(message)
        else:
            self._left = max(0, self._left - 1)
            self._arrived.append(_to_delivery(message, self._bus))
        self._news.set()

    def _on_status(self, message: Message) -> None:
        """The server says that a request is over, or why there won't be anything."""
        if message.subject.decode() != f"{self._inbox}{self._number}":
            return
        self._left = 0
        if message.status not in _OVER:
            # The consumer is not there (503), has a new leader, or has too many waiting (409).
            logger.debug("messages refused", consumer=self._consumer, status=message.status)
            self._not_before = asyncio.get_running_loop().time() + _AFTER_REFUSAL

    def _on_reconnect(self) -> None:
        """What was asked before is forgotten."""
        self._left = 0
        self._news.set()

    async def open(self) -> Callable[[], None]:
        """Listen for what comes; return what forgets about reconnects."""
        self._subscription = await self._bus.subscribe(f"{self._inbox}*", self._on_message)
        return self._bus.on_reconnect(self._on_reconnect)

    async def close(self) -> None:
        """Listen no more; what was not taken is given back."""
        await self._subscription.unsubscribe()
        for delivery in self._arrived:
            delivery.give_back()


@asynccontextmanager
async def open_pull(pull: Pull) -> AsyncIterator[Pull]:
    """Listen to what a consumer has for the context's life."""
    forget = await pull.open()
    try:
        yield pull
    finally:
        forget()
        await pull.close()


def _to_delivery(message: Message, bus: Bus) -> Delivery:
    """Take the sequence and the time from the ack's subject, counted from its end.

    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<seq>.<nth>.<ns>.<pending>`
    and, with a domain, one more token.
    """
    reply = message.reply.decode()
    tokens = reply.split(".")
    at = 4 if len(tokens) < 11 else 6
    return Delivery(
        subject=message.subject.decode(),
        data=message.data,
        headers=message.headers,
        seq=int(tokens[at + 1]),
        nth=int(tokens[at]),
        time=int(tokens[at + 3]) / 1e9,
        reply=reply,
        publish=bus.publish,
    )
