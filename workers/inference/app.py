"""The inference worker: jobs in, frames out."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from bus import Bus, open_store
from schemas.providers import Providers, ProvidersError
from workers.inference.abandon import watch_abandonment
from workers.inference.breakers import open_breakers
from workers.inference.control import Cancels, open_control
from workers.inference.deployments import open_deployments, read_providers_file
from workers.inference.heartbeat import open_heartbeat
from workers.inference.metrics import InferenceMetrics
from workers.inference.pull import Pull, pull_jobs, queues_of
from workers.inference.requests import tidy_requests
from workers.inference.run import Workplace
from workers.inference.runs import Runs
from workers.inference.settings import InferenceSettings
from workers.runtime import create_broker, serve

KIND = "inference"
HURRY = signal.SIGUSR1  # before or after SIGTERM: hand the runs back at once


async def run(settings: InferenceSettings, *, on_ready: Callable[[int], None]) -> None:
    """Work until SIGTERM or SIGINT; `on_ready` gets the port of /metrics. Raises ProvidersError."""
    providers = read_providers_file(settings.providers)

    @asynccontextmanager
    async def open_work(bus: Bus, registry: CollectorRegistry) -> AsyncIterator["Inference"]:
        async with open_inference(settings, providers, bus, registry) as inference:
            yield inference

    await serve(settings, KIND, create_broker(settings), open_work, on_ready)


class Inference:
    """The worker at work: what others may know of it."""

    def __init__(self, settings: InferenceSettings, pools: list[str], runs: Runs) -> None:
        self.draining = False
        self._settings = settings
        self._pools = pools
        self._runs = runs

    def presence(self) -> dict[str, object]:
        """Slots, running, pools and draining."""
        return {
            "slots": self._settings.slots,
            "running": len(self._runs),
            "pools": self._pools,
            "draining": self.draining,
        }


@asynccontextmanager
async def hurried(runs: Runs) -> AsyncIterator[None]:
    """Listen, for the context's life, to whoever stops the whole server and has no time."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(HURRY, runs.hurry)
    try:
        yield
    finally:
        loop.remove_signal_handler(HURRY)


@asynccontextmanager
async def open_inference(
    settings: InferenceSettings, providers: Providers, bus: Bus, registry: CollectorRegistry
) -> AsyncIterator[Inference]:
    """Do inference for the context's life; leaving it drains the runs."""
    pools = settings.pools or providers.pools()
    if unknown := set(pools) - set(providers.pools()):
        raise ProvidersError(f"JAN_POOLS: no provider has the pool {min(unknown)}")
    metrics = InferenceMetrics(registry)
    objects = open_store(
        settings.data / "objects",
        s3_url=settings.s3_url,
        s3_bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret=settings.s3_secret_key.get_secret_value(),
    )
    url = settings.nats_url.get_secret_value()
    cancels = Cancels()
    async with (
        open_deployments(providers, pools) as deployments,
        open_breakers(bus) as breakers,
    ):
        place = Workplace(
            bus, objects, deployments, breakers, settings.name, settings.max_deliver, metrics
        )
        runs = Runs(place, cancels)
        metrics.running.set_function(lambda: len(runs))
        metrics.slots.set(settings.slots)
        inference = Inference(settings, pools, runs)
        async with (
            hurried(runs),
            open_heartbeat(url, settings.name, settings.ack_wait, runs, runs.lose),
            open_control(bus, cancels, runs.cancel),
            watch_abandonment(bus, runs),
            tidy_requests(objects, settings.requests_kept),
        ):
            pull = Pull(bus, queues_of(pools), settings.slots, runs.start, settings.ack_wait)
            try:
                async with pull_jobs(pull):
                    yield inference
            finally:
                inference.draining = True
                await runs.drain(settings.drain_timeout)
