"""Which queues this worker pulls from: those of its pools, which may change while it works."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from bus import Bus
from schemas import subjects
from workers.inference.deployments import Deployments, slots_of
from workers.runtime.pull import OnJob, Pull, Queue


class Pulls:
    """One pull for each pool whose engine bounds its runs, and one for all others together."""

    def __init__(
        self, bus: Bus, deployments: Deployments, slots: int, ack_wait: float, on_job: OnJob
    ) -> None:
        self._bus = bus
        self._deployments = deployments
        self._slots = slots
        self._ack_wait = ack_wait
        self._on_job = on_job
        self._tasks: asyncio.TaskGroup | None = None
        self._bounded: dict[str, Pull] = {}
        self._others: Pull | None = None
        self._pulling: dict[int, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Pull]:
        yield from self._bounded.values()
        if self._others is not None:
            yield self._others

    @property
    def slots(self) -> int:
        """Runs at the same time, of all of them."""
        return sum(pull.slots for pull in self)

    def adjust(self) -> None:
        """Pull for the pools that are served now."""
        pools = self._deployments.pools()
        bounded = [pool for pool in pools if slots_of(self._deployments, pool) is not None]
        for pool in [pool for pool in self._bounded if pool not in bounded]:
            self._stop(self._bounded.pop(pool))
        for pool in bounded:
            if pool not in self._bounded:
                self._bounded[pool] = self._start([pool], self._capacity_of(pool))
        others = [pool for pool in pools if pool not in bounded]
        if self._others is None and others:
            self._others = self._start(others, lambda: self._slots)
        elif self._others is not None and others:
            self._others.serve(queues_of(others))
        elif self._others is not None:
            self._stop(self._others)
            self._others = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Pull from now on; a fault of a pull ends the tasks' owner."""
        self._tasks = tasks
        self.adjust()

    def stop(self) -> None:
        """Take no more jobs."""
        for pull in self:
            self._stop(pull)

    def _start(self, pools: list[str], capacity: Callable[[], int]) -> Pull:
        assert self._tasks is not None
        pull = Pull(self._bus, queues_of(pools), capacity, self._on_job, self._ack_wait)
        self._pulling[id(pull)] = self._tasks.create_task(pull.run())
        return pull

    def _stop(self, pull: Pull) -> None:
        self._pulling.pop(id(pull)).cancel()

    def _capacity_of(self, pool: str) -> Callable[[], int]:
        return lambda: min(slots_of(self._deployments, pool) or 0, self._slots)


@asynccontextmanager
async def open_pulls(pulls: Pulls) -> AsyncIterator[Pulls]:
    """Pull for the context's life; nothing is outstanding after it."""
    async with asyncio.TaskGroup() as tasks:
        pulls.begin(tasks)
        try:
            yield pulls
        finally:
            pulls.stop()


def queues_of(pools: Sequence[str]) -> list[Queue]:
    """The queues of these pools: the interactive ones first."""
    return [
        Queue(subjects.inference_consumer(pool, priority), priority == subjects.BACKGROUND)
        for priority in (subjects.INTERACTIVE, subjects.BACKGROUND)
        for pool in pools
    ]
