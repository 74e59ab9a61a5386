"""The calls in progress in this worker: started, found, stopped, counted."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

import msgspec
import structlog

from schemas import subjects
from schemas.commands import CancelRun
from schemas.errors import BusError, Cancelled
from schemas.tools import decode_call_tool
from workers.runtime import bury
from workers.runtime.control import Cancels
from workers.runtime.delivery import Delivery
from workers.runtime.interrupt import HandedBack
from workers.runtime.writer import Lost
from workers.tools.call import Call, Workplace

logger = structlog.get_logger()

_FORCE_AFTER = 1.5  # seconds that calls have to hand themselves back


class Calls:
    """All calls of this worker, and the owner of their tasks until `drain` returns."""

    def __init__(self, place: Workplace, cancels: Cancels) -> None:
        self._place = place
        self._cancels = cancels
        self._calls: dict[str, Call] = {}
        self._carrying: dict[Call, asyncio.Task[None]] = {}
        self._burying: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = asyncio.Event()

    def __len__(self) -> int:
        return len(self._carrying)

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._carrying))

    def start(self, delivery: Delivery, on_done: Callable[[], None]) -> None:
        """Carry a job out; `on_done` is called when its slot is free again."""
        try:
            job = decode_call_tool(delivery.data)
        except msgspec.DecodeError as error:
            burying = asyncio.create_task(self._bury(delivery, str(error), on_done))
            self._burying.add(burying)
            burying.add_done_callback(self._burying.discard)
            return
        current = self._calls.get(job.call_id)
        if current is not None and not current.lost:
            # The server missed our heartbeats, we did not: it goes on, acking as it asks now.
            current.delivery = delivery
            on_done()
            return
        call = Call(self._place, job, delivery)
        self._calls[job.call_id] = call
        cancel = self._cancels.find(job.call_id) or self._cancels.find(job.parent)
        if cancel is not None:
            call.stop(_to_error(cancel))
        before = self._carrying.get(current) if current is not None else None
        self._carrying[call] = asyncio.create_task(self._carry_out(call, before, on_done))
        self._idle.clear()

    def cancel(self, cancel: CancelRun) -> None:
        """Cancel a call, or all calls of a run, as far as they are in progress here."""
        for call in self:
            if cancel.run_id in (call.job.call_id, call.job.parent):
                call.stop(_to_error(cancel))

    def lose(self, lost: list[Call]) -> None:
        """Stop calls whose heartbeats were missed for so long that the server gave them away."""
        if lost:
            logger.warning("heartbeats were missed", calls=len(lost))
        for call in lost:
            call.stop(Lost("its heartbeats were missed"))

    def hurry(self) -> None:
        """Have a drain, now or to come, hand back at once what has not ended."""
        self._hurried.set()

    async def drain(self, timeout: float) -> None:
        """Let the calls end; after `timeout` seconds hand back those that have not."""
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, self._hurried)]
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._idle.is_set():
            for call in self:
                call.stop(HandedBack())
            await self._until_idle(_FORCE_AFTER)
        left = [*self._carrying.values(), *self._burying]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _carry_out(
        self, call: Call, before: asyncio.Task[None] | None, on_done: Callable[[], None]
    ) -> None:
        began = monotonic()
        try:
            if before is not None:
                await asyncio.wait([before])
            await call.carry_out()
        finally:
            del self._carrying[call]
            if self._calls.get(call.job.call_id) is call:
                del self._calls[call.job.call_id]
            if not self._carrying:
                self._idle.set()
            self._place.metrics.seconds.labels(call.label).observe(monotonic() - began)
            on_done()

    async def _bury(self, delivery: Delivery, error: str, on_done: Callable[[], None]) -> None:
        """Keep a job that can't be read, so that it does not come again."""
        try:
            await bury(
                self._place.bus,
                subjects.JOBS,
                delivery.subject,
                delivery.data,
                error=error,
                sequence=delivery.sequence,
            )
            delivery.term()
        except BusError as failure:
            logger.warning("job can't be buried yet", error=str(failure))
        finally:
            on_done()

    async def _until_idle(self, timeout: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)


def _to_error(cancel: CancelRun) -> Cancelled:
    return Cancelled(f"the call was cancelled: {cancel.reason}")
