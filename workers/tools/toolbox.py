"""The tools that can be called now, by all their names, and what operators say of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import structlog

from schemas.tools import CallTool, Switch, decode_switch
from workers.tools.tool import ServerTool

logger = structlog.get_logger()

_ON = Switch()
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
        self._switches: dict[str, Switch] = {}
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
            if tool.announced and self.switch(tool.about.name).enabled
        )

    def replace_remote(self, tools: Sequence[ServerTool]) -> None:
        """Have these tools of MCP servers from now on, in place of the earlier ones."""
        self._remote = {tool.about.name: tool for tool in tools}

    def switch(self, name: str) -> Switch:
        """What an operator says of a tool."""
        return self._switches.get(name, _ON)

    def set_switch(self, name: str, value: bytes | None) -> None:
        """Take what an operator says now; what can't be read leaves the tool switched off."""
        if value is None:
            self._switches.pop(name, None)
            return
        try:
            self._switches[name] = decode_switch(value)
        except msgspec.DecodeError as error:
            logger.warning("a switch can't be read: its tool is off", tool=name, error=str(error))
            self._switches[name] = Switch(enabled=False)
