"""How much each deployment may be asked for at once and in a minute: this worker's share of it."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

from schemas.providers import Limits

_MINUTE = 60.0
_LOOK = 1.0  # seconds after which a share may have changed, as workers come and go

Workers = Callable[[str], int]


class Capacity:
    """Counts what is at each deployment. `workers` says how many serve a pool, this one included.

    A limit is divided by the workers of its pool; each has at least one of it.
    """

    def __init__(
        self, workers: Workers = lambda _: 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._workers = workers
        self._clock = clock
        self._in_flight: Counter[str] = Counter()
        self._starts: dict[str, deque[float]] = {}
        self._freed = asyncio.Event()

    def in_flight(self, deployment: str) -> int:
        """How many runs of this worker are there now."""
        return self._in_flight[deployment]

    def wait(self, deployment: str, pool: str, limits: Limits) -> float:
        """Seconds until it may be asked for a run, as far as can be known; 0: now."""
        if not limits.in_flight and not limits.rpm:
            return 0.0
        workers = max(1, self._workers(pool))
        if limits.in_flight and self._in_flight[deployment] >= _share(limits.in_flight, workers):
            return _LOOK
        if limits.rpm:
            starts, now = self._starts.setdefault(deployment, deque()), self._clock()
            while starts and starts[0] <= now - _MINUTE:
                starts.popleft()
            share = _share(limits.rpm, workers)
            if len(starts) >= share:
                return starts[-share] + _MINUTE - now
        return 0.0

    def take(self, deployment: str, limits: Limits) -> None:
        """A run is sent there."""
        self._in_flight[deployment] += 1
        if limits.rpm:
            self._starts.setdefault(deployment, deque()).append(self._clock())

    def give_back(self, deployment: str) -> None:
        """A run has left it."""
        self._in_flight[deployment] -= 1
        if self._in_flight[deployment] <= 0:
            del self._in_flight[deployment]
        self._freed.set()
        self._freed = asyncio.Event()

    async def until_freed(self, seconds: float) -> None:
        """Wait until a run has left any deployment, or so long."""
        try:
            await asyncio.wait_for(self._freed.wait(), seconds)
        except TimeoutError:
            return


def _share(limit: int, workers: int) -> int:
    return max(1, limit // workers)
