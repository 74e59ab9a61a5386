"""How deployments are doing: what workers tell of them in the bucket `health`, put together.

A breaker's state is one value per deployment, `deployment.…`, that all workers share. Figures are
part of what each worker says of itself, `worker.inference.…`.
"""

import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from schemas import subjects

DEPLOYMENTS: Final = "deployment"  # the keys' prefix in the bucket
ABSENT_AFTER: Final = 6.0  # seconds without a word, after which a process counts as gone

FIRST_TOKEN_BOUNDS: Final = (
    *(0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0),
)
"""Upper bounds of the histogram's buckets in seconds; one more bucket is above them."""

State = Literal["closed", "open", "half-open"]


class DeploymentState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A deployment's breaker; times in unix seconds.

    Until `until` it is tried only where nothing else is left: if `told`, because the provider asked
    for that, not even then. `openings` counts those since it was last closed, `passed` the trials
    that it has passed. `probe_failed`: it did not answer the last probe.
    """

    deployment: str
    until: float = 0.0
    since: float = 0.0
    reason: str = ""
    state: State = "closed"
    told: bool = False
    limited: bool = False  # it said that it has no capacity for us
    openings: int = 0
    passed: int = 0
    probe_failed: bool = False
    by: str = ""
    v: int = 1

    def is_down(self, now: float) -> bool:
        """Whether others are to be tried first."""
        return self.state != "closed" and now < self.until


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one worker has seen of a deployment in the last five minutes.

    `first_tokens` counts by FIRST_TOKEN_BOUNDS, without the zeros at its end.
    """

    id: str
    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    first_tokens: list[int] = []
    last_error: str = ""
    last_error_at: float = 0.0


class Probe(msgspec.Struct, frozen=True, omit_defaults=True):
    """A look at a provider; `error` is empty if it was there."""

    provider: str
    at: float
    seconds: float = 0.0
    error: str = ""


class WorkerFacts(msgspec.Struct, frozen=True):
    """What an inference worker says of itself, as far as routing needs it."""

    name: str = ""
    at: float = 0.0
    draining: bool = False
    pools: list[str] | None = None
    loading: str = ""  # how far its engines are, until they are open
    deployments: list[Figures] = []
    probes: list[Probe] = []

    def serves(self, pool: str) -> bool:
        """Whether it takes the pool's jobs now."""
        there = not self.draining and not self.loading
        return there and (self.pools is None or pool in self.pools)


def key_of(deployment: str) -> str:
    """The key in the bucket of a deployment's state."""
    return f"{DEPLOYMENTS}.{subjects.slug(deployment)}-{zlib.crc32(deployment.encode()):08x}"


def bucket_of(seconds: float) -> int:
    """Which bucket of the histogram a first token counts in."""
    return bisect_left(FIRST_TOKEN_BOUNDS, seconds)


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Estimate a quantile of a histogram in seconds; None if nothing was counted."""
    total = sum(counts)
    if not total:
        return None
    rank, seen, lower = share * total, 0, 0.0
    bounds = (*FIRST_TOKEN_BOUNDS, FIRST_TOKEN_BOUNDS[-1] * 2)
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= rank:
            return round(lower + (bound - lower) * (rank - seen) / count, 4)
        seen, lower = seen + count, bound
    return round(lower, 4)


def add_up(figures: Iterable[Figures], deployment: str) -> Figures:
    """Put together what workers have seen of a deployment."""
    in_flight = requests = failures = 0
    counts = [0] * (len(FIRST_TOKEN_BOUNDS) + 1)
    last_error, last_error_at = "", 0.0
    for one in figures:
        in_flight += one.in_flight
        requests += one.requests
        failures += one.failures
        for number, count in enumerate(one.first_tokens[: len(counts)]):
            counts[number] += count
        if one.last_error_at > last_error_at:
            last_error, last_error_at = one.last_error, one.last_error_at
    return Figures(deployment, in_flight, requests, failures, counts, last_error, last_error_at)


FIGURES_SECONDS: Final = 300.0  # for which figures count

decode_state = msgspec.json.Decoder(DeploymentState).decode
decode_worker = msgspec.json.Decoder(WorkerFacts).decode
encode = msgspec.json.Encoder().encode
