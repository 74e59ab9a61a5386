"""The worker of the loop: which parts it has, and how they are opened."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from prometheus_client import CollectorRegistry

from bus import Bus, open_tool_catalogue
from schemas import subjects
from workers.responses.office import Office
from workers.responses.parts import open_parts
from workers.responses.response import Response, to_response
from workers.responses.settings import ResponsesSettings
from workers.runtime import OnLoading, OnReady, create_broker, serve
from workers.runtime.abandon import watch_abandonment
from workers.runtime.control import Cancels, open_control
from workers.runtime.heartbeat import open_heartbeat
from workers.runtime.long_run import RunDesk
from workers.runtime.metrics import RunMetrics
from workers.runtime.pull import Pull, Queue, pull_jobs
from workers.runtime.runs import Runs

KIND = "responses"
HURRY = signal.SIGUSR1  # stop without letting anything end


async def run(settings: ResponsesSettings, *, on_ready: OnReady) -> None:
    """Run the worker until SIGTERM or SIGINT; `on_ready` gets the port of its metrics."""

    @asynccontextmanager
    async def open_work(
        bus: Bus, registry: CollectorRegistry, _tell: OnLoading
    ) -> AsyncIterator[Work]:
        async with open_worker(settings, bus, registry) as work:
            yield work

    await serve(settings, KIND, create_broker(settings), open_work, on_ready)


class Work:
    """What the worker tells of itself."""

    def __init__(self, pull: Pull, runs: Runs[Response]) -> None:
        self._pull = pull
        self._runs = runs
        self.draining = False

    def presence(self) -> dict[str, object]:
        """How busy it is."""
        return {
            "slots": self._pull.slots,
            "running": len(self._runs),
            "draining": self.draining,
        }


@asynccontextmanager
async def open_worker(
    settings: ResponsesSettings, bus: Bus, registry: CollectorRegistry
) -> AsyncIterator[Work]:
    """Carry responses out for the context's life; leaving it hands them to other workers."""
    metrics = RunMetrics(registry, KIND)
    cancels = Cancels()
    url = settings.nats_url.get_secret_value()
    async with open_parts(bus, settings.name) as parts, open_tool_catalogue(bus) as catalogue:
        desk = RunDesk(bus, settings.name, settings.max_deliver, metrics)
        office = Office(desk, settings.open_objects(), parts, catalogue, settings)
        runs = Runs(bus, cancels, partial(to_response, office))
        pull = Pull(bus, queues(), lambda: settings.slots, runs.start, settings.ack_wait)
        metrics.running.set_function(lambda: len(runs))
        metrics.slots.set_function(lambda: pull.slots)
        work = Work(pull, runs)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(HURRY, runs.hurry)
        async with (
            open_heartbeat(url, settings.name, settings.ack_wait, runs, runs.lose),
            open_control(bus, cancels, runs.cancel),
            watch_abandonment(bus, runs),
        ):
            try:
                async with pull_jobs(pull):
                    yield work
            finally:
                work.draining = True
                await runs.drain(settings.drain_timeout)
                loop.remove_signal_handler(HURRY)


def queues() -> list[Queue]:
    """What it pulls from, interactive ones first."""
    return [
        Queue(subjects.response_consumer(priority), priority == subjects.BACKGROUND)
        for priority in (subjects.INTERACTIVE, subjects.BACKGROUND)
    ]
