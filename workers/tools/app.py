"""The tools worker: calls in, results out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from bus import Bus
from schemas import subjects
from workers.runtime import OnLoading, OnReady, create_broker, serve
from workers.runtime.control import Cancels, open_control
from workers.runtime.heartbeat import open_heartbeat
from workers.runtime.pull import Pull, Queue, pull_jobs
from workers.tools.builtin import TOOLS
from workers.tools.call import Workplace
from workers.tools.calls import Calls
from workers.tools.catalogue import open_catalogue
from workers.tools.means import open_means
from workers.tools.metrics import BreakerMetrics, ToolsMetrics
from workers.tools.settings import ToolsSettings
from workers.tools.tool import ServerTool
from workers.tools.toolbox import Toolbox

KIND = "tools"


async def run(settings: ToolsSettings, *, on_ready: OnReady) -> None:
    """Work until SIGTERM or SIGINT; `on_ready` gets the port of /metrics."""

    @asynccontextmanager
    async def open_work(
        bus: Bus, registry: CollectorRegistry, _tell: OnLoading
    ) -> AsyncIterator["Tools"]:
        async with open_tools(settings, bus, registry) as tools:
            yield tools

    await serve(settings, KIND, create_broker(settings), open_work, on_ready)


class Tools:
    """The worker at work: what others may know of it."""

    def __init__(self, pulls: list[Pull], calls: Calls, queues: list[str]) -> None:
        self.draining = False
        self._pulls = pulls
        self._calls = calls
        self._queues = queues

    def presence(self) -> dict[str, object]:
        """Slots, running, queues and draining."""
        return {
            "slots": sum(pull.slots for pull in self._pulls),
            "running": len(self._calls),
            "queues": self._queues,
            "draining": self.draining,
        }


@asynccontextmanager
async def open_tools(
    settings: ToolsSettings,
    bus: Bus,
    registry: CollectorRegistry,
    builtins: Mapping[str, ServerTool] = TOOLS,
) -> AsyncIterator[Tools]:
    """Run tools for the context's life; leaving it drains the calls."""
    queues = settings.tools_queues
    metrics = ToolsMetrics(registry)
    cancels = Cancels()
    url = settings.nats_url.get_secret_value()
    async with open_means(settings, bus) as means:
        registry.register(BreakerMetrics(means.breakers.states))
        toolbox = Toolbox(builtins, queues)
        place = Workplace(bus, toolbox, means, settings.name, settings.max_deliver, metrics)
        calls = Calls(place, cancels)
        metrics.running.set_function(lambda: len(calls))
        pulls = [to_pull(bus, settings, queue, calls) for queue in queues]
        tools = Tools(pulls, calls, queues)
        async with (
            open_heartbeat(url, settings.name, settings.ack_wait, calls, calls.lose),
            open_control(bus, cancels, calls.cancel),
            open_catalogue(bus, toolbox, means, queues),
        ):
            try:
                async with AsyncExitStack() as pulling:
                    for pull in pulls:
                        await pulling.enter_async_context(pull_jobs(pull))
                    yield tools
            finally:
                tools.draining = True
                await calls.drain(settings.drain_timeout)


def to_pull(bus: Bus, settings: ToolsSettings, queue: str, calls: Calls) -> Pull:
    """One queue's pull: a tool that is slow keeps no slot of another."""
    queues = [Queue(subjects.tool_consumer(queue), background=False)]
    return Pull(bus, queues, lambda: settings.slots(queue), calls.start, settings.ack_wait)
