"""The tools that the server has, as their workers announce them and operators switch them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec
import structlog

from bus import Bucket, Bus
from schemas import subjects
from schemas.tools import Switch, Tool, decode_switch, decode_tool

_T = TypeVar("_T")

logger = structlog.get_logger()

_TOOL: Final = "tool."
_SWITCH: Final = "switch."


class Catalogue:
    """Follows the bucket `tools`."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._switches: dict[str, Switch] = {}

    def find(self, name: str) -> Tool | None:
        """A tool as a model may be told of it; None if there is none, or it is switched off."""
        tool, switch = self._tools.get(name), self._switches.get(name)
        if tool is None or switch is None:
            return tool
        if not switch.enabled:
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

    def on_change(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take a change of the bucket."""
        try:
            if key.startswith(_TOOL):
                _set(self._tools, key[len(_TOOL) :], decode_tool(value) if value else None)
            elif key.startswith(_SWITCH):
                _set(self._switches, key[len(_SWITCH) :], decode_switch(value) if value else None)
        except msgspec.DecodeError as error:
            logger.warning("an announcement can't be read", key=key, error=str(error))


def _set(entries: dict[str, _T], name: str, value: _T | None) -> None:
    if value is None:
        entries.pop(name, None)
    else:
        entries[name] = value


@asynccontextmanager
async def open_catalogue(bus: Bus) -> AsyncIterator[Catalogue]:
    """Follow the announcements for the context's life."""
    catalogue = Catalogue()
    watch = await Bucket(bus, subjects.KV_TOOLS).watch(catalogue.on_change)
    try:
        yield catalogue
    finally:
        await watch.stop()
