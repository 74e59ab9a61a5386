"""The inference worker: jobs in, frames out."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from bus import Bus, open_store
from schemas.providers import Providers, ProvidersError
from workers.inference.abandon import watch_abandonment
from workers.inference.breakers import open_breakers
from workers.inference.control import Cancels, open_control
from workers.inference.deployments import (
    Deployment,
    open_deployments,
    read_providers_file,
    slots_of,
)
from workers.inference.heartbeat import open_heartbeat
from workers.inference.metrics import InferenceMetrics, open_engine_metrics
from workers.inference.pull import Pull, pull_jobs, queues_of
from workers.inference.requests import tidy_requests
from workers.inference.run import Workplace
from workers.inference.runs import Runs
from workers.inference.settings import InferenceSettings
from workers.runtime import OnLoading, OnReady, create_broker, serve

KIND = "inference"
HURRY = signal.SIGUSR1  # before or after SIGTERM: hand the runs back at once


async def run(
    settings: InferenceSettings, *, on_ready: OnReady, on_loading: OnLoading = lambda _: None
) -> None:
    """Work until SIGTERM or SIGINT; `on_ready` gets the port of /metrics.

    `on_loading` hears every other second how far the engines are, until they are open. Raises
    ProvidersError.
    """
    providers = read_providers_file(settings.providers)

    @asynccontextmanager
    async def open_work(
        bus: Bus, registry: CollectorRegistry, tell: OnLoading
    ) -> AsyncIterator["Inference"]:
        async with open_inference(settings, providers, bus, registry, tell) as inference:
            yield inference

    await serve(settings, KIND, create_broker(settings), open_work, on_ready, on_loading=on_loading)


class Inference:
    """The worker at work: what others may know of it."""

    def __init__(self, pulls: list[Pull], pools: list[str], runs: Runs) -> None:
        self.draining = False
        self._pulls = pulls
        self._pools = pools
        self._runs = runs

    def presence(self) -> dict[str, object]:
        """Slots, running, pools and draining."""
        return {
            "slots": sum(pull.slots for pull in self._pulls),
            "running": len(self._runs),
            "pools": self._pools,
            "draining": self.draining,
        }


def to_pulls(
    bus: Bus,
    deployments: Mapping[str, Deployment],
    pools: list[str],
    settings: InferenceSettings,
    runs: Runs,
) -> list[Pull]:
    """One pull for each pool whose engine bounds its runs, and one for all others together."""
    bounded = [pool for pool in pools if slots_of(deployments, pool) is not None]
    others = [pool for pool in pools if pool not in bounded]

    def pull(of: list[str], capacity: Callable[[], int]) -> Pull:
        return Pull(bus, queues_of(of), capacity, runs.start, settings.ack_wait)

    def capacity_of(pool: str) -> Callable[[], int]:
        return lambda: min(slots_of(deployments, pool) or 0, settings.slots)

    pulls = [pull([pool], capacity_of(pool)) for pool in bounded]
    return [*pulls, pull(others, lambda: settings.slots)] if others else pulls


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
    settings: InferenceSettings,
    providers: Providers,
    bus: Bus,
    registry: CollectorRegistry,
    tell: OnLoading = lambda _: None,
) -> AsyncIterator[Inference]:
    """Do inference for the context's life; leaving it drains the runs.

    `tell` hears how far the engines are. Raises ProvidersError, EngineUnavailable.
    """
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
        open_deployments(providers, pools, tell) as deployments,
        open_breakers(bus) as breakers,
    ):
        place = Workplace(
            bus, objects, deployments, breakers, settings.name, settings.max_deliver, metrics
        )
        runs = Runs(place, cancels)
        metrics.running.set_function(lambda: len(runs))
        pulls = to_pulls(bus, deployments, pools, settings, runs)
        metrics.slots.set_function(lambda: sum(pull.slots for pull in pulls))
        inference = Inference(pulls, pools, runs)
        async with (
            hurried(runs),
            open_engine_metrics(registry, lambda: [here.engine for here in deployments.values()]),
            open_heartbeat(url, settings.name, settings.ack_wait, runs, runs.lose),
            open_control(bus, cancels, runs.cancel),
            watch_abandonment(bus, runs),
            tidy_requests(objects, settings.requests_kept),
        ):
            try:
                async with AsyncExitStack() as pulling:
                    for pull in pulls:
                        await pulling.enter_async_context(pull_jobs(pull))
                    yield inference
            finally:
                inference.draining = True
                await runs.drain(settings.drain_timeout)
