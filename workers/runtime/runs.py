"""The runs in progress in this worker: started, found, stopped, counted."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

import msgspec
import structlog

from bus import Bus
from schemas import subjects
from schemas.commands import CancelRun
from schemas.errors import BusError, Cancelled
from workers.runtime import bury
from workers.runtime.carried import Carried
from workers.runtime.control import Cancels
from workers.runtime.delivery import Delivery
from workers.runtime.interrupt import HandedBack
from workers.runtime.writer import Lost

logger = structlog.get_logger()

_FORCE_AFTER = 1.5  # seconds that runs have to hand themselves back


CarriedT = TypeVar("CarriedT", bound=Carried)


class Runs(Generic[CarriedT]):
    """All that is in progress in a worker, and the owner of its tasks until `drain` returns.

    `make` makes one of a delivery. Raises DecodeError if it can't be read.
    """

    def __init__(self, bus: Bus, cancels: Cancels, make: Callable[[Delivery], CarriedT]) -> None:
        self._bus = bus
        self._make = make
        self._burying: set[asyncio.Task[None]] = set()
        self._cancels = cancels
        self._runs: dict[str, CarriedT] = {}
        self._carrying: dict[CarriedT, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = asyncio.Event()

    def __len__(self) -> int:
        return len(self._carrying)

    def __iter__(self) -> Iterator[CarriedT]:
        return iter(list(self._carrying))

    def find(self, run_id: str) -> CarriedT | None:
        """The run with this id, if it is in progress here."""
        return self._runs.get(run_id)

    def start(self, delivery: Delivery, on_done: Callable[[], None]) -> None:
        """Carry a job out; `on_done` is called when its slot is free again."""
        try:
            run = self._make(delivery)
        except msgspec.DecodeError as error:
            burying = asyncio.create_task(self._bury(delivery, str(error), on_done))
            self._burying.add(burying)
            burying.add_done_callback(self._burying.discard)
            return
        current = self._runs.get(run.id)
        if current is not None and not current.lost:
            # The server missed our heartbeats, we did not: it goes on, acking as it asks now.
            current.delivery = delivery
            on_done()
            return
        self._runs[run.id] = run
        cancel = self._cancels.find(run.id) or self._cancels.find(run.parent)
        if cancel is not None:
            run.stop(_to_error(cancel))
        before = self._carrying.get(current) if current is not None else None
        self._carrying[run] = asyncio.create_task(self._carry_out(run, before, on_done))
        self._idle.clear()

    def cancel(self, cancel: CancelRun) -> None:
        """Cancel a run, or all parts of a run, as far as they are in progress here."""
        run = self._runs.get(cancel.run_id)
        parts = [part for part in self if part.parent == cancel.run_id]
        for found in [run, *parts] if run is not None else parts:
            found.stop(_to_error(cancel))

    def lose(self, lost: list[CarriedT]) -> None:
        """Stop runs whose heartbeats were missed for so long that the server gave them away."""
        if lost:
            logger.warning("heartbeats were missed", runs=len(lost))
        for run in lost:
            run.stop(Lost("its heartbeats were missed"))

    def hurry(self) -> None:
        """Have a drain, now or to come, hand back at once what has not ended."""
        self._hurried.set()

    async def drain(self, timeout: float) -> None:
        """Let the runs end; after `timeout` seconds hand back those that have not."""
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, self._hurried)]
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._idle.is_set():
            for run in self:
                run.stop(HandedBack())
            await self._until_idle(_FORCE_AFTER)
        left = [*self._carrying.values(), *self._burying]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _carry_out(
        self, run: CarriedT, before: asyncio.Task[None] | None, on_done: Callable[[], None]
    ) -> None:
        began = monotonic()
        try:
            if before is not None:
                await asyncio.wait([before])
            await run.carry_out()
        finally:
            del self._carrying[run]
            if self._runs.get(run.id) is run:
                del self._runs[run.id]
            if not self._carrying:
                self._idle.set()
            run.observe(monotonic() - began)
            on_done()

    async def _bury(self, delivery: Delivery, error: str, on_done: Callable[[], None]) -> None:
        """Keep a job that can't be read, so that it does not come again."""
        try:
            await bury(
                self._bus,
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
    return Cancelled(f"the run was cancelled: {cancel.reason}")
