"""The tools that the server has, as their workers announce them and operators switch them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog

from bus.buckets import Bucket
from bus.connection import Bus
from bus.switches import Switches
from schemas import subjects
from schemas.tools import Switch, Tool, decode_tool

logger = structlog.get_logger()


class ToolCatalogue:
    """Follows the bucket `tools`."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._switches = Switches()

    def find(self, name: str) -> Tool | None:
        """A tool as a model may be told of it; None if there is none, or it is switched off."""
        tool, switch = self._tools.get(name), self.switch(name)
        if tool is None or not switch.enabled:
            return None
        if switch.description is None:
            return tool
        return msgspec.structs.replace(tool, description=switch.description)

    def names(self) -> list[str]:
        """All tools that may be called, in the order of their names."""
        return [
            name
            for name in sorted(self._tools)
            if (found := self.find(name)) is not None and not found.unavailable
        ]

    def announced(self) -> list[Tool]:
        """All tools as their workers announce them, in the order of their names."""
        return [self._tools[name] for name in sorted(self._tools)]

    def switch(self, name: str) -> Switch:
        """What an operator says of a tool."""
        return self._switches.find(name)

    def on_change(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take a change of the bucket; a tool whose switch can't be read is off."""
        if key.startswith(subjects.TOOL_KEYS):
            self._set_tool(key.removeprefix(subjects.TOOL_KEYS), value)
        elif key.startswith(subjects.SWITCH_KEYS):
            self._switches.set(key.removeprefix(subjects.SWITCH_KEYS), value)

    def _set_tool(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._tools.pop(name, None)
            return
        try:
            self._tools[name] = decode_tool(value)
        except msgspec.DecodeError as error:
            logger.warning("an announcement can't be read", tool=name, error=str(error))


@asynccontextmanager
async def open_tool_catalogue(bus: Bus) -> AsyncIterator[ToolCatalogue]:
    """Follow the announcements for the context's life."""
    catalogue = ToolCatalogue()
    watch = await Bucket(bus, subjects.KV_TOOLS).watch(catalogue.on_change)
    try:
        yield catalogue
    finally:
        await watch.stop()
