"""Which deployments are failing: a breaker for each, shared by all workers.

A breaker is closed while its deployment works. Failures open it: others are tried first, for a time
that grows. Then it is half-open: one run at a time, among all workers, tries it out, and closes it
or opens it for longer. What a worker finds out it shares through the bucket `health`: a change is
written only over the value that it was made from, so that one of two workers is first, and the
other one learns of it. While the bus is away each worker knows what it knows.

Values in the bucket live for 15 s. Whoever finds that one has not been told for some seconds tells
it again: it outlives the worker that found it out, and is forgotten once nobody is left.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import structlog

from bus import Bucket, Bus
from schemas import health, subjects
from schemas.errors import BusError, Conflict, JanError, UpstreamRateLimited
from schemas.health import DEPLOYMENTS, DeploymentState, key_of
from schemas.providers import BreakerSettings
from workers.runtime import beside

logger = structlog.get_logger()

_LEASE = 10.0  # seconds that a trial is others' to wait for, unless its worker renews it
_TOLD_AGAIN = 5.0  # seconds after which a value is told again, by some worker
_SPREAD = 2.0
_TICK = 1.0
_LONGEST_TOLD = 3600.0  # of a provider's Retry-After that is believed
_UNTOLD_LIMIT = 1.0  # seconds that a rate limit without a Retry-After counts
_FEWEST = 10  # runs in the window before their share of failures says anything
_REASON_LIMIT = 200


@dataclass(slots=True)
class _Counts:
    """What this worker has seen of a deployment."""

    in_a_row: int = 0
    window: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=1000))
    succeeded_at: float = 0.0

    def add(self, now: float, good: bool, seconds: float) -> None:
        self.in_a_row = 0 if good else self.in_a_row + 1
        if good:
            self.succeeded_at = now
        self.window.append((now, good))
        while self.window[0][0] < now - seconds:
            self.window.popleft()

    def rate(self) -> float:
        """The share of failures; 0 while there is too little to say."""
        if len(self.window) < _FEWEST:
            return 0.0
        return sum(not good for _, good in self.window) / len(self.window)


@dataclass(slots=True)
class _Known:
    """A shared state as last heard, and when."""

    state: DeploymentState
    revision: int = 0
    at: float = 0.0


class Breakers:
    """All breakers as this worker knows them; times are unix seconds by `clock`."""

    def __init__(
        self,
        bucket: Bucket | None = None,
        settings: BreakerSettings | None = None,
        worker: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings or BreakerSettings()
        self._bucket = bucket
        self._worker = worker
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._counts: dict[str, _Counts] = {}
        self._trials: dict[str, float] = {}  # those of this worker's runs, and when they began
        self._wanted: dict[str, DeploymentState] = {}
        self._writing: dict[str, asyncio.Task[bool]] = {}

    def state_of(self, deployment: str) -> DeploymentState:
        """What is known of a deployment."""
        known = self._known.get(deployment)
        return known.state if known else DeploymentState(deployment)

    def is_down(self, deployment: str) -> bool:
        """Whether others are to be tried first."""
        known = self._known.get(deployment)
        return known is not None and known.state.is_down(self._clock())

    def asked_to_wait(self, deployment: str) -> float:
        """Seconds for which its provider asked not to be called; 0: it did not."""
        state = self.state_of(deployment)
        if state.state == "open" and state.told:
            return max(0.0, state.until - self._clock())
        return 0.0

    async def claim(self, deployment: str) -> bool:
        """Ask to send it a run: no if it is down, or if another run is trying it out."""
        state = self.state_of(deployment)
        if state.state == "closed":
            return True
        now = self._clock()
        if state.is_down(now):
            return False
        self._trials[deployment] = now
        trial = msgspec.structs.replace(
            state, state="half-open", until=now + _LEASE, by=self._worker, told=False
        )
        try:
            claimed = await self._share(trial)
        except asyncio.CancelledError:
            self.release(deployment)
            raise
        if not claimed:
            self._trials.pop(deployment, None)
        return claimed

    def release(self, deployment: str) -> None:
        """The run that was to try it out ended without saying anything about it."""
        if deployment not in self._trials:
            return
        self._trials.pop(deployment, None)
        state = self.state_of(deployment)
        if state.state == "half-open":
            self._set(msgspec.structs.replace(state, until=self._clock()))

    def note_success(self, deployment: str, began: float | None = None) -> None:
        """It answered a run that was begun then."""
        now = self._clock()
        self._count(deployment, now, good=True)
        state = self.state_of(deployment)
        trial = deployment in self._trials
        self._trials.pop(deployment, None)
        if state.state == "closed" or (not trial and began is not None and began < state.since):
            return
        if state.told and state.is_down(now):
            return  # it has taken runs from before it asked to wait, and still wants us to
        passed = state.passed + 1
        if passed < self.settings.trials:
            self._set(msgspec.structs.replace(state, state="half-open", until=now, passed=passed))
            return
        logger.info("deployment works again", deployment=deployment)
        self._set(DeploymentState(deployment, since=now, by=self._worker))

    def note_first_token(self, deployment: str, seconds: float, began: float) -> None:
        """A stream has begun, so many seconds after it was asked for."""
        slow = self.settings.slow_first_token_s
        if slow and seconds > slow:
            self._fail(deployment, f"its first token took {seconds:.1f} s", began)
        else:
            self.note_success(deployment, began)

    def note_failure(self, deployment: str, error: JanError, began: float | None = None) -> None:
        """It failed, in a way that another one might not, at a run that was begun then."""
        seconds = error.retry_after
        limited = isinstance(error, UpstreamRateLimited)
        if seconds is None and not limited:
            self._fail(deployment, error.message, began)
            return
        now = self._clock()
        self._count(deployment, now, good=False)
        trial = self._trials.pop(deployment, None) is not None
        state = self.state_of(deployment)
        until = now + min(_UNTOLD_LIMIT if seconds is None else seconds, _LONGEST_TOLD)
        if not trial and state.is_down(now) and until <= state.until:
            return
        self._open(state, until, error.message, told=seconds is not None, limited=limited)

    def note_probe(self, deployment: str, error: str | None, since: float) -> None:
        """Its provider was looked at; `since` is when it was looked at before.

        A run says more than a look: where runs have succeeded meanwhile, a failed look is nothing.
        """
        now = self._clock()
        state = self.state_of(deployment)
        if error is None:
            if state.probe_failed:
                # It was away, and is back. Whether it serves, a run has to show.
                until = state.until if state.told else min(state.until, now)
                self._set(msgspec.structs.replace(state, until=until, probe_failed=False))
            return
        counts = self._counts.get(deployment)
        if counts is not None and counts.succeeded_at >= since:
            return
        if state.state == "closed" or not (state.is_down(now) or deployment in self._trials):
            self._open(self.state_of(deployment), None, f"probe: {error}", probe_failed=True)
        elif not state.probe_failed:
            self._set(msgspec.structs.replace(state, probe_failed=True))

    def states(self) -> list[DeploymentState]:
        """Everything that is known."""
        return [known.state for known in self._known.values()]

    def on_change(self, key: str, value: bytes | None, revision: int) -> None:
        """Take what a worker says of a deployment."""
        if value is None:
            return  # it has expired: what it said is over, or told again
        try:
            state = health.decode_state(value)
        except msgspec.DecodeError as error:
            logger.warning("a deployment's state can't be read", key=key, error=str(error))
            return
        name = state.deployment
        known = self._known.get(name)
        if known is not None and revision <= known.revision:
            return
        if known is not None and self._wanted.get(name) == state:
            known.revision, known.at = revision, self._clock()  # our own words
            return
        if name not in self._writing:
            self._take(state, revision)
        # Otherwise what we are writing is refused, and the writer looks at what is there.

    async def run(self) -> None:
        """Tell again what must not be forgotten, until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            self.tick()

    def tick(self) -> None:
        """Renew the trials that are under way here, tell what was not told for long, forget."""
        now = self._clock()
        for name, known in list(self._known.items()):
            state = known.state
            if state.state == "closed":
                if name not in self._writing and now - known.at > _TOLD_AGAIN:
                    del self._known[name]  # the bucket forgets it too
            elif now - self._trials.get(name, float("-inf")) < self.settings.open_max_s:
                if state.until - now < _LEASE / 2:
                    self._set(msgspec.structs.replace(state, until=now + _LEASE))
            elif now > state.until + self.settings.open_max_s:
                self._set(DeploymentState(name, since=now, by=self._worker))  # nobody asks for it
            elif now - known.at > _TOLD_AGAIN + random.random() * _SPREAD:  # noqa: S311
                self._set(state)

    async def settle(self) -> None:
        """Wait until what was found out is shared, or can't be."""
        while self._writing:
            await asyncio.wait(list(self._writing.values()))

    def _fail(self, deployment: str, reason: str, began: float | None) -> None:
        now = self._clock()
        self._count(deployment, now, good=False)
        state = self.state_of(deployment)
        trial = deployment in self._trials
        self._trials.pop(deployment, None)
        if state.state != "closed":
            # What was begun before it was opened says nothing new, nor who had no other choice.
            if trial or not (state.is_down(now) or (began is not None and began < state.since)):
                self._open(state, None, reason, probe_failed=state.probe_failed)
            return
        counts, settings = self._counts[deployment], self.settings
        in_a_row = settings.failures and counts.in_a_row >= settings.failures
        if in_a_row or (settings.error_rate and counts.rate() >= settings.error_rate):
            self._open(state, None, reason)

    def _open(
        self,
        state: DeploymentState,
        until: float | None,
        reason: str,
        *,
        told: bool = False,
        limited: bool = False,
        probe_failed: bool = False,
    ) -> None:
        now, name = self._clock(), state.deployment
        openings = state.openings
        if until is None:
            seconds = min(self.settings.open_s * 2**openings, self.settings.open_max_s)
            until, openings = now + seconds, min(openings + 1, 30)
        self._counts.pop(name, None)  # once it is closed again, it begins anew
        logger.warning(
            "deployment is down", deployment=name, seconds=round(until - now, 1), reason=reason
        )
        self._set(
            DeploymentState(
                name,
                until=until,
                since=now,
                reason=reason[:_REASON_LIMIT],
                state="open",
                told=told,
                limited=limited,
                openings=openings,
                probe_failed=probe_failed,
                by=self._worker,
            )
        )

    def _count(self, deployment: str, now: float, *, good: bool) -> None:
        counts = self._counts.setdefault(deployment, _Counts())
        counts.add(now, good, self.settings.window_s)

    def _take(self, state: DeploymentState, revision: int) -> None:
        """Believe what another worker says."""
        if state.by != self._worker or state.state != "half-open":
            self._trials.pop(state.deployment, None)
        if state.state == "open":
            self._counts.pop(state.deployment, None)
        self._known[state.deployment] = _Known(state, revision, self._clock())

    def _set(self, state: DeploymentState) -> None:
        """Change a state here at once, and for the others soon."""
        known = self._known.setdefault(state.deployment, _Known(state))
        known.state, known.at = state, self._clock()
        if self._bucket is not None:
            self._write_soon(state)

    async def _share(self, state: DeploymentState) -> bool:
        """Change a state here at once, and wait for whether the others agree."""
        self._set(state)
        writing = self._writing.get(state.deployment)
        return writing is None or await asyncio.shield(writing)

    def _write_soon(self, state: DeploymentState) -> None:
        name = state.deployment
        self._wanted[name] = state
        if name not in self._writing:
            assert self._bucket is not None
            writing = asyncio.create_task(self._write(self._bucket, name))
            self._writing[name] = writing
            writing.add_done_callback(lambda _: self._writing.pop(name, None))

    async def _write(self, bucket: Bucket, name: str) -> bool:
        """Write what is wanted, over the value that it was made from; False if that has changed."""
        while (state := self._wanted.get(name)) is not None:
            known = self._known.get(name) or _Known(state)
            try:
                revision = await bucket.update(key_of(name), health.encode(state), known.revision)
            except Conflict:
                if await self._is_overtaken(bucket, name, known):
                    self._wanted.pop(name, None)
                    return False
                continue
            except BusError as error:
                logger.debug("a deployment's state was not shared", error=str(error))
                self._wanted.pop(name, None)
                return True  # the others can't be asked
            known.revision = max(known.revision, revision)
            if self._wanted.get(name) == state:
                del self._wanted[name]
        return True

    async def _is_overtaken(self, bucket: Bucket, name: str, known: _Known) -> bool:
        """Whether another worker was first: it is believed. If nothing is there, it has expired."""
        try:
            entry = await bucket.get(key_of(name))
        except BusError:
            return False
        if entry is None:
            known.revision = 0
            return False
        try:
            theirs = health.decode_state(entry.value)
        except msgspec.DecodeError:
            known.revision = entry.revision
            return False
        if theirs.state == "closed" and known.state.state == "open":
            # What they have closed has failed since.
            known.revision = entry.revision
            return False
        self._take(theirs, entry.revision)
        return True


@asynccontextmanager
async def open_breakers(
    bus: Bus, settings: BreakerSettings | None = None, worker: str = ""
) -> AsyncIterator[Breakers]:
    """Share the state of deployments with other workers for the context's life."""
    bucket = Bucket(bus, subjects.KV_HEALTH)
    breakers = Breakers(bucket, settings, worker)
    watch = await bucket.watch(breakers.on_change, prefix=DEPLOYMENTS)
    try:
        async with beside(breakers.run()):
            yield breakers
    finally:
        await watch.stop()
