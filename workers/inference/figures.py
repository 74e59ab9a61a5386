"""What this worker has seen of each deployment in the last minutes, for people to look at."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas import health
from schemas.errors import JanError

_SLICE = 30.0  # seconds that are counted together
_SLICES = int(health.FIGURES_SECONDS / _SLICE)
_MOST = 64  # deployments that one worker tells of, the busiest: presence is a small message
_ERROR_LIMIT = 200


@dataclass(slots=True)
class _Slice:
    begins: float
    requests: int = 0
    failures: int = 0
    first_tokens: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Seen:
    slices: deque[_Slice] = field(default_factory=lambda: deque(maxlen=_SLICES))
    last_error: str = ""
    last_error_at: float = 0.0

    def now(self, now: float) -> _Slice:
        if not self.slices or now - self.slices[-1].begins >= _SLICE:
            self.slices.append(_Slice(now))
        return self.slices[-1]


class Figures:
    """Counts by deployment; `in_flight` says how many runs are at one now."""

    def __init__(
        self, in_flight: Callable[[str], int], clock: Callable[[], float] = time.time
    ) -> None:
        self._in_flight = in_flight
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def note_request(self, deployment: str) -> None:
        """A run is sent to it."""
        self._now(deployment).requests += 1

    def note_first_token(self, deployment: str, seconds: float) -> None:
        """A stream has begun."""
        counts = self._now(deployment).first_tokens
        bucket = health.bucket_of(seconds)
        counts[bucket] = counts.get(bucket, 0) + 1

    def note_failure(self, deployment: str, error: JanError) -> None:
        """A run failed there."""
        self._now(deployment).failures += 1
        seen = self._seen[deployment]
        seen.last_error, seen.last_error_at = error.message[:_ERROR_LIMIT], self._clock()

    def tell(self) -> list[health.Figures]:
        """The figures of the deployments that were used lately."""
        oldest = self._clock() - health.FIGURES_SECONDS
        told = []
        for name, seen in list(self._seen.items()):
            while seen.slices and seen.slices[0].begins < oldest:
                seen.slices.popleft()
            if seen.slices or self._in_flight(name):
                told.append(self._to_figures(name, seen))
            else:
                del self._seen[name]
        return sorted(told, key=lambda one: -one.requests)[:_MOST]

    def _to_figures(self, name: str, seen: _Seen) -> health.Figures:
        counts: list[int] = []
        for bucket, count in (item for one in seen.slices for item in one.first_tokens.items()):
            counts += [0] * (bucket + 1 - len(counts))
            counts[bucket] += count
        return health.Figures(
            name,
            in_flight=self._in_flight(name),
            requests=sum(one.requests for one in seen.slices),
            failures=sum(one.failures for one in seen.slices),
            first_tokens=counts,
            last_error=seen.last_error,
            last_error_at=round(seen.last_error_at, 3),
        )

    def _now(self, deployment: str) -> _Slice:
        seen = self._seen.get(deployment)
        if seen is None:
            seen = self._seen[deployment] = _Seen()
        return seen.now(self._clock())
