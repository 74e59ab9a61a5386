"""Looks at providers now and then, so that a dead one is known before a run finds out.

Of the workers that serve a pool one looks for all; they agree on which by its name, and agree anew
when it is gone. Looks are spread, so that many providers are not looked at together.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from schemas.errors import JanError
from schemas.health import Probe
from workers.inference.breakers import Breakers
from workers.inference.deployments import Deployments, Host
from workers.inference.peers import Peers
from workers.runtime import beside

logger = structlog.get_logger()

_TICK = 0.2
_SPREAD = 0.2  # of the interval, earlier or later
_ERROR_LIMIT = 200


@dataclass(slots=True)
class _Watched:
    due: float
    last: float  # when it was looked at before, or first known
    looking: asyncio.Task[None] | None = None


class Probes:
    """The schedule of looks; `tell` says what came of those that this worker took."""

    def __init__(
        self,
        deployments: Deployments,
        breakers: Breakers,
        peers: Peers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._deployments = deployments
        self._breakers = breakers
        self._peers = peers
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._found: dict[str, Probe] = {}

    def tell(self) -> list[Probe]:
        """The last look at each provider."""
        return list(self._found.values())

    async def run(self) -> None:
        """Look, until cancelled."""
        try:
            while True:
                self.tick()
                await asyncio.sleep(_TICK)
        finally:
            for watched in self._watched.values():
                if watched.looking is not None:
                    watched.looking.cancel()

    def tick(self) -> None:
        """Begin the looks that are due."""
        now = self._clock()
        hosts = {host.provider.name: host for host in self._deployments.providers()}
        for name in [name for name in self._watched if name not in hosts]:
            del self._watched[name]
            self._found.pop(name, None)
        for name, host in hosts.items():
            every = host.provider.health_check.every_s
            if not every:
                self._found.pop(name, None)
                continue
            first = now + every * random.random()  # noqa: S311 - spreads load, guards nothing
            watched = self._watched.setdefault(name, _Watched(first, now))
            if now < watched.due or (watched.looking and not watched.looking.done()):
                continue
            watched.due = now + every * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311
            if self._peers.is_chosen(name, host.provider.pool):
                watched.looking = asyncio.create_task(self._look(host, watched))
            else:
                self._found.pop(name, None)
                watched.last = now

    async def _look(self, host: Host, watched: _Watched) -> None:
        began, name = self._clock(), host.provider.name
        error: str | None = None
        timeout = host.provider.health_check.timeout_s
        try:
            await asyncio.wait_for(host.engine.check(), timeout)
        except TimeoutError:
            error = f"no answer within {timeout:g} s"
        except JanError as failure:
            error = failure.message[:_ERROR_LIMIT]
        now = self._clock()
        self._found[name] = Probe(name, round(now, 3), round(now - began, 4), error or "")
        since, watched.last = watched.last, began
        for deployment in self._deployments:
            if deployment.host is host:
                self._breakers.note_probe(deployment.id, error, since)


@asynccontextmanager
async def open_probes(
    deployments: Deployments, breakers: Breakers, peers: Peers
) -> AsyncIterator[Probes]:
    """Look at the providers for the context's life."""
    probes = Probes(deployments, breakers, peers)
    async with beside(probes.run()):
        yield probes
