"""A request at /mcp, before and after the SDK: whom it comes from, what it calls off.

Nothing is kept of a client. The session id that one gets when it initializes only tells its request
ids from those of the same user's other clients, so that it can cancel what waits here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from sse_starlette.sse import AppStatus
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from edge.generation import read_body
from edge.mcp.checks import Fault, find_fault
from edge.mcp.errors import is_modern, to_wire
from edge.mcp.guard import Guard
from edge.mcp.server import MAX_BODY
from edge.mcp.tools import SESSION, to_known
from edge.state import state_of
from edge.tool_calls import ToolCalls
from schemas import ids
from schemas.errors import BodyTooLarge

_LOOKED_AT: Final = (b'"initialize"', b'"notifications/cancelled"')


class _Cancelled(msgspec.Struct):
    request_id: int | str | None = msgspec.field(name="requestId", default=None)


class _Message(msgspec.Struct):
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_cancelled = msgspec.json.Decoder(_Cancelled).decode


class Endpoint:
    """Answers requests. Made by `open_endpoint`."""

    def __init__(
        self, manager: StreamableHTTPSessionManager, calls: ToolCalls, guard: Guard
    ) -> None:
        self._manager = manager
        self._calls = calls
        self._guard = guard

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises Forbidden, BodyTooLarge."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self._guard.check(headers)
        body = await read_body(receive)
        if body is None:
            return
        if len(body) > MAX_BODY:
            raise BodyTooLarge(f"the body is larger than {MAX_BODY} bytes")
        fault = find_fault(body)
        if fault is not None:
            await _to_refusal(fault, headers)(scope, receive, send)
            return
        if any(method in body for method in _LOOKED_AT):
            match _read_message(body):
                case _Message(method="initialize"):
                    send = _with_session(send)
                case _Message(method="notifications/cancelled", params=params):
                    self._cancel(scope, headers, params)
        await self._manager.handle_request(scope, _replay(body, receive), send)

    def _cancel(self, scope: Scope, headers: dict[bytes, bytes], params: msgspec.Raw) -> None:
        try:
            request_id = _decode_cancelled(params).request_id
        except msgspec.DecodeError:
            return
        if request_id is not None:
            known = to_known(state_of(scope)["principal"].id, headers, request_id)
            if known is not None:
                self._calls.cancel(known)


@asynccontextmanager
async def open_endpoint(
    manager: StreamableHTTPSessionManager, calls: ToolCalls, guard: Guard
) -> AsyncIterator[Endpoint]:
    """Answer for the context's life; leaving it ends what is not answered yet."""
    # The SDK's streams would be cut off at once when the server is told to stop.
    AppStatus.enable_automatic_graceful_drain = False
    async with manager.run():
        yield Endpoint(manager, calls, guard)


def _to_refusal(fault: Fault, headers: dict[bytes, bytes]) -> Response:
    """Say it as the protocol does: before 2026-07-28 a fault is the answer of a good request."""
    status = 400 if fault.answers is None or is_modern(headers) else 200
    body = to_wire(fault.error, None, fault.answers)
    return Response(body, status, media_type="application/json")


def _read_message(body: bytes) -> _Message | None:
    try:
        return _decode_message(body)
    except (msgspec.DecodeError, RecursionError):
        return None  # the SDK says what is wrong with it


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more, then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def _with_session(send: Send) -> Send:
    async def send_with_session(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            session = ids.new_id("mcp_").encode()
            message["headers"] = [*message.get("headers", ()), (SESSION, session)]
        await send(message)

    return send_with_session
