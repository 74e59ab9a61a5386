"""The WebSocket at /v1/responses, by Open Responses' rules: one response at a time on each.

A message `{"type": "response.create", …}` becomes a request of the HTTP application, with the
credentials of the handshake; its events become messages. So limits, errors and runs are the same.
What was said up to the last response is remembered as far as it is not stored, so that it can be
gone on with too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.responses.said import Said
from edge.state import state_of
from schemas import ids
from schemas.errors import InvalidRequest, JanError, NotFound

logger = structlog.get_logger()

PATHS: Final = frozenset({"/v1/responses", "/responses/v1/responses"})

_SECONDS: Final = 3600.0  # that a socket may be open
_HOP: Final = frozenset((b"connection", b"upgrade", b"content-length", b"content-type", b"te"))
_ELSEWHERE: Final = ("stream", "stream_options", "background")  # fields that only HTTP has
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_DATA: Final = b"data: "


class ResponsesSocket:
    """Serves WebSockets by what the HTTP application `app` answers, and all else by it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        await receive()  # websocket.connect
        try:
            if scope["path"] not in PATHS:
                raise NotFound(f"there is no WebSocket at {scope['path']}", code="unknown_route")
            state_of(scope)["authenticator"].authenticate(dict(scope["headers"]))
        except JanError as error:
            await _deny(error, send)
            return
        await send({"type": "websocket.accept"})
        await _Conversation(self._app, scope, receive, send).carry_on()


class _Conversation:
    """One open socket."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._last: Said | None = None
        self._at_work: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def carry_on(self) -> None:
        """Answer messages until the client goes, or its time is over."""
        try:
            async with asyncio.timeout(_SECONDS):
                while (message := await self._receive())["type"] == "websocket.receive":
                    await self._take(message)
        except TimeoutError:
            late = InvalidRequest(
                "the connection has been open for an hour: open another one",
                code="websocket_connection_limit_reached",
            )
            await self._refuse(late)
            await self._send({"type": "websocket.close", "code": 1000})
        finally:
            self._gone.set()
            if self._at_work is not None:
                await asyncio.wait([self._at_work])

    async def _take(self, message: Message) -> None:
        try:
            body = _to_body(message)
        except JanError as error:
            await self._refuse(error)
            return
        if self._at_work is not None and not self._at_work.done():
            busy = "a response is under way on this connection: wait for its end"
            await self._refuse(InvalidRequest(busy, code="response_in_progress"))
            return
        self._at_work = asyncio.create_task(self._respond(body))

    async def _respond(self, body: dict[str, msgspec.Raw]) -> None:
        """Have a response made, and pass its events on."""
        last, self._last = self._last, None  # one that fails can't be gone on with
        previous = _text(body.get("previous_response_id"))
        before = last if last is not None and last.response == previous else None
        request = msgspec.json.encode(body | {"stream": msgspec.Raw(b"true")})
        scope, answer = self._to_scope(before), _Answer(self._tell)
        await self._app(scope, self._to_receive(request), answer.on_message)
        if answer.status != 200:
            await self._tell_error(answer.status, bytes(answer.body))
        self._last = state_of(scope).get("said")

    def _to_scope(self, before: Said | None) -> Scope:
        headers = [
            item
            for item in self._scope["headers"]
            if item[0] not in _HOP and not item[0].startswith(b"sec-websocket")
        ]
        headers.append((b"content-type", b"application/json"))
        return {
            "type": "http",
            "asgi": self._scope["asgi"],
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/responses",
            "raw_path": b"/v1/responses",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": self._scope.get("client"),
            "server": self._scope.get("server"),
            "state": dict(self._scope["state"]) | {"said_before": before},
        }

    def _to_receive(self, body: bytes) -> Receive:
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        return receive

    async def _tell(self, event: bytes) -> None:
        if not self._gone.is_set():
            await self._send({"type": "websocket.send", "text": event.decode()})

    async def _refuse(self, error: JanError) -> None:
        await self._tell_error(error.http_status, error.to_wire(ids.new_id("req_")))

    async def _tell_error(self, status: int, envelope: bytes) -> None:
        told = msgspec.json.decode(envelope)
        await self._tell(msgspec.json.encode({"type": "error", "status": status} | told))


class _Answer:
    """What the HTTP application answers: events, each told at once, or an error."""

    def __init__(self, tell: Callable[[bytes], Awaitable[None]]) -> None:
        self.status = 500
        self.body = bytearray()
        self._tell = tell

    async def on_message(self, message: Message) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.body += message.get("body", b"")
        if self.status != 200:
            return
        *whole, rest = bytes(self.body).split(b"\n\n")
        self.body[:] = rest
        for block in whole:
            for line in block.split(b"\n"):
                if line.startswith(_DATA):
                    await self._tell(line[len(_DATA) :])


def _to_body(message: Message) -> dict[str, msgspec.Raw]:
    """Read a message. Raises InvalidRequest."""
    text = message.get("text") or message.get("bytes") or b""
    try:
        body = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest("a message is a JSON object", code="invalid_json") from None
    if _text(body.pop("type", None)) != "response.create":
        raise InvalidRequest("'type' is response.create", param="type")
    for name in _ELSEWHERE:
        if name in body:
            raise InvalidRequest(f"'{name}' has no meaning on a WebSocket", param=name)
    return body


def _text(raw: msgspec.Raw | None) -> str | None:
    found = msgspec.json.decode(raw) if raw is not None else None
    return found if isinstance(found, str) else None


async def _deny(error: JanError, send: Send) -> None:
    """Refuse a handshake, in the one envelope."""
    request_id = ids.new_id("req_")
    body = error.to_wire(request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"x-request-id", request_id.encode()),
        (b"content-length", b"%d" % len(body)),
        *getattr(error, "headers", ()),
    ]
    start = "websocket.http.response.start"
    await send({"type": start, "status": error.http_status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
