"""How deployments are doing, as the workers tell: what is tried first, what is shown of them."""

import time
from collections.abc import Callable

import msgspec
import structlog

from schemas import health
from schemas.api.models import Status
from schemas.catalogue import Model
from schemas.health import DeploymentState, WorkerFacts

logger = structlog.get_logger()

DOWN, UNSERVED = 1, 2  # what is worse is tried later
_KEPT_FOR = 20.0  # seconds: the bucket keeps a state for 15, and workers tell it again before
_COUNTED_FOR = 0.5  # seconds that what is derived from the workers' words is used


class Deployments:
    """Breakers from the watched bucket, and what `workers` have said last."""

    def __init__(
        self,
        workers: Callable[[], list[WorkerFacts]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self._clock = clock
        self._states: dict[str, DeploymentState] = {}
        self._heard: dict[str, float] = {}
        self._counted_at = float("-inf")
        self._serving: list[WorkerFacts] = []
        self._served: dict[str, bool] = {}
        self._loads: dict[str, int] = {}

    def on_change(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take a change from the bucket's watch."""
        if value is None:
            return  # it has expired, and so has what it said
        try:
            state = health.decode_state(value)
        except msgspec.MsgspecError as error:
            logger.warning("a deployment's state can't be read", key=key, error=str(error))
            return
        self._states[state.deployment] = state
        self._heard[state.deployment] = self._clock()

    def state_of(self, deployment: str) -> DeploymentState:
        """A deployment's breaker as it is now; what was not told again is over."""
        if self._clock() - self._heard.get(deployment, 0.0) > _KEPT_FOR:
            return DeploymentState(deployment)
        return self._states[deployment]

    def rank(self, deployment: str, pool: str) -> int:
        """0 for one that works; one that is down comes later, one that nobody serves the last."""
        self._count()
        down = DOWN if self.is_down(deployment) else 0
        return down if self._is_served(pool) else UNSERVED + down

    def load(self, deployment: str) -> int:
        """How many runs were at it when the workers spoke last."""
        return self._loads.get(deployment, 0)

    def is_down(self, deployment: str) -> bool:
        """Whether its breaker is open, or somebody tries it out."""
        state = self._states.get(deployment)
        return state is not None and state.is_down(self._clock())

    def workers(self) -> list[WorkerFacts]:
        """The inference workers that are there."""
        self._count()
        return self._serving

    def status_of(self, model: Model) -> Status:
        """`live`, `degraded` if some of its deployments can't be used, `down` if none can."""
        works = [not self.rank(one.id, one.pool) for one in model.deployments]
        return "live" if all(works) else "degraded" if any(works) else "down"

    def _is_served(self, pool: str) -> bool:
        found = self._served.get(pool)
        if found is None:
            found = self._served[pool] = any(worker.serves(pool) for worker in self._serving)
        return found

    def _count(self) -> None:
        now = self._clock()
        if 0 <= now - self._counted_at < _COUNTED_FOR:
            return
        self._counted_at = now
        self._serving = self._workers()
        self._served.clear()
        self._loads.clear()
        for worker in self._serving:
            for figures in worker.deployments:
                self._loads[figures.id] = self._loads.get(figures.id, 0) + figures.in_flight
