"""The tools that can be called now, by all their names, and what operators say of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from bus.switches import Switches
from schemas.tools import CallTool
from workers.tools.tool import ServerTool

_MCP = "mcp"


class _Named(msgspec.Struct):
    server_url: str | None = None


def _names_server(options: bytes | msgspec.Raw | None) -> bool:
    try:
        named = None if options is None else msgspec.json.decode(options, type=_Named)
    except msgspec.DecodeError:
        return False
    return named is not None and named.server_url is not None


class Toolbox:
    """The built-in tools, and those that MCP servers have, which may change.

    `absent` says of a name that is not found why it may come back; empty: it may not.
    """

    def __init__(self, builtins: Mapping[str, ServerTool], queues: Sequence[str]) -> None:
        self._builtins = {
            name: tool for name, tool in builtins.items() if tool.about.queue in queues
        }
        self._remote: dict[str, ServerTool] = {}
        self._aliases = {alias: tool for tool in self for alias in tool.aliases}
        self.switches = Switches()
        self.absent: Callable[[str], str] = lambda _: ""

    def __iter__(self) -> Iterator[ServerTool]:
        yield from self._builtins.values()
        yield from self._remote.values()

    def find(self, name: str) -> ServerTool | None:
        """The tool with this name, or known by it too."""
        return self._builtins.get(name) or self._aliases.get(name) or self._remote.get(name)

    def find_for(self, job: CallTool) -> ServerTool | None:
        """The tool of a call: that of a server that its request names is not one of ours."""
        return self.find(_MCP if _names_server(job.options) else job.tool)

    def names(self) -> list[str]:
        """What a model may call, as far as it is switched on."""
        return sorted(
            tool.about.name
            for tool in self
            if tool.announced and self.switches.find(tool.about.name).enabled
        )

    def replace_remote(self, tools: Sequence[ServerTool]) -> None:
        """Have these tools of MCP servers from now on, in place of the earlier ones."""
        self._remote = {tool.about.name: tool for tool in tools}
