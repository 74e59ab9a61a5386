"""/v1/mcp-tools: the tools that can be called; /v1/admin/tools: all of them, and their switches."""

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bus import Bucket, ToolCatalogue
from edge.requests import answer_json, read_body
from edge.routes.admin import require_admin
from edge.state import EdgeState, state_of
from schemas import subjects
from schemas.api import tools as api
from schemas.commands import encode
from schemas.errors import BusError, BusUnavailable, Conflict, NotFound
from schemas.tools import Switch, Tool, decode_switch

_TRIES: Final = 5


async def list_tools(request: Request) -> Response:
    """GET /v1/mcp-tools: those that can be called, in the order of their names."""
    catalogue = state_of(request.scope)["tools"]
    data = [api.to_served(_find(catalogue, name)) for name in catalogue.names()]
    return answer_json(encode(api.ServedToolList(data=data)))


async def retrieve_tool(request: Request) -> Response:
    """GET /v1/mcp-tools/{name}."""
    tool = _find(state_of(request.scope)["tools"], request.path_params["name"])
    return answer_json(encode(api.to_served(tool)))


async def list_all(request: Request) -> Response:
    """GET /v1/admin/tools: also those that are off, or can't be used here."""
    require_admin(request.scope)
    catalogue = state_of(request.scope)["tools"]
    data = [api.to_admin(tool, catalogue.switch(tool.name)) for tool in catalogue.announced()]
    return answer_json(encode(api.AdminToolList(data=data)))


async def switch_tool(request: Request) -> Response:
    """PATCH /v1/admin/tools/{name}: what is named is so for everybody within moments."""
    require_admin(request.scope)
    state = state_of(request.scope)
    name = request.path_params["name"]
    tool = next((tool for tool in state["tools"].announced() if tool.name == name), None)
    if tool is None:
        raise _missing(name)
    update = await read_body(request, api.decode_update)
    switch = await _store(state, name, update)
    return answer_json(encode(api.to_admin(tool, switch)))


async def _store(state: EdgeState, name: str, update: api.UpdateTool) -> Switch:
    """Change the switch over what it is now, whoever else changes it."""
    bucket, key = Bucket(state["bus"], subjects.KV_TOOLS), subjects.SWITCH_KEYS + name
    for _ in range(_TRIES):
        try:
            entry = await bucket.get(key)
            switch = api.change(_read(entry.value) if entry is not None else Switch(), update)
            value = encode(switch)
            if entry is None:
                revision = await bucket.create(key, value)
            else:
                revision = await bucket.update(key, value, entry.revision)
        except Conflict:
            continue
        except BusError as error:
            raise BusUnavailable("the message bus did not store it", retry_after=1) from error
        state["tools"].on_change(key, value, revision)  # so that the next request finds it
        return switch
    raise Conflict(f"the tool {name} is being changed by others: look, and try again")


def _read(value: bytes) -> Switch:
    try:
        return decode_switch(value)
    except msgspec.DecodeError:
        return Switch(enabled=False)  # as it counts everywhere


def _find(catalogue: ToolCatalogue, name: str) -> Tool:
    tool = catalogue.find(name)
    if tool is None or tool.unavailable:
        raise _missing(name)
    return tool


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no tool {name[:100]!r}", param="name", code="unknown_tool")


_MCP_TOOLS: Final = "/v1/mcp-tools"
_ADMIN_TOOLS: Final = "/v1/admin/tools"
ROUTES: list[BaseRoute] = [
    Route(_MCP_TOOLS, list_tools, methods=["GET"]),
    Route(f"{_MCP_TOOLS}/{{name}}", retrieve_tool, methods=["GET"]),
    Route(_ADMIN_TOOLS, list_all, methods=["GET"]),
    Route(f"{_ADMIN_TOOLS}/{{name}}", switch_tool, methods=["PATCH"]),
]
