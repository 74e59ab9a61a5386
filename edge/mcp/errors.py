"""Errors as JSON-RPC has them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
import structlog
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.types import Scope

from schemas.errors import BusError, Cancelled, InvalidRequest, JanError, NotFound

logger = structlog.get_logger()

Context = ServerRequestContext[Any, Any]
ParamsT = TypeVar("ParamsT")
ResultT = TypeVar("ResultT")
Handler = Callable[[Context, ParamsT], Awaitable[ResultT]]

_PAGED: Final = {"after": "cursor"}
_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "resources/list": _PAGED,
    "prompts/list": _PAGED,
    "prompts/get": {"id": "name", "variables": "arguments"},
}
_CANCELLED: Final = -32800
_RESOURCE_NOT_FOUND: Final = -32002  # before 2026-07-28; then it is a wrong parameter


def scope_of(context: Context) -> Scope:
    """The request that a handler is called for; its state has all that there is to work with."""
    assert context.request is not None, "only HTTP is served"
    scope: Scope = context.request.scope
    return scope


def in_protocol(handler: Handler[ParamsT, ResultT]) -> Handler[ParamsT, ResultT]:
    """Have a handler's errors told as the protocol does; what nobody foresaw says no more."""

    async def handle(context: Context, params: ParamsT) -> ResultT:
        try:
            return await handler(context, params)
        except MCPError:
            raise
        except BusError as error:
            raise MCPError(INTERNAL_ERROR, "the message bus did not answer") from error
        except JanError as error:
            told = _in_its_words(error, context.method)
            raise MCPError(_code_of(told), told.message, _data_of(told)) from error
        except Exception as error:
            logger.exception("request failed", method=context.method)
            raise MCPError(INTERNAL_ERROR, "the server failed") from error

    return handle


def missing_resource(context: Context, uri: str) -> MCPError:
    """Say that there is no such resource, as this version of the protocol does."""
    modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
    code = INVALID_PARAMS if modern else _RESOURCE_NOT_FOUND
    return MCPError(code, "there is no such resource", {"uri": uri})


def to_wire(error: JanError, request_id: str | None, answers: int | str | None = None) -> bytes:
    """Encode an error that came before the SDK saw the request.

    `answers` is that request's id, if it has come so far: then its parameters are at fault.
    """
    code = INVALID_REQUEST if error.http_status < 500 else INTERNAL_ERROR
    code = code if answers is None else INVALID_PARAMS
    told = {"code": code, "message": error.message, "data": _data_of(error, request_id)}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": answers, "error": told})


def is_modern(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is one of the protocol's newer versions."""
    version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    return version in MODERN_PROTOCOL_VERSIONS


def _in_its_words(error: JanError, method: str) -> JanError:
    """An error about a field that has another name here than where it was checked."""
    name = _NAMES.get(method, {}).get(error.param or "")
    if name is None:
        return error
    message = error.message.replace(f"'{error.param}'", f"'params.{name}'", 1)
    return InvalidRequest(message, param=f"params.{name}", code=error.code)


def _code_of(error: JanError) -> int:
    match error:
        case NotFound() | InvalidRequest():
            return INVALID_PARAMS
        case Cancelled():
            return _CANCELLED
        case _:
            return INTERNAL_ERROR


def _data_of(error: JanError, request_id: str | None = None) -> dict[str, Any]:
    told = {
        "type": error.wire_type,
        "code": error.wire_code,
        "param": error.param,
        "retry_after": error.retry_after,
        "request_id": request_id,
    }
    return {name: value for name, value in told.items() if value is not None}
