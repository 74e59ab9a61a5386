"""The tools that a response's request names, and which of them the model may call."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.api.decoding import to_invalid_request
from schemas.errors import InvalidRequest
from schemas.filters import Filter, require_sound

ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Label = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
_Header = Annotated[str, Meta(max_length=8192)]

OWN_LABEL: Final = "jan"
"""The `server_label` of an MCP tool that means this server's own tools."""

HIDDEN: Final = "***"  # in place of what only the request itself may say


class _Tool(Struct, omit_defaults=True, tag_field="type"):
    def to_wire(self) -> Any:
        """As the response shows it."""
        return self


class FunctionTool(_Tool, tag="function"):
    """A function of the client's."""

    name: ToolName
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None

    def to_wire(self) -> Any:
        """As the response shows it: `strict` and `parameters` are always there."""
        told = {"type": "function", "name": self.name, "description": self.description}
        return told | {"parameters": self.parameters, "strict": self.strict is not False}


class CustomTool(_Tool, tag="custom"):
    """A tool of the client's that takes free text."""

    name: ToolName
    description: str | None = None
    format: dict[str, Any] | None = None


class SearchFilters(Struct, omit_defaults=True):
    """Which pages a search may find."""

    allowed_domains: Annotated[list[str], Meta(max_length=100)] | None = None


class UserLocation(Struct, omit_defaults=True):
    """Where the user is, more or less."""

    type: Literal["approximate"] = "approximate"
    city: str | None = None
    country: str | None = None
    region: str | None = None
    timezone: str | None = None


class WebSearchTool(_Tool, tag="web_search"):
    """Search the web."""

    filters: SearchFilters | None = None
    user_location: UserLocation | None = None
    search_context_size: Literal["low", "medium", "high"] | None = None


class FileSearchTool(_Tool, tag="file_search"):
    """Search the caller's files."""

    vector_store_ids: Annotated[list[str], Meta(max_length=16)] = []
    max_num_results: Annotated[int, Meta(ge=1, le=50)] | None = None
    filters: Filter | None = None
    ranking_options: dict[str, Any] | None = None


class Container(Struct, omit_defaults=True):
    """Where code runs."""

    type: Literal["auto"]
    file_ids: Annotated[list[str], Meta(max_length=50)] | None = None
    memory_limit: str | None = None


class CodeInterpreterTool(_Tool, tag="code_interpreter"):
    """Run Python."""

    container: str | Container | None = None


class ToolNames(Struct, omit_defaults=True):
    """Some of a server's tools."""

    tool_names: list[str] | None = None
    read_only: bool | None = None


class Approval(Struct, omit_defaults=True):
    """For which tools the client is asked, and for which never."""

    always: ToolNames | None = None
    never: ToolNames | None = None


class McpTool(_Tool, tag="mcp"):
    """The tools of an MCP server; with the label `jan` and no address, of this server."""

    server_label: Label
    server_url: Annotated[str, Meta(max_length=2048)] | None = None
    connector_id: str | None = None
    server_description: str | None = None
    authorization: _Header | None = None
    headers: Annotated[dict[str, _Header], Meta(max_length=32)] | None = None
    allowed_tools: Annotated[list[str], Meta(max_length=256)] | ToolNames | None = None
    require_approval: Literal["always", "never"] | Approval | None = None

    def to_wire(self) -> Any:
        """As the response shows it, without its secrets."""
        headers = dict.fromkeys(self.headers, HIDDEN) if self.headers else self.headers
        return msgspec.structs.replace(self, authorization=None, headers=headers)

    def allows(self, name: str) -> bool:
        """Whether the model may call this one of the server's tools."""
        allowed = self.allowed_tools
        names = allowed.tool_names if isinstance(allowed, ToolNames) else allowed
        return names is None or name in names

    def asks_for(self, name: str) -> bool:
        """Whether the client is asked before it is called; of this server's own, if it says so."""
        said = self.require_approval
        if not isinstance(said, Approval):
            return said == "always" or (said is None and self.server_label != OWN_LABEL)
        if said.never is not None and name in (said.never.tool_names or ()):
            return False
        always = said.always
        return always is None or always.tool_names is None or name in always.tool_names


Tool = FunctionTool | CustomTool | WebSearchTool | FileSearchTool | CodeInterpreterTool | McpTool

_ALIASES: Final = {
    "web_search_preview": "web_search",
    "web_search_2025_08_26": "web_search",
    "web_search_preview_2025_03_11": "web_search",
}
_KINDS: Final[dict[str, type[Struct]]] = {
    "function": FunctionTool,
    "custom": CustomTool,
    "web_search": WebSearchTool,
    "file_search": FileSearchTool,
    "code_interpreter": CodeInterpreterTool,
    "mcp": McpTool,
}
_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    name: msgspec.json.Decoder(kind).decode for name, kind in _KINDS.items()
}


class _Typed(Struct):
    type: str


_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_type = msgspec.json.Decoder(_Typed).decode


def to_tools(given: list[msgspec.Raw]) -> list[Tool]:
    """Read a request's tools. Raises InvalidRequest naming the field."""
    tools = [_to_tool(bytes(raw), f"tools[{at}]") for at, raw in enumerate(given)]
    names = [tool.name for tool in tools if isinstance(tool, FunctionTool | CustomTool)]
    labels = [tool.server_label for tool in tools if isinstance(tool, McpTool)]
    for found in (names, labels):
        for name in found:
            if found.count(name) > 1:
                raise InvalidRequest(f"'tools' has {name!r} twice", param="tools")
    return tools


def _to_tool(raw: bytes, param: str) -> Tool:
    try:
        kind = _decode_type(raw).type
        name = _ALIASES.get(kind, kind)
        if name not in _DECODERS:
            raise InvalidRequest(
                f"'{param}.type': this server has no tool of the type {kind[:64]!r}",
                param=f"{param}.type",
                code="unsupported_tool",
            )
        if name != kind:
            raw = msgspec.json.encode(_split(raw) | {"type": msgspec.Raw(b'"%b"' % name.encode())})
        tool: Tool = _DECODERS[name](raw)
    except msgspec.ValidationError as error:
        found = to_invalid_request(str(error))
        path = f"{param}.{found.param}" if found.param else param
        message = found.message.replace(f"'{found.param}'", f"'{path}'", 1)
        raise InvalidRequest(
            message.replace("the body", f"'{param}'", 1), param=path, code=found.code
        ) from None
    except RecursionError:
        raise InvalidRequest(f"'{param}' is nested too deeply", param=param) from None
    if isinstance(tool, McpTool):
        _check_server(tool, param)
    if isinstance(tool, FileSearchTool) and tool.filters is not None:
        require_sound(tool.filters, f"{param}.filters")
    return tool


def _check_server(tool: McpTool, param: str) -> None:
    if tool.connector_id is not None:
        raise InvalidRequest(
            f"'{param}.connector_id': this server has no connectors: name a server_url",
            param=f"{param}.connector_id",
        )
    own = tool.server_label == OWN_LABEL
    if own and tool.server_url is not None:
        raise InvalidRequest(
            f"'{param}.server_label': {OWN_LABEL!r} is this server itself",
            param=f"{param}.server_label",
        )


class Choice(Struct, omit_defaults=True):
    """Which tools the model may call (`names` and `labels`; None: all), and whether it must.

    `names` are those of functions and the types of hosted tools; `labels` those of MCP servers,
    each with one of its tools or None for all of them.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    names: frozenset[str] | None = None
    labels: dict[str, frozenset[str] | None] | None = None
    wire: msgspec.Raw | None = None  # as the request had it, if it was an object

    def to_wire(self) -> Any:
        """As the response shows it."""
        return self.wire if self.wire is not None else self.mode

    def allows(self, name: str, label: str = "", tool: str = "") -> bool:
        """Whether it lets the model call this one."""
        if self.names is None and self.labels is None:
            return True
        if not label:
            return name in (self.names or ())
        if self.labels is None or label not in self.labels:
            return False
        allowed = self.labels[label]
        return allowed is None or tool in allowed


class _Chosen(Struct):
    type: str
    name: str | None = None
    server_label: str | None = None


class _Allowed(Struct):
    mode: Literal["auto", "required"]
    tools: Annotated[list[_Chosen], Meta(max_length=128)]


_decode_mode = msgspec.json.Decoder(Literal["none", "auto", "required"]).decode
_decode_chosen = msgspec.json.Decoder(_Chosen).decode
_decode_allowed = msgspec.json.Decoder(_Allowed).decode


def to_choice(given: msgspec.Raw | None) -> Choice:
    """Read `tool_choice`. Raises InvalidRequest naming the field."""
    if given is None or bytes(given) == b"null":
        return Choice()
    raw = bytes(given)
    try:
        if raw[:1] != b"{":
            return Choice(_decode_mode(raw))
        chosen = _decode_chosen(raw)
        if chosen.type == "allowed_tools":
            allowed = _decode_allowed(raw)
            return _to_choice(allowed.mode, allowed.tools, given)
        return _to_choice("required", [chosen], given)
    except msgspec.ValidationError as error:
        found = to_invalid_request(str(error))
        path = f"tool_choice.{found.param}" if found.param else "tool_choice"
        message = found.message.replace(f"'{found.param}'", f"'{path}'", 1)
        raise InvalidRequest(
            message.replace("the body", "'tool_choice'", 1), param=path, code=found.code
        ) from None


def require_offered(choice: Choice, tools: Sequence[Tool]) -> None:
    """Refuse a choice of what `tools` do not have. Raises InvalidRequest."""
    labels = {tool.server_label for tool in tools if isinstance(tool, McpTool)}
    names = {_name_of(tool) for tool in tools if not isinstance(tool, McpTool)}
    chosen = {*(choice.names or ()), *(choice.labels or ())}
    if choice.mode == "required" and not tools:
        message = "'tool_choice' wants a call, and there are no 'tools'"
        raise InvalidRequest(message, param="tool_choice")
    if unknown := sorted(chosen - names - labels):
        message = f"'tool_choice' names {unknown[0][:64]!r}, which is not in 'tools'"
        raise InvalidRequest(message, param="tool_choice")


def _name_of(tool: Tool) -> str:
    """What a choice calls it: a function's own name, or the type."""
    if isinstance(tool, FunctionTool | CustomTool):
        return tool.name
    return str(tool.__struct_config__.tag)


def _to_choice(
    mode: Literal["auto", "required"], chosen: list[_Chosen], given: msgspec.Raw
) -> Choice:
    names: set[str] = set()
    labels: dict[str, frozenset[str] | None] = {}
    for one in chosen:
        if one.type == "mcp":
            if one.server_label is None:
                raise InvalidRequest(
                    "'tool_choice.server_label' is required", param="tool_choice.server_label"
                )
            before = labels.get(one.server_label, frozenset())
            tool = None if one.name is None or before is None else before | {one.name}
            labels[one.server_label] = tool
        elif one.type in ("function", "custom"):
            if one.name is None:
                raise InvalidRequest("'tool_choice.name' is required", param="tool_choice.name")
            names.add(one.name)
        elif _ALIASES.get(one.type, one.type) in _KINDS:
            names.add(_ALIASES.get(one.type, one.type))
        else:
            raise InvalidRequest(
                f"'tool_choice.type': there is no {one.type[:64]!r}", param="tool_choice.type"
            )
    return Choice(mode, frozenset(names), labels, given)
