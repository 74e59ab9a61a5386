"""How much a principal may ask for: a rate, and requests at a time, divided among live edges."""

import ipaddress
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.auth import Principal
from schemas.errors import RateLimited

_FIRST_SWEEP = 1000  # entries; then whenever they have doubled


@dataclass(slots=True)
class TokenBucket:
    """A rate with a burst: `capacity` at once, refilled evenly over `period` seconds."""

    tokens: float
    at: float

    def refill(self, now: float, capacity: float, period: float) -> None:
        """Add what has come in since the last look."""
        self.tokens = min(capacity, self.tokens + (now - self.at) * capacity / period)
        self.at = now

    def wait(self, capacity: float, period: float) -> float:
        """Seconds until one token is there; 0 if it is."""
        return max(0.0, (1 - self.tokens) * period / capacity)


@dataclass(slots=True, eq=False)
class Standing:
    """What a principal has used on this edge."""

    bucket: TokenBucket
    in_flight: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Limits:
    """The limits of all principals here. `edges` tells how many edges share them."""

    def __init__(
        self, edges: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._edges = edges
        self._clock = clock
        self._standings: dict[str, Standing] = {}
        self._sweep_at = _FIRST_SWEEP

    def __len__(self) -> int:
        """How many principals are remembered."""
        return len(self._standings)

    def enter(self, principal: Principal) -> Standing:
        """Count a request in. Raises RateLimited; whoever got in must `leave`."""
        edges = self._edges()
        now = self._clock()
        share = max(1.0, principal.rpm / edges)
        name = principal.key_id or principal.id  # a key has limits of its own
        standing = self._standings.get(name)
        if standing is None:
            self._sweep(now)
            standing = self._standings[name] = Standing(TokenBucket(share, now))
        if principal.in_flight:
            room = math.ceil(principal.in_flight / edges)
            if standing.in_flight >= room:
                raise RateLimited(
                    f"too many requests at a time: {principal.in_flight} are allowed",
                    code="too_many_in_flight",
                    retry_after=1,
                )
        if principal.rpm:
            self._take(standing, principal.rpm, share, now)
        standing.in_flight += 1
        return standing

    def leave(self, standing: Standing) -> None:
        """Count a request out."""
        standing.in_flight -= 1

    def _take(self, standing: Standing, rpm: int, share: float, now: float) -> None:
        bucket = standing.bucket
        bucket.refill(now, share, 60.0)
        wait = bucket.wait(share, 60.0)
        if not wait:
            bucket.tokens -= 1
        standing.headers = (
            (b"x-ratelimit-limit-requests", b"%d" % rpm),
            (b"x-ratelimit-remaining-requests", b"%d" % bucket.tokens),
            (b"x-ratelimit-reset-requests", _duration((share - bucket.tokens) * 60.0 / share)),
        )
        if wait:
            raise _Refused(
                f"too many requests: {rpm} a minute are allowed", standing, retry_after=wait
            )

    def _sweep(self, now: float) -> None:
        """Forget those who have not asked for a minute: their buckets are full again."""
        if len(self._standings) < self._sweep_at:
            return
        kept = {
            name: standing
            for name, standing in self._standings.items()
            if standing.in_flight or now - standing.bucket.at < 60.0
        }
        self._standings = kept
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(kept))


class _Refused(RateLimited):
    """A refusal that carries the standing, whose headers belong to the answer."""

    def __init__(self, message: str, standing: Standing, *, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after)
        self.headers = standing.headers


class _ByAddress:
    """How often an address may do something in a period of time, in seconds."""

    def __init__(
        self,
        most: int,
        period: float,
        edges: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._period = period
        self._edges = edges
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._sweep_at = _FIRST_SWEEP

    def wait(self, address: str) -> float:
        """Count it, or tell the seconds until it may be done again."""
        now = self._clock()
        share = max(1.0, self._most / self._edges())
        name = network_of(address)
        bucket = self._buckets.get(name)
        if bucket is None:
            self._sweep(now)
            bucket = self._buckets[name] = TokenBucket(share, now)
        bucket.refill(now, share, self._period)
        wait = bucket.wait(share, self._period)
        if not wait:
            bucket.tokens -= 1
        return wait

    def _sweep(self, now: float) -> None:
        if len(self._buckets) < self._sweep_at:
            return
        self._buckets = {
            name: item for name, item in self._buckets.items() if now - item.at < self._period
        }
        self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._buckets))


class Creations:
    """How many guests an address may create in an hour."""

    def __init__(
        self,
        per_hour: int,
        edges: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._addresses = _ByAddress(per_hour, 3600.0, edges, clock)

    def take(self, address: str) -> None:
        """Count a new guest. Raises RateLimited."""
        if wait := self._addresses.wait(address):
            raise RateLimited(
                "too many guests were created from this address",
                code="too_many_guests",
                retry_after=wait,
            )


class Readers:
    """How often an address may read what is public in a minute."""

    def __init__(
        self,
        per_minute: int,
        edges: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._addresses = _ByAddress(per_minute, 60.0, edges, clock)

    def take(self, address: str) -> None:
        """Count a read. Raises RateLimited."""
        if wait := self._addresses.wait(address):
            raise RateLimited(
                "too many shares were read from this address",
                code="too_many_reads",
                retry_after=wait,
            )


def network_of(address: str) -> str:
    """Say what counts as one address: a customer of an IPv6 provider has a /64 at least."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def _duration(seconds: float) -> bytes:
    """Write a duration as OpenAI does: `1.5s`, `6m0s`."""
    if seconds < 60:
        return b"%gs" % round(seconds, 1)
    minutes, rest = divmod(round(seconds), 60)
    return b"%dm%ds" % (minutes, rest)
