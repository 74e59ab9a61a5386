"""Heartbeats for the jobs in progress, from a thread with a connection of its own.

They stretch the server's patience as long as this worker lives, also while its loop is busy. They
stop once the loop has not ticked for five seconds: a worker that hangs shall lose its jobs. After a
gap longer than the server's patience (a frozen process, a loop that hung) the jobs are others', and
the runs are told so. A bus that is away is no such gap: who writes next then decides.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Generic, Protocol, TypeVar

import structlog

from bus import Bus, open_bus
from schemas.errors import BusUnavailable
from workers.runtime.delivery import Delivery

logger = structlog.get_logger()

_TICK = 0.5
_LOOP_PATIENCE = 5.0
_BEATS_PER_WAIT = 2.5

RunT = TypeVar("RunT", bound="Running")


class Running(Protocol):
    """A job in progress."""

    delivery: Delivery
    lost: bool  # it is another worker's now


OnLost = Callable[[list[RunT]], None]


class Heartbeat(Generic[RunT]):
    """Beats for all `runs`. Made by `open_heartbeat`."""

    def __init__(
        self,
        url: str,
        name: str,
        ack_wait: float,
        runs: Iterable[RunT],
        on_lost: OnLost[RunT],
    ) -> None:
        self._url = url
        self._name = name
        self._ack_wait = ack_wait
        self._on_lost = on_lost
        self._runs = runs
        self._loop = asyncio.get_running_loop()
        self._ticked = monotonic()
        self._beaten = monotonic()
        self._stopping = False
        self._beat_now: Callable[[], None] = lambda: None
        self._ticking = self._loop.call_soon(self._tick)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ticking.cancel()
        self._stopping = True
        self._beat_now()
        self._thread.join(2.0)

    def _tick(self) -> None:
        self._ticked = monotonic()
        self._ticking = self._loop.call_later(_TICK, self._tick)

    def _run(self) -> None:
        """The thread: it goes on until it is told to stop, whatever the bus does.

        If the bus ends the connection, it opens another one.
        """
        while not self._stopping:
            try:
                asyncio.run(self._beat_for_ever())
            except BusUnavailable as error:
                logger.warning("heartbeats wait for the bus", error=error.message)
                self._beaten = monotonic()
            except Exception:  # every run depends on this thread: it starts again
                logger.exception("heartbeats failed")

    async def _beat_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        async with open_bus(self._url, name=f"{self._name}-heartbeat") as bus:
            bus.on_reconnect(wake.set)
            self._beat_now = partial(_call, loop, wake.set)
            try:
                while not self._stopping and not bus.closed:
                    self._beat(bus)
                    await _wait(wake, self._ack_wait / _BEATS_PER_WAIT)
            finally:
                self._beat_now = lambda: None

    def _beat(self, bus: Bus) -> None:
        now = monotonic()
        if now - self._ticked > _LOOP_PATIENCE:
            return  # the loop hangs; `_beaten` stays, so that its runs are lost when it goes on
        if now - self._beaten > self._ack_wait:
            before = self._beaten
            lost = [run for run in self._runs if run.delivery.since < before]
            for run in lost:
                run.lost = True  # at once: the loop may take its time to be told
            self._loop.call_soon_threadsafe(self._on_lost, lost)
        self._beaten = now
        if bus.connected:
            for run in self._runs:
                if not run.lost:
                    bus.publish(run.delivery.reply, b"+WPI")


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(function)


async def _wait(wake: asyncio.Event, timeout: float) -> None:
    try:
        await asyncio.wait_for(wake.wait(), timeout)
    except TimeoutError:
        return
    wake.clear()


@asynccontextmanager
async def open_heartbeat(
    url: str,
    name: str,
    ack_wait: float,
    runs: Iterable[RunT],
    on_lost: OnLost[RunT],
) -> AsyncIterator[None]:
    """Keep a heartbeat going for the context's life."""
    heartbeat = Heartbeat(url, name, ack_wait, runs, on_lost)
    heartbeat.start()
    try:
        yield
    finally:
        await asyncio.to_thread(heartbeat.stop)
