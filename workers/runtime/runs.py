"""The runs in progress in this worker: started, found, stopped, counted."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic

import msgspec
import structlog

from schemas import subjects
from schemas.commands import CancelRun, RunInference, decode_run_inference
from schemas.errors import BusError, Cancelled
from workers.runtime import bury
from workers.runtime.control import Cancels
from workers.runtime.delivery import Delivery
from workers.runtime.interrupt import HandedBack
from workers.runtime.long_run import Desk, LongRun
from workers.runtime.writer import Lost

logger = structlog.get_logger()

_FORCE_AFTER = 1.5  # seconds that runs have to hand themselves back


Make = Callable[[RunInference, Delivery], LongRun]


class Runs:
    """All runs of this worker, and the owner of their tasks until `drain` returns.

    `make` makes one of a job.
    """

    def __init__(self, desk: Desk, cancels: Cancels, make: Make) -> None:
        self._desk = desk
        self._make = make
        self._burying: set[asyncio.Task[None]] = set()
        self._cancels = cancels
        self._runs: dict[str, LongRun] = {}
        self._carrying: dict[LongRun, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = asyncio.Event()

    def __len__(self) -> int:
        return len(self._carrying)

    def __iter__(self) -> Iterator[LongRun]:
        return iter(list(self._carrying))

    def find(self, run_id: str) -> LongRun | None:
        """The run with this id, if it is in progress here."""
        return self._runs.get(run_id)

    def start(self, delivery: Delivery, on_done: Callable[[], None]) -> None:
        """Carry a job out; `on_done` is called when its slot is free again."""
        try:
            job = decode_run_inference(delivery.data)
        except msgspec.DecodeError as error:
            burying = asyncio.create_task(self._bury(delivery, str(error), on_done))
            self._burying.add(burying)
            burying.add_done_callback(self._burying.discard)
            return
        current = self._runs.get(job.run_id)
        if current is not None and not current.lost:
            # The server missed our heartbeats, we did not: the run goes on, acking as it asks now.
            current.delivery = delivery
            on_done()
            return
        run = self._make(job, delivery)
        self._runs[job.run_id] = run
        cancel = self._cancels.find(job.run_id)
        if cancel is not None:
            run.stop(_to_error(cancel))
        before = self._carrying.get(current) if current is not None else None
        self._carrying[run] = asyncio.create_task(self._carry_out(run, before, on_done))
        self._idle.clear()

    def cancel(self, cancel: CancelRun) -> None:
        """Cancel a run, if it is in progress here."""
        run = self._runs.get(cancel.run_id)
        if run is not None:
            run.stop(_to_error(cancel))

    def lose(self, lost: list[LongRun]) -> None:
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
        self, run: LongRun, before: asyncio.Task[None] | None, on_done: Callable[[], None]
    ) -> None:
        began = monotonic()
        try:
            if before is not None:
                await asyncio.wait([before])
            await run.carry_out()
        finally:
            del self._carrying[run]
            if self._runs.get(run.job.run_id) is run:
                del self._runs[run.job.run_id]
            if not self._carrying:
                self._idle.set()
            self._desk.metrics.seconds.observe(monotonic() - began)
            on_done()

    async def _bury(self, delivery: Delivery, error: str, on_done: Callable[[], None]) -> None:
        """Keep a job that can't be read, so that it does not come again."""
        try:
            await bury(
                self._desk.bus,
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
