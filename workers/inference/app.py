"""The inference worker: jobs in, frames out."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from bus import Bus
from schemas.objects import REQUESTS
from schemas.providers import Providers, ProvidersError
from workers.inference.breakers import open_breakers
from workers.inference.capacity import Capacity
from workers.inference.deployments import open_deployments, read_providers_file
from workers.inference.failover import Fleet
from workers.inference.metrics import InferenceMetrics, open_engine_metrics
from workers.inference.peers import open_peers
from workers.inference.probes import Probes, open_probes
from workers.inference.pulls import Pulls, open_pulls
from workers.inference.reload import ProvidersFile, watch_providers
from workers.inference.run import Run, Workplace, to_run
from workers.inference.settings import InferenceSettings
from workers.runtime import OnLoading, OnReady, create_broker, serve
from workers.runtime.abandon import watch_abandonment
from workers.runtime.control import Cancels, open_control
from workers.runtime.heartbeat import open_heartbeat
from workers.runtime.long_run import RunDesk
from workers.runtime.runs import Runs
from workers.runtime.tidying import tidying

logger = structlog.get_logger()

KIND = "inference"
HURRY = signal.SIGUSR1  # before or after SIGTERM: hand the runs back at once


async def run(
    settings: InferenceSettings, *, on_ready: OnReady, on_loading: OnLoading = lambda _: None
) -> None:
    """Work until SIGTERM or SIGINT; `on_ready` gets the port of /metrics.

    `on_loading` hears every other second how far the engines are, until they are open. Raises
    ProvidersError.
    """
    path = providers_path(settings)
    providers = read_providers_file(path if settings.providers or path.exists() else None)

    @asynccontextmanager
    async def open_work(
        bus: Bus, registry: CollectorRegistry, tell: OnLoading
    ) -> AsyncIterator["Inference"]:
        async with open_inference(settings, providers, bus, registry, tell) as inference:
            yield inference

    await serve(settings, KIND, create_broker(settings), open_work, on_ready, on_loading=on_loading)


def providers_path(settings: InferenceSettings) -> Path:
    """Where the providers file is, or would be: the one that is named, or the data folder's."""
    return settings.providers or settings.data / "providers.yaml"


class Inference:
    """The worker at work: what others may know of it."""

    def __init__(self, pulls: Pulls, fleet: Fleet, probes: Probes, runs: Runs[Run]) -> None:
        self.draining = False
        self._pulls = pulls
        self._fleet = fleet
        self._probes = probes
        self._runs = runs

    def presence(self) -> dict[str, object]:
        """Slots, running, pools and draining; what was seen of the deployments."""
        return {
            "slots": self._pulls.slots,
            "running": len(self._runs),
            "pools": self._fleet.deployments.pools(),
            "draining": self.draining,
            "deployments": self._fleet.figures.tell(),
            "probes": self._probes.tell(),
        }


@asynccontextmanager
async def hurried(runs: Runs[Run]) -> AsyncIterator[None]:
    """Listen, for the context's life, to whoever stops the whole server and has no time."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(HURRY, runs.hurry)
    try:
        yield
    finally:
        loop.remove_signal_handler(HURRY)


@asynccontextmanager
async def open_inference(
    settings: InferenceSettings,
    providers: Providers,
    bus: Bus,
    registry: CollectorRegistry,
    tell: OnLoading = lambda _: None,
) -> AsyncIterator[Inference]:
    """Do inference for the context's life; leaving it drains the runs.

    `tell` hears how far the engines are. Raises ProvidersError, EngineUnavailable.
    """
    check_pools(settings.pools, providers)
    metrics = InferenceMetrics(registry)
    objects = settings.open_objects()
    url = settings.nats_url.get_secret_value()
    cancels = Cancels()
    async with (
        open_deployments(providers, settings.pools, tell) as deployments,
        open_breakers(bus, providers.routing.breaker, settings.name) as breakers,
        open_peers(bus, settings.name) as peers,
        open_probes(deployments, breakers, peers) as probes,
    ):
        fleet = Fleet(deployments, breakers, Capacity(peers.count), providers.routing.retry)
        desk = RunDesk(bus, settings.name, settings.max_deliver, metrics)
        place = Workplace(desk, objects, fleet, metrics)
        runs = Runs(bus, cancels, partial(to_run, place))
        metrics.running.set_function(lambda: len(runs))
        pulls = Pulls(bus, deployments, settings.slots, settings.ack_wait, runs.start)
        metrics.slots.set_function(lambda: pulls.slots)
        inference = Inference(pulls, fleet, probes, runs)
        async with (
            hurried(runs),
            open_engine_metrics(registry, deployments.engines),
            open_heartbeat(url, settings.name, settings.ack_wait, runs, runs.lose),
            open_control(bus, cancels, runs.cancel),
            watch_abandonment(bus, runs),
            tidying(objects, {REQUESTS: settings.requests_kept}),
            reloading(settings, providers, fleet, pulls),
        ):
            try:
                async with open_pulls(pulls):
                    yield inference
            finally:
                inference.draining = True
                await runs.drain(settings.drain_timeout)


def check_pools(wanted: list[str], providers: Providers) -> None:
    """Refuse pools that no provider has. Raises ProvidersError."""
    if unknown := set(wanted) - set(providers.pools()):
        raise ProvidersError(f"JAN_POOLS: no provider has the pool {min(unknown)}")


@asynccontextmanager
async def reloading(
    settings: InferenceSettings, known: Providers, fleet: Fleet, pulls: Pulls
) -> AsyncIterator[None]:
    """Follow the providers file, for the context's life: new runs find what it says now."""

    async def use(providers: Providers) -> None:
        check_pools(settings.pools, providers)
        await fleet.deployments.replace(providers, lambda word: logger.info("loading", what=word))
        fleet.breakers.settings = providers.routing.breaker
        fleet.retry = providers.routing.retry
        pulls.adjust()
        logger.info("providers are read again", providers=len(providers.providers))

    def complain(error: str) -> None:
        logger.error("providers stay as they were", error=error)

    file = ProvidersFile(providers_path(settings), known, use, complain)
    fleet.look = file.look
    async with watch_providers(file):
        yield
