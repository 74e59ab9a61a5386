"""Which deployment is tried next, before the first token and after it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from schemas.commands import RunInference
from schemas.errors import BusError, JanError, UpstreamError
from workers.inference.breakers import Breakers
from workers.inference.deployments import Deployment

logger = structlog.get_logger()

_FRUITLESS_LIMIT = 4  # tries in a row that add nothing to a stream
_BACK_OFF = 0.1  # seconds, doubled with each fruitless try


class Moved(Exception):
    """The job was given to the workers of another pool."""


MoveOn = Callable[[RunInference, str], Awaitable[None]]


class Turns:
    """The order in which a run's deployments are tried.

    Before the first token each of the job's targets has one turn, those that are down the last; one
    in another pool takes the job there. After it only engines that can continue a text have turns,
    as long as they add to it.
    """

    def __init__(
        self,
        deployments: Mapping[str, Deployment],
        job: RunInference,
        breakers: Breakers,
        move_on: MoveOn,
    ) -> None:
        self.failure: JanError | None = None
        self._deployments = deployments
        self._job = job
        self._move_on = move_on
        targets = sorted(job.targets, key=lambda target: breakers.is_down(target.deployment))
        self._untried = targets
        self._able = [
            deployments[target.deployment]
            for target in targets
            if target.deployment in deployments
            and deployments[target.deployment].engine.can_continue
        ]
        self._turn = 0
        self._fruitless = 0
        self._sent = 0

    def can_continue(self) -> bool:
        """Whether any engine here can go on with a text that was begun."""
        return bool(self._able)

    async def next(self, sent: int) -> Deployment:
        """The deployment to try now that `sent` frames are out.

        Raises the last failure if there is none, Moved if another pool has the job now.
        """
        return await (self._continue(sent) if sent else self._start())

    async def _start(self) -> Deployment:
        while self._untried:
            target = self._untried[0]
            here = self._deployments.get(target.deployment)
            if here is None:
                await self._try_elsewhere()
                continue
            self._untried.pop(0)
            return here
        raise self.failure or UpstreamError("no deployment of this model is served")

    async def _try_elsewhere(self) -> None:
        """Let the pool of the next target have the job; if its queue is full, go on here."""
        target = self._untried[0]
        if any(found.pool == target.pool for found in self._deployments.values()):
            # This pool's workers are we: the job knows a deployment that our file does not.
            logger.warning("deployment is not in this worker's file", deployment=target.deployment)
        else:
            job = msgspec.structs.replace(self._job, targets=list(self._untried))
            try:
                await self._move_on(job, target.pool)
            except BusError as error:
                logger.warning("job can't move on", pool=target.pool, error=error.message)
            else:
                raise Moved
        self._untried.pop(0)

    async def _continue(self, sent: int) -> Deployment:
        if self.failure is not None:
            self._fruitless = 0 if sent > self._sent else self._fruitless + 1
        self._sent = sent
        if not self._able or self._fruitless >= _FRUITLESS_LIMIT:
            raise self.failure or UpstreamError(
                "the worker was lost, and this model's engine can't go on with a text"
            )
        if self.failure is not None:
            await asyncio.sleep(_BACK_OFF * 2**self._fruitless)
        self._turn += 1
        return self._able[(self._turn - 1) % len(self._able)]
