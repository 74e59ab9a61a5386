"""Runs that nobody reads any more: edges are asked, and what none of them claims is cancelled."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import msgspec
import structlog

from bus import Bus, Message
from schemas import subjects
from schemas.errors import Cancelled
from workers.runtime import beside
from workers.runtime.long_run import LongRun
from workers.runtime.runs import Runs

logger = structlog.get_logger()

_ASK_EVERY = 10.0
_ASKED_IN_VAIN = 3  # times, before a run counts as abandoned
_IDS_A_QUESTION = 1000

_decode_ids = msgspec.json.Decoder(list[str]).decode


LongRunT = TypeVar("LongRunT", bound=LongRun)


class Abandonment(Generic[LongRunT]):
    """Asks the edges of foreground runs which of them have readers."""

    def __init__(self, bus: Bus, runs: Runs[LongRunT], *, every: float = _ASK_EVERY) -> None:
        self._bus = bus
        self._runs = runs
        self._every = every
        self._inbox = bus.nc.new_inbox()
        self._questions = itertools.count(1)

    async def watch(self) -> None:
        """Ask until cancelled."""
        subscription = await self._bus.subscribe(f"{self._inbox}.*", self._on_answer)
        try:
            while True:
                await asyncio.sleep(self._every)
                if self._bus.connected:
                    self._cancel_unclaimed()
                    self._ask()
        finally:
            await subscription.unsubscribe()

    def _cancel_unclaimed(self) -> None:
        for run in self._runs:
            if run.unclaimed >= _ASKED_IN_VAIN:
                logger.info("run is abandoned", run_id=run.job.run_id)
                run.stop(Cancelled("nobody reads this run any more", code="abandoned"))

    def _ask(self) -> None:
        by_edge: dict[str, list[str]] = defaultdict(list)
        for run in self._runs:
            if not run.job.background and not run.job.stored and run.job.parent is None:
                run.unclaimed += 1
                by_edge[run.job.edge].append(run.job.run_id)
        for edge, asked in by_edge.items():
            for start in range(0, len(asked), _IDS_A_QUESTION):
                question = msgspec.json.encode(asked[start : start + _IDS_A_QUESTION])
                # Each has a reply subject of its own: an edge may answer on one only once.
                reply = f"{self._inbox}.{next(self._questions)}"
                self._bus.publish(subjects.edge_alive(edge), question, reply=reply)

    def _on_answer(self, message: Message) -> None:
        if message.status:
            return  # no edge is there to answer
        for run_id in _decode_ids(message.data):
            run = self._runs.find(run_id)
            if run is not None:
                run.unclaimed = 0


@asynccontextmanager
async def watch_abandonment(bus: Bus, runs: Runs[LongRunT]) -> AsyncIterator[None]:
    """Keep asking for the context's life."""
    async with beside(Abandonment(bus, runs).watch()):
        yield
