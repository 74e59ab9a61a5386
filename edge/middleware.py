"""What every request passes through, each a pure ASGI wrapper; their order is in edge/app.py.

Only Envelope wraps `send`: everything else would cost a call for each token.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import parse_qsl

import structlog
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.errors import Headers, send_error, to_error
from edge.mcp import metadata
from edge.mcp.errors import to_wire as to_json_rpc_error
from edge.messages.errors import to_wire as to_messages_error
from edge.state import state_of
from schemas import ids
from schemas.errors import (
    BodyTooLarge,
    BusUnavailable,
    InvalidRequest,
    JanError,
    MethodNotAllowed,
)

logger = structlog.get_logger()

_ID_LENGTH: Final = 128
_PREFIXES: Final = ("/llm", "/responses", "/media", "/mcp")
_PUBLIC: Final = ("/v1/openapi.json", "/v1/swagger", "/v1/public/")
_WITHOUT_BUS: Final = ("/v1/models",)
_MESSAGES: Final = "/v1/messages"  # whose clients read errors and request ids in their own way
_UNLIMITED: Final = ("/cancel",)
_IDENTITY: Final = (  # what gateways tell their services; from a client it is a lie
    b"x-user-",
    b"x-principal-",
    b"x-auth-",
    b"x-scopes",
    b"x-consumer-",
    b"x-credential-",
    b"x-authenticated-",
    b"x-anonymous-",
    b"x-gateway-",
)
_ONCE: Final = frozenset(
    (b"host", b"authorization", b"x-api-key", b"idempotency-key", b"last-event-id")
)
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Envelope:
    """Give every request its id, every answer its headers, and both their measure."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = first = time.perf_counter()
        status = 500
        state = state_of(scope)
        given: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _request_id(given.get(b"x-request-id"))
        state["request_id"] = request_id
        state["traceparent"] = traceparent = _traceparent(given.get(b"traceparent"))

        async def send_with_headers(message: Message) -> None:
            nonlocal first, status
            if message["type"] == "http.response.start":
                first = time.perf_counter()
                status = message["status"]
                state["answered"] = True
                headers: Headers = list(message.get("headers", ()))
                message["headers"] = headers
                headers.append((b"x-request-id", request_id.encode()))
                if scope["path"].startswith(_MESSAGES):
                    headers.append((b"request-id", request_id.encode()))
                if traceparent is not None:
                    headers.append((b"traceparent", traceparent.encode()))
                if (principal := state.get("principal")) is not None:
                    headers += principal.headers
                    if b"openai-processing-ms" not in dict(headers):
                        spent = b"%d" % ((first - started) * 1000)
                        headers.append((b"openai-processing-ms", spent))
                if (standing := state.get("standing")) is not None:
                    headers += standing.headers
            await send(message)

        metrics = state["metrics"]
        metrics.in_flight += 1
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            metrics.in_flight -= 1
            route = scope.get("route")
            name = route.path if route is not None else "unknown"
            whole = time.perf_counter() - started
            metrics.request(name, scope["method"], status, first - started, whole)


class Errors:
    """Turn what is raised into an answer in the one envelope."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["app"] = self  # or Starlette would answer wrong methods itself, in its own words
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as exception:  # the one handler of the edge
            error = to_error(exception, scope)
            if state_of(scope).get("answered"):
                return  # too late to tell: an answer without its end is cut off
            headers: Headers = list(getattr(error, "headers", ()))
            if isinstance(error, MethodNotAllowed):
                headers = [(b"allow", self._methods(scope))]
            request_id = state_of(scope).get("request_id")
            encode, challenge = _encoder_for(scope["path"]), _challenge_for(scope)
            await send_error(error, request_id, send, headers, encode=encode, challenge=challenge)

    def _methods(self, scope: Scope) -> bytes:
        methods: set[str] = set()
        for route in self.routes:
            if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
                methods |= route.methods or set()
        # Where no route is, it was a file.
        return ", ".join(sorted(methods or {"GET", "HEAD"})).encode()


class Hygiene:
    """Make requests what routes may rely on: their path, no forged identity, no endless body."""

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path: str = scope["path"]
        if path.startswith(_PREFIXES):
            start = path.find("/", 1)
            if path[:start] in _PREFIXES and path.startswith("/v1/", start):
                scope["path"] = path[start:]
        if "\0" in path or b"%00" in scope["query_string"]:
            _refuse_nul(scope)
        headers: Headers = [item for item in scope["headers"] if not item[0].startswith(_IDENTITY)]
        scope["headers"] = headers
        names = dict(headers)
        if len(names) < len(headers):
            _refuse_repeats(headers)
        length = names.get(b"content-length")
        if length is not None and int(length) > self.max_body:
            raise self._too_large()
        if b"transfer-encoding" in names:
            receive = self._counting(receive)
        await self.app(scope, receive, send)

    def _counting(self, receive: Receive) -> Receive:
        size = 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body:
                raise self._too_large()
            return message

        return receive_some

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self.max_body} bytes")


class Authentication:
    """Let nobody into /v1 and /mcp unknown, and nobody in at all while the bus is away."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path: str = scope["path"]
        is_closed = path.startswith("/v1/") and not path.startswith(_PUBLIC)
        if is_closed or metadata.is_mcp(path):
            state = state_of(scope)
            state["principal"] = state["authenticator"].authenticate(dict(scope["headers"]))
            if not state["bus"].connected and not path.startswith(_WITHOUT_BUS):
                raise BusUnavailable("the message bus can't be reached", retry_after=1)
        await self.app(scope, receive, send)


class Limiting:
    """Hold principals to their limits. To stop something is always allowed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        state = state_of(scope)
        principal = state.get("principal")
        limited = principal is not None and (principal.rpm or principal.in_flight)
        if principal is None or not limited or scope["path"].endswith(_UNLIMITED):
            await self.app(scope, receive, send)
            return
        limits = state["limits"]
        standing = state["standing"] = limits.enter(principal)
        try:
            await self.app(scope, receive, send)
        finally:
            limits.leave(standing)


def _refuse_nul(scope: Scope) -> None:
    """Refuse the character that no column of the database holds. Raises InvalidRequest."""
    fields = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name, text in [("path", scope["path"]), *fields]:
        if "\0" in name + text:
            param = name.replace("\0", "")
            raise InvalidRequest(f"'{param}' contains the NUL character", param=param)


def _encoder_for(path: str) -> Callable[[JanError, str | None], bytes]:
    if path.startswith(_MESSAGES):
        return to_messages_error
    return to_json_rpc_error if metadata.is_mcp(path) else JanError.to_wire


def _challenge_for(scope: Scope) -> bytes:
    """Where a client that speaks MCP is told how to get a credential."""
    if not metadata.is_mcp(scope["path"]):
        return b""
    public_url = state_of(scope)["settings"].public_url
    base = metadata.base_of(scope["scheme"], dict(scope["headers"]), public_url)
    return metadata.to_challenge(base, scope["path"])


def _refuse_repeats(headers: Headers) -> None:
    """Refuse two values where there is one: whoever stands before us may have believed the other.

    Raises InvalidRequest.
    """
    repeated = [name for name, count in Counter(name for name, _ in headers).items() if count > 1]
    for name in repeated:
        if name in _ONCE:
            title = name.decode().title()
            raise InvalidRequest(
                f"the header {title} was given more than once", param=title, code="repeated_header"
            )


def _traceparent(given: bytes | None) -> str | None:
    """Take the client's trace context if it is one (W3C); else there is none."""
    return given.decode("ascii") if given and _TRACEPARENT.fullmatch(given) else None


def _request_id(given: bytes | None) -> str:
    """Take the client's id if it is fit to be logged and sent back; else make one."""
    if given and len(given) <= _ID_LENGTH and given.isascii():
        text = given.decode("ascii")
        if text.isprintable():
            return text
    return ids.new_id("req_")
