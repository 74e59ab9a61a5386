"""What this worker's tools are, told to everybody in the bucket `tools`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import structlog

from bus import Bucket, Bus
from schemas import subjects
from schemas.errors import BusError
from schemas.tools import Tool, decode_tool
from workers.runtime import beside
from workers.tools.means import Means
from workers.tools.outcome import encode
from workers.tools.toolbox import Toolbox

logger = structlog.get_logger()

_TOOL = "tool."
_SWITCH = "switch."
_AGAIN = 1.0  # seconds after which it is told again what could not be told


class Catalogue:
    """Keeps the announced tools of some queues as they are. Made by `open_catalogue`."""

    def __init__(self, bus: Bus, toolbox: Toolbox, means: Means, queues: Sequence[str]) -> None:
        self._bucket = Bucket(bus, subjects.KV_TOOLS)
        self._toolbox = toolbox
        self._means = means
        self._queues = queues
        self._told: dict[str, bytes] = {}
        self._news = asyncio.Event()

    def changed(self) -> None:
        """Announce anew, soon: the tools may have changed."""
        self._news.set()

    def on_change(self, key: str, value: bytes | None, revision: int) -> None:  # noqa: ARG002
        """Take in what the bucket says."""
        if key.startswith(_SWITCH):
            self._toolbox.switches.set(key.removeprefix(_SWITCH), value)
        elif key.startswith(_TOOL) and value is not None:
            self._told[key] = value
        elif key.startswith(_TOOL):
            self._told.pop(key, None)

    async def announce(self) -> None:
        """Tell what differs from what is told, and take back what is not there any more."""
        wanted = {_TOOL + about.name: encode(about) for about in self._abouts()}
        for key, value in wanted.items():
            if self._told.get(key) != value:
                await self._bucket.put(key, value)
                self._told[key] = value
        for key in [key for key in self._told if key not in wanted]:
            if self._is_ours(self._told[key]):
                await self._bucket.delete(key)
                self._told.pop(key, None)

    async def follow(self) -> None:
        """Announce whenever the tools have changed, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.announce()
            except BusError as error:
                logger.warning("tools are announced again", error=str(error))
                self._news.set()
                await asyncio.sleep(_AGAIN)

    def _abouts(self) -> list[Tool]:
        return [
            msgspec.structs.replace(tool.about, unavailable=tool.lacks(self._means))
            for tool in self._toolbox
            if tool.announced
        ]

    def _is_ours(self, value: bytes) -> bool:
        """Whether a tool waits in a queue of ours: workers of other queues tell of theirs."""
        try:
            return decode_tool(value).queue in self._queues
        except msgspec.DecodeError:
            return True


@asynccontextmanager
async def open_catalogue(
    bus: Bus, toolbox: Toolbox, means: Means, queues: Sequence[str]
) -> AsyncIterator[Catalogue]:
    """Hear what the bucket says, switches above all, for the context's life."""
    catalogue = Catalogue(bus, toolbox, means, queues)
    watch = await Bucket(bus, subjects.KV_TOOLS).watch(catalogue.on_change)
    try:
        yield catalogue
    finally:
        await watch.stop()


@asynccontextmanager
async def announcing(catalogue: Catalogue) -> AsyncIterator[None]:
    """Keep the tools announced for the context's life.

    They stay announced after it: their calls wait for the next worker.
    """
    await catalogue.announce()
    async with beside(catalogue.follow()):
        yield
