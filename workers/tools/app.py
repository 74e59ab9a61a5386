"""The tools worker: calls in, results out."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from prometheus_client import CollectorRegistry

from bus import Bus
from schemas import subjects
from schemas.objects import ARTIFACTS
from workers.runtime import OnLoading, OnReady, create_broker, serve
from workers.runtime.carried import Desk
from workers.runtime.control import Cancels, open_control
from workers.runtime.heartbeat import open_heartbeat
from workers.runtime.pull import Pull, Queue, pull_jobs
from workers.runtime.runs import Runs
from workers.runtime.tidying import tidying
from workers.tools import webhooks
from workers.tools.builtin import TOOLS
from workers.tools.call import Call, Workplace, to_call
from workers.tools.catalogue import Catalogue, announcing, open_catalogue
from workers.tools.mcp.file import McpFile, load_mcp_file
from workers.tools.mcp.servers import open_servers
from workers.tools.mcp.talk import be_silent
from workers.tools.means import Means, open_means
from workers.tools.metrics import BreakerMetrics, ToolsMetrics
from workers.tools.settings import ToolsSettings
from workers.tools.tool import ServerTool
from workers.tools.toolbox import Toolbox

KIND = "tools"
HURRY = signal.SIGUSR1  # before or after SIGTERM: hand the calls back at once


async def run(settings: ToolsSettings, *, on_ready: OnReady) -> None:
    """Work until SIGTERM or SIGINT; `on_ready` gets the port of /metrics. Raises McpFileError."""
    file = read_servers(settings)

    @asynccontextmanager
    async def open_work(
        bus: Bus, registry: CollectorRegistry, _tell: OnLoading
    ) -> AsyncIterator["Tools"]:
        async with open_tools(settings, bus, registry, file=file) as tools:
            yield tools

    await serve(settings, KIND, create_broker(settings), open_work, on_ready)


def read_servers(settings: ToolsSettings) -> McpFile:
    """Read the operator's MCP servers. Raises McpFileError."""
    path = settings.mcp_file or settings.data / "mcp.yaml"
    wanted = "mcp" in settings.tools_queues and (settings.mcp_file or path.exists())
    return load_mcp_file(path) if wanted else McpFile()


class Tools:
    """The worker at work: what others may know of it."""

    def __init__(self, pulls: list[Pull], calls: Runs[Call], queues: list[str]) -> None:
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
    file: McpFile | None = None,
) -> AsyncIterator[Tools]:
    """Run tools for the context's life, those of the file's MCP servers too.

    Leaving it drains the calls.
    """
    be_silent()
    queues = settings.tools_queues
    metrics = ToolsMetrics(registry)
    cancels = Cancels()
    url = settings.nats_url.get_secret_value()
    async with open_means(settings, bus) as means:
        registry.register(BreakerMetrics(means.breakers.states))
        toolbox = Toolbox(builtins, queues)
        desk = Desk(bus, settings.name, settings.max_deliver, metrics)
        place = Workplace(desk, toolbox, means, metrics)
        calls = Runs(bus, cancels, partial(to_call, place))
        metrics.running.set_function(lambda: len(calls))
        pulls = [
            to_pull(bus, settings, queue, calls) for queue in queues if queue != webhooks.QUEUE
        ]
        tools = Tools(pulls, calls, queues)
        async with (
            hurried(calls),
            open_heartbeat(url, settings.name, settings.ack_wait, calls, calls.lose),
            open_control(bus, cancels, calls.cancel),
            open_catalogue(bus, toolbox, means, queues) as catalogue,
            open_remote(file or McpFile(), toolbox, catalogue, means),
            announcing(catalogue),
            tidying(means.objects, {ARTIFACTS: settings.artifacts_kept}),
        ):
            try:
                async with AsyncExitStack() as pulling:
                    if webhooks.QUEUE in queues:
                        key = settings.sealing_key.get_secret_value()
                        sender = webhooks.Webhooks(bus, means.web, key, registry)
                        await pulling.enter_async_context(webhooks.open_webhooks(sender, bus))
                    for pull in pulls:
                        await pulling.enter_async_context(pull_jobs(pull))
                    yield tools
            finally:
                tools.draining = True
                await calls.drain(settings.drain_timeout)


@asynccontextmanager
async def hurried(calls: Runs[Call]) -> AsyncIterator[None]:
    """Listen, for the context's life, to whoever stops the whole server and has no time."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(HURRY, calls.hurry)
    try:
        yield
    finally:
        loop.remove_signal_handler(HURRY)


@asynccontextmanager
async def open_remote(
    file: McpFile, toolbox: Toolbox, catalogue: Catalogue, means: Means
) -> AsyncIterator[None]:
    """Keep the tools of MCP servers in the toolbox, and announced, for the context's life."""

    def on_tools(tools: Sequence[ServerTool]) -> None:
        toolbox.replace_remote(tools)
        catalogue.changed()

    async with open_servers(file, means, on_tools) as servers:
        toolbox.absent = servers.absent
        yield


def to_pull(bus: Bus, settings: ToolsSettings, queue: str, calls: Runs[Call]) -> Pull:
    """One queue's pull: a tool that is slow keeps no slot of another."""
    queues = [Queue(subjects.tool_consumer(queue), background=False)]
    return Pull(bus, queues, lambda: settings.slots(queue), calls.start, settings.ack_wait)
