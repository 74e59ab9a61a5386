"""`tools/list` and `tools/call`: a call is a message to the worker of tools like any other."""

import hashlib
from typing import Any, Final

import mcp_types as types
import msgspec
from mcp import MCPError
from mcp_types import INVALID_PARAMS

from bus import ToolCatalogue
from edge.generation import to_caller
from edge.mcp.errors import Context, scope_of
from edge.mcp.resources import to_link
from edge.state import state_of
from schemas.commands import encode
from schemas.tool_options import McpHints
from schemas.tools import Progress, Tool, ToolResult

SESSION: Final = b"mcp-session-id"


async def list_tools(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    """All tools that can be called now, in the order of their names; there is one page."""
    if params is not None and params.cursor is not None:
        raise MCPError(INVALID_PARAMS, "'cursor' is none that this server has given")
    catalogue = state_of(scope_of(context))["tools"]
    found = [catalogue.find(name) for name in catalogue.names()]
    return types.ListToolsResult(tools=[_to_tool(tool) for tool in found if tool is not None])


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    """Call a tool; its progress is told meanwhile if the client has asked for that."""
    scope = scope_of(context)
    state, caller = state_of(scope), to_caller(scope)
    told = float("-inf")

    async def on_progress(progress: Progress) -> None:
        nonlocal told
        if progress.progress > told:  # it only grows; a tool that is tried again begins anew
            told = progress.progress
            await context.session.report_progress(told, progress.total, progress.message or None)

    known_as = None
    if context.request_id is not None:
        known_as = to_known(caller.principal, dict(scope["headers"]), context.request_id)
    result = await state["tool_calls"].call(
        params.name, encode(params.arguments or {}), caller, on_progress, known_as=known_as
    )
    return _to_result(result, state["tools"].find(params.name))


def to_known(
    principal: str, headers: dict[bytes, bytes], request_id: types.RequestId
) -> str | None:
    """The name of one of a client's requests; None without a session: ids are unique in one."""
    session = headers.get(SESSION)
    if not session:
        return None
    return hashlib.sha256(encode([principal, session.decode("latin-1"), request_id])).hexdigest()


def input_schema_of(catalogue: ToolCatalogue, name: str) -> dict[str, Any] | None:
    """The schema of a tool's arguments, for those that headers repeat."""
    tool = catalogue.find(name)
    return None if tool is None else _read_schema(tool.parameters)


def _to_tool(tool: Tool) -> types.Tool:
    """A tool as the protocol has it: one that is described otherwise must not spoil the list."""
    output = _read_schema(tool.output) if tool.output is not None else {}
    return types.Tool(
        name=tool.name,
        title=tool.title or None,
        description=tool.description,
        input_schema=_read_schema(tool.parameters) | {"type": "object"},
        output_schema=output if _is_of_object(output) else None,
        annotations=_to_annotations(tool),
    )


def _to_annotations(tool: Tool) -> types.ToolAnnotations:
    hints = tool.hints or McpHints()
    return types.ToolAnnotations(
        title=hints.title or tool.title or None,
        read_only_hint=hints.read_only_hint,
        destructive_hint=hints.destructive_hint,
        idempotent_hint=tool.idempotent,
        open_world_hint=hints.open_world_hint,
    )


def _to_result(result: ToolResult, tool: Tool | None) -> types.CallToolResult:
    """The result; one that should have a structured form and has none is no good one."""
    structured = None if result.structured is None else msgspec.json.decode(result.structured)
    if not isinstance(structured, dict):
        structured = None  # the older version knows objects only
    output = _read_schema(tool.output) if tool is not None and tool.output is not None else {}
    lacking = structured is None and _is_of_object(output)
    return types.CallToolResult(
        content=[types.TextContent(text=result.output), *map(to_link, result.artifacts)],
        structured_content=structured,
        is_error=result.status != "completed" or lacking,
    )


def _is_of_object(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object"


def _read_schema(schema: msgspec.Raw) -> dict[str, Any]:
    return msgspec.json.decode(schema, type=dict[str, Any])
