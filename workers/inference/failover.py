"""Which deployment is tried next, before the first token and after it."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import msgspec
import structlog

from schemas.commands import RunInference, Target
from schemas.errors import (
    BusError,
    JanError,
    RateLimited,
    Unavailable,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRateLimited,
)
from schemas.providers import RetrySettings
from workers.inference.breakers import Breakers
from workers.inference.capacity import Capacity
from workers.inference.deployments import Deployment, Deployments
from workers.inference.engines import Sink
from workers.inference.figures import Figures
from workers.runtime.long_run import Moved

logger = structlog.get_logger()

_FRUITLESS_LIMIT = 4  # tries in a row that add nothing to a stream
_BACK_OFF = 0.1  # seconds, doubled with each fruitless try
_MOST_MOVES = 8  # of a job from pool to pool
_SHORTEST_WAIT = 0.02


MoveOn = Callable[[RunInference, str], Awaitable[None]]
Look = Callable[[], Awaitable[None]]


async def _look_nowhere() -> None:
    """There is no file to look at."""


@dataclass(slots=True)
class Fleet:
    """The deployments of this worker with all that is known of them.

    `look` has the providers file read again if it has changed.
    """

    deployments: Deployments
    breakers: Breakers = field(default_factory=Breakers)
    capacity: Capacity = field(default_factory=Capacity)
    retry: RetrySettings = field(default_factory=RetrySettings)
    look: Look = _look_nowhere
    figures: Figures = field(init=False)

    def __post_init__(self) -> None:
        self.figures = Figures(self.capacity.in_flight)

    async def find(self, deployment: str) -> Deployment | None:
        """Look a deployment up; one that is not known may have been added a moment ago."""
        found = self.deployments.find(deployment)
        if found is None:
            await self.look()
            found = self.deployments.find(deployment)
        return found

    def begin(self, deployment: Deployment) -> "Attempt":
        """Send a run to a deployment; to be entered at once."""
        self.capacity.take(deployment.id, deployment.limits)
        self.deployments.enter(deployment)
        self.figures.note_request(deployment.id)
        return Attempt(self, deployment)


class Attempt:
    """One run at one deployment, counted for as long as the context is open."""

    def __init__(self, fleet: Fleet, deployment: Deployment) -> None:
        self.deployment = deployment
        self._fleet = fleet
        self._began = time.time()
        self._started = time.monotonic()
        self._first_token = False

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        fleet, name = self._fleet, self.deployment.id
        fleet.breakers.release(name)
        fleet.capacity.give_back(name)
        fleet.deployments.leave(self.deployment)

    def watch(self, sink: Sink) -> Sink:
        """A sink that notices the first token on its way into this one."""
        return _FirstToken(sink, self._note_first_token)

    def succeed(self) -> None:
        """It has answered, be it by refusing the request."""
        if not self._first_token:
            self._fleet.breakers.note_success(self.deployment.id, self._began)

    def fail(self, error: JanError) -> None:
        """It failed in a way that another one might not."""
        self._fleet.figures.note_failure(self.deployment.id, error)
        # What is not there may never have been: clients must not open breakers by asking for it.
        if not isinstance(error, UpstreamNotFound):
            self._fleet.breakers.note_failure(self.deployment.id, error, self._began)

    def _note_first_token(self) -> None:
        self._first_token = True
        seconds, name = time.monotonic() - self._started, self.deployment.id
        self._fleet.figures.note_first_token(name, seconds)
        self._fleet.breakers.note_first_token(name, seconds, self._began)


class _FirstToken:
    """Passes on what an engine sends; after the first time it is not in the way any more."""

    def __init__(self, sink: Sink, note: Callable[[], None]) -> None:
        self._sink = sink
        self._note = note
        self.send: Callable[..., None] = self._send_first
        self.backlog = sink.backlog
        self.drain = sink.drain

    def _send_first(self, chunks: Sequence[bytes], state: bytes = b"") -> None:
        self.send = self._sink.send
        self._note()
        self._sink.send(chunks, state)


class Turns:
    """The order in which a run's deployments are tried.

    Before the first token each of the job's targets has its turn: those that work and have room in
    the job's order, then those that are down. One in another pool takes the job there. When all had
    their turn they have another one after a pause, as far as the settings allow. After the first
    token only engines that can continue a text have turns, as long as they add to it.
    """

    def __init__(self, fleet: Fleet, job: RunInference, move_on: MoveOn) -> None:
        self.failure: JanError | None = None  # what a client is told if all fail
        self._fleet = fleet
        self._job = job
        self._move_on = move_on
        self._untried = list(job.targets)
        self._preferred = sorted(
            job.targets, key=lambda target: fleet.breakers.is_down(target.deployment)
        )
        self._gone: set[str] = set()  # deployments that can't be had
        self._round = 1
        self._until = min(time.time() + fleet.retry.max_s, job.deadline or float("inf"))
        self._turn = 0
        self._fruitless = 0
        self._sent = 0

    def can_continue(self) -> bool:
        """Whether any engine here can go on with a text that was begun."""
        return bool(self._able())

    async def next(self, sent: int) -> Attempt:
        """The attempt to make now that `sent` frames are out; to be entered at once.

        Raises the last failure if there is none, Moved if another pool has the job now.
        """
        return await (self._continue(sent) if sent else self._start())

    def note_failure(self, attempt: Attempt, error: JanError) -> None:
        """An attempt failed in a way that another one might not."""
        attempt.fail(error)
        is_missing = isinstance(error, UpstreamNotFound)
        if is_missing:
            self._gone.add(attempt.deployment.id)  # nor will it be there in a moment
        if self.failure is None or not is_missing:
            self.failure = error

    async def _start(self) -> Attempt:
        while True:
            attempt = await self._try_ready() or await self._try_down()
            if attempt is not None:
                return attempt
            if self._untried:
                await self._wait_for_room()
            else:
                await self._begin_round()

    async def _try_ready(self) -> Attempt | None:
        """The first that works and has room."""
        fleet = self._fleet
        for target in list(self._untried):
            if fleet.breakers.is_down(target.deployment):
                continue
            here = await self._find(target)
            if here is None or fleet.capacity.wait(here.id, here.pool, here.limits):
                continue
            if not await fleet.breakers.claim(here.id):
                continue
            if fleet.capacity.wait(here.id, here.pool, here.limits):
                fleet.breakers.release(here.id)  # others were faster
                continue
            self._untried.remove(target)
            return fleet.begin(here)
        return None

    async def _try_down(self) -> Attempt | None:
        """The first that is down, if no other is worth waiting for: who knows."""
        fleet = self._fleet
        if self._waits():
            return None
        for target in list(self._untried):
            if fleet.breakers.asked_to_wait(target.deployment):
                continue
            here = await self._find(target)
            if here is None:
                continue
            if fleet.capacity.wait(here.id, here.pool, here.limits):
                continue
            self._untried.remove(target)
            return fleet.begin(here)
        return None

    def _waits(self) -> list[float]:
        """How long it takes until the deployments that are worth waiting for have room."""
        fleet = self._fleet
        left = self._until - time.time()
        found = []
        for target in self._untried:
            here = fleet.deployments.find(target.deployment)
            if here is None or fleet.breakers.is_down(here.id):
                continue
            wait = fleet.capacity.wait(here.id, here.pool, here.limits)
            if 0 < wait <= left:
                found.append(wait)
        return found

    async def _wait_for_room(self) -> None:
        """Wait for a limit, or for as long as a provider asked. Raises if that is too long."""
        fleet = self._fleet
        waits: dict[str, tuple[float, JanError]] = {}
        for target in self._untried:
            asked = fleet.breakers.asked_to_wait(target.deployment)
            here = fleet.deployments.find(target.deployment)
            room = fleet.capacity.wait(here.id, here.pool, here.limits) if here else 0.0
            wait = max(asked, room)
            waits[target.deployment] = wait, self._refusal(target.deployment, wait, asked=asked)
        wait, refusal = min(waits.values(), key=lambda pair: pair[0])
        if time.time() + wait > self._until:
            raise refusal
        await fleet.capacity.until_freed(max(wait, _SHORTEST_WAIT))

    def _refusal(self, deployment: str, wait: float, *, asked: float) -> JanError:
        seconds = round(max(wait, 0.001), 3)
        state = self._fleet.breakers.state_of(deployment)
        if not asked:
            return RateLimited(
                "all deployments of this model are at their limits", retry_after=seconds
            )
        message = state.reason or "the provider asked to be left alone for a while"
        if state.limited:
            return UpstreamRateLimited(message, retry_after=seconds)
        return Unavailable(message, retry_after=seconds)

    async def _begin_round(self) -> None:
        """All had their turn. Raises the last failure if they shall not have another one."""
        retry, failure = self._fleet.retry, self.failure
        targets = [one for one in self._job.targets if one.deployment not in self._gone]
        if failure is None or not targets:
            raise failure or UpstreamError("no deployment of this model is served")
        pause = retry.backoff_s * 2 ** (self._round - 1) * random.uniform(0.5, 1.5)  # noqa: S311
        late = time.time() + pause > self._until
        if self._round >= retry.attempts or late:
            raise failure
        self._round += 1
        await asyncio.sleep(pause)
        self._untried = targets

    async def _find(self, target: Target) -> Deployment | None:
        """The target's deployment if it is here; if it is in another pool, the job moves there.

        Raises Moved. None: it can't be had.
        """
        here = await self._fleet.find(target.deployment)
        if here is not None:
            return here
        if self._fleet.deployments.serves(target.pool):
            # This pool's workers are we: the job knows a deployment that our file does not.
            logger.warning("deployment is not in this worker's file", deployment=target.deployment)
        elif self._job.moves < _MOST_MOVES:
            await self._try_elsewhere(target)
        self._gone.add(target.deployment)
        self._untried.remove(target)
        return None

    async def _try_elsewhere(self, target: Target) -> None:
        """Let the target's pool have the job, without those that failed here."""
        others = [one for one in self._untried if one is not target]
        job = msgspec.structs.replace(
            self._job, targets=[target, *others], moves=self._job.moves + 1
        )
        try:
            await self._move_on(job, target.pool)
        except BusError as error:
            logger.warning("job can't move on", pool=target.pool, error=error.message)
        else:
            raise Moved

    def _able(self) -> list[Deployment]:
        """The deployments here that can go on with a text."""
        found = [self._fleet.deployments.find(one.deployment) for one in self._preferred]
        return [here for here in found if here is not None and here.engine.can_continue]

    async def _continue(self, sent: int) -> Attempt:
        if self.failure is not None:
            self._fruitless = 0 if sent > self._sent else self._fruitless + 1
        self._sent = sent
        able = self._able()
        if not able or self._fruitless >= _FRUITLESS_LIMIT:
            raise self.failure or UpstreamError(
                "the worker was lost, and this model's engine can't go on with a text"
            )
        if self.failure is not None:
            await asyncio.sleep(_BACK_OFF * 2**self._fruitless)
        self._turn += 1
        # A text that was begun does not wait for a limit: its reader does.
        return self._fleet.begin(able[(self._turn - 1) % len(able)])
