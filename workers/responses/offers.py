"""Which tools a model is offered: the client's functions, the server's own, and MCP servers'."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from bus import ToolCatalogue
from schemas.api.hosted import free_name
from schemas.api.response_tools import (
    OWN_LABEL,
    Choice,
    CodeInterpreterTool,
    CustomTool,
    FileSearchTool,
    FunctionTool,
    McpTool,
    Tool,
    WebSearchTool,
)
from schemas.errors import InvalidRequest
from schemas.responses.chat import to_function
from schemas.responses.output import Item
from schemas.responses.story import Offer
from schemas.tool_options import PYTHON, McpHints
from schemas.tool_options import McpTool as ServersTool
from schemas.tools import Tool as ServerTool

MCP_QUEUE: Final = "mcp"

_ClientsTool = FunctionTool | CustomTool
_HOSTED: Final = {
    WebSearchTool: ("web_search", "web_search"),
    FileSearchTool: ("file_search", "file_search_query"),
    CodeInterpreterTool: ("code_interpreter", PYTHON),
}
_FREE_TEXT: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
_encode = msgspec.json.encode


class Listing(NamedTuple):
    """What came of asking an MCP server for its tools; `error`: it did not say."""

    label: str
    tools: Sequence[ServersTool]
    error: str | None = None

    def to_item(self) -> Item:
        """As an item of the output. What is not there has no field: clients refuse a null."""
        item: Item = {"type": "mcp_list_tools", "server_label": self.label}
        item["tools"] = [_to_told(tool) for tool in self.tools]
        return item if self.error is None else item | {"error": self.error}


def _to_told(tool: ServersTool) -> dict[str, Any]:
    told: dict[str, Any] = {"name": tool.name, "description": tool.description}
    told["input_schema"] = tool.input_schema
    return told if tool.annotations is None else told | {"annotations": tool.annotations}


def to_listing(item: Item) -> Listing:
    """Read the item that a listing was told as."""
    tools = [
        ServersTool(
            name=tool["name"],
            input_schema=msgspec.Raw(_encode(tool.get("input_schema") or {})),
            description=tool.get("description") or "",
            annotations=msgspec.convert(tool.get("annotations"), McpHints | None),
        )
        for tool in item["tools"]
    ]
    return Listing(item["server_label"], tools, item.get("error"))


class Offers:
    """The offers of one response, as `choice` lets them."""

    def __init__(self, catalogue: ToolCatalogue, choice: Choice) -> None:
        self._catalogue = catalogue
        self._choice = choice
        self._offers: dict[str, Offer] = {}

    @property
    def by_name(self) -> dict[str, Offer]:
        """All of them, by the names that the model calls them by."""
        return self._offers

    def to_list(self) -> list[Offer]:
        """All of them."""
        return list(self._offers.values())

    def add_all(self, tools: Sequence[Tool]) -> None:
        """Offer what a request's tools stand for: the client's first, as they keep their names.

        Raises InvalidRequest naming the tool that this server does not have.
        """
        named = [(f"tools[{at}]", tool) for at, tool in enumerate(tools)]
        for param, tool in sorted(named, key=lambda one: not isinstance(one[1], _ClientsTool)):
            self.add(tool, param)

    def add(self, tool: Tool, param: str) -> None:
        """Offer what a request's tool stands for; an MCP server's tools are asked for apart.

        Raises InvalidRequest if it is none that this server has.
        """
        match tool:
            case FunctionTool():
                self._add_function(tool)
            case CustomTool():
                told = {"name": tool.name, "description": tool.description or ""}
                definition = _to_definition(told | {"parameters": _FREE_TEXT})
                if self._choice.allows(tool.name):
                    self._put(Offer(tool.name, "custom", definition))
            case McpTool():
                if is_own(tool):
                    self._add_own(tool, param)
            case _:
                self._add_hosted(tool, param)

    def add_listed(self, tool: McpTool, listing: Listing) -> None:
        """Offer the tools that an MCP server has listed."""
        label, seen = tool.server_label, set[str]()
        for listed in listing.tools:
            name = listed.name
            if name in seen or not tool.allows(name) or not self._choice.allows("", label, name):
                continue
            seen.add(name)
            told = {"description": listed.description, "parameters": listed.input_schema}
            self._put(
                Offer(
                    free_name(name, label, self._offers),
                    "mcp",
                    msgspec.Raw(b""),
                    tool=name,
                    queue=MCP_QUEUE,
                    label=label,
                    approval=tool.asks_for(name),
                    idempotent=bool(listed.annotations and listed.annotations.read_only_hint),
                ),
                told,
            )

    def _add_function(self, tool: FunctionTool) -> None:
        if self._choice.allows(tool.name):
            definition = msgspec.Raw(_encode(to_function(tool)))
            self._put(Offer(tool.name, "function", definition))

    def _add_hosted(
        self, tool: WebSearchTool | FileSearchTool | CodeInterpreterTool, param: str
    ) -> None:
        kind, name = _HOSTED[type(tool)]
        found = self._require(name, f"{param}.type")
        if self._choice.allows(kind):
            options = msgspec.Raw(_encode(tool))
            told = {"description": found.description, "parameters": found.parameters}
            offered = free_name(kind, OWN_LABEL, self._offers)
            self._put(_to_offer(offered, kind, found, options), told)

    def _add_own(self, tool: McpTool, param: str) -> None:
        """Offer this server's own tools, or those of an MCP server that its operator has named."""
        prefix = "" if tool.server_label == OWN_LABEL else f"{tool.server_label}__"
        names = [name for name in self._catalogue.names() if name.startswith(prefix)]
        if prefix and not names:
            raise InvalidRequest(
                f"'{param}.server_label': there is no MCP server {tool.server_label!r} here, and "
                "the request names no server_url",
                param=f"{param}.server_label",
            )
        for name in names:
            shown = name.removeprefix(prefix)
            if tool.allows(shown) and self._choice.allows("", tool.server_label, shown):
                found = self._require(name, param)
                offer = _to_offer(
                    free_name(shown, tool.server_label, self._offers), "own", found, None, tool
                )
                told = {"description": found.description, "parameters": found.parameters}
                self._put(offer, told)

    def _require(self, name: str, param: str) -> ServerTool:
        found = self._catalogue.find(name)
        why = "is not served here" if found is None else found.unavailable
        if found is None or why:
            raise InvalidRequest(
                f"'{param}': the tool {name} can't be used: {why}",
                param=param,
                code="tool_unavailable",
            )
        return found

    def _put(self, offer: Offer, told: dict[str, Any] | None = None) -> None:
        if told is not None:
            definition = _to_definition({"name": offer.name} | told)
            offer = msgspec.structs.replace(offer, definition=definition)
        self._offers[offer.name] = offer


def is_own(tool: McpTool) -> bool:
    """Whether its tools are known without asking a server that the request names."""
    return tool.server_url is None


def _to_offer(
    name: str,
    kind: Any,
    tool: ServerTool,
    options: msgspec.Raw | None,
    server: McpTool | None = None,
) -> Offer:
    return Offer(
        name,
        kind,
        msgspec.Raw(b""),
        tool=tool.name,
        queue=tool.queue,
        label=server.server_label if server is not None else "",
        options=options,
        approval=server is not None and server.asks_for(tool.name),
        idempotent=tool.idempotent,
        timeout=tool.timeout,
    )


def _to_definition(function: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(_encode({"type": "function", "function": function}))
