"""Lists of tools that servers named by requests have told lately."""

import time
from collections import OrderedDict
from typing import Final

from schemas.tool_options import McpTool


class Lists:
    """The lists of tools that were asked for lately."""

    _MOST: Final = 200

    def __init__(self, kept: float) -> None:
        self._kept = kept
        self._lists: OrderedDict[str, tuple[float, list[McpTool]]] = OrderedDict()

    def find(self, key: str) -> list[McpTool] | None:
        """A list that can still be believed."""
        known = self._lists.get(key)
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def keep(self, key: str, tools: list[McpTool]) -> None:
        """Remember a list."""
        self._lists[key] = time.monotonic() + self._kept, tools
        self._lists.move_to_end(key)
        if len(self._lists) > self._MOST:
            self._lists.popitem(last=False)
