"""Cancels: told live, and read from their stream at the start and after each reconnect."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import structlog

from bus import Bus, Message
from schemas import subjects
from schemas.commands import CancelRun, decode_cancel_run
from schemas.errors import BusError
from workers.runtime import beside

logger = structlog.get_logger()

_REMEMBERED = 20_000  # runs; what is older is in no queue any more
_READ_AGAIN = 0.5

OnCancel = Callable[[CancelRun], None]


class Cancels:
    """The runs that somebody has cancelled, whether they run here or not."""

    def __init__(self) -> None:
        self._by_run: dict[str, CancelRun] = {}

    def find(self, run_id: str) -> CancelRun | None:
        """The cancel of a run, if there was one."""
        return self._by_run.get(run_id)

    def add(self, cancel: CancelRun) -> bool:
        """Remember a cancel; was it new?"""
        if cancel.run_id in self._by_run:
            return False
        if len(self._by_run) >= _REMEMBERED:
            del self._by_run[next(iter(self._by_run))]
        self._by_run[cancel.run_id] = cancel
        return True


class Control:
    """Hears the cancels. Made by `open_control`."""

    def __init__(self, bus: Bus, cancels: Cancels, on_cancel: OnCancel) -> None:
        self._bus = bus
        self._cancels = cancels
        self._on_cancel = on_cancel
        self._seq = 0
        self._behind = asyncio.Event()

    async def read(self) -> None:
        """Take in what the stream has since it was last read."""
        async for stored in self._bus.read_subject(
            subjects.CONTROL, subjects.ALL_CANCELS, self._seq + 1
        ):
            self._seq = stored.seq
            self._take(stored.data)

    async def follow(self) -> None:
        """Read again after each reconnect, until cancelled."""
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self.read()
            except BusError as error:
                logger.warning("cancels are read again", error=str(error))
                self._behind.set()
                await asyncio.sleep(_READ_AGAIN)

    def fall_behind(self) -> None:
        """Cancels may have been missed."""
        self._behind.set()

    def on_message(self, message: Message) -> None:
        """Take a cancel as it is told."""
        self._take(message.data)

    def _take(self, data: bytes) -> None:
        try:
            cancel = decode_cancel_run(data)
        except msgspec.DecodeError as error:
            logger.warning("a cancel can't be read", error=str(error))
            return
        if self._cancels.add(cancel):
            self._on_cancel(cancel)


@asynccontextmanager
async def open_control(bus: Bus, cancels: Cancels, on_cancel: OnCancel) -> AsyncIterator[None]:
    """Follow the cancels for the context's life; all that were stored before are known."""
    control = Control(bus, cancels, on_cancel)
    # Listen first: what is told while the stream is read would be missed.
    subscription = await bus.subscribe(subjects.ALL_CANCELS, control.on_message)
    forget = bus.on_reconnect(control.fall_behind)
    try:
        await control.read()
        async with beside(control.follow()):
            yield
    finally:
        forget()
        await subscription.unsubscribe()
