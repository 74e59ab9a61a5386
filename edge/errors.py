"""The one place where an exception becomes an answer."""

import math
from collections.abc import Callable

import structlog
from starlette.exceptions import HTTPException
from starlette.types import Scope, Send

from schemas.errors import (
    BusError,
    BusUnavailable,
    InternalError,
    InvalidRequest,
    JanError,
    MethodNotAllowed,
    NotFound,
)

logger = structlog.get_logger()

Headers = list[tuple[bytes, bytes]]


def to_error(exception: Exception, scope: Scope) -> JanError:
    """Say in our own terms what went wrong; what nobody foresaw is logged and told as a 500."""
    match exception:
        case BusError():
            return BusUnavailable("the message bus did not answer", retry_after=1)
        case JanError():
            return exception
        case HTTPException(status_code=405):
            return MethodNotAllowed(f"{scope['path']} does not take {scope['method']}")
        case HTTPException(status_code=404):
            return unknown_route(scope)
        case HTTPException() if exception.status_code < 500:
            return InvalidRequest(exception.detail, status=exception.status_code)
        case _:
            logger.error(
                "request failed",
                request_id=scope["state"].get("request_id"),
                path=scope["path"],
                exc_info=exception,
            )
            return InternalError("the server failed; the request id says where to look")


def unknown_route(scope: Scope) -> NotFound:
    """Say that nothing is served at the path."""
    return NotFound(f"there is no route {scope['method']} {scope['path']}", code="unknown_route")


async def send_error(
    error: JanError,
    request_id: str | None,
    send: Send,
    headers: Headers | None = None,
    *,
    encode: Callable[[JanError, str | None], bytes] = JanError.to_wire,
    challenge: bytes = b"",
) -> None:
    """Answer with an error's status, its envelope and what its headers say.

    `challenge` is added to how one may prove who one is.
    """
    body = encode(error, request_id)
    told = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *headers_of(error, challenge),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": error.http_status, "headers": told})
    await send({"type": "http.response.body", "body": body})


def headers_of(error: JanError, challenge: bytes = b"") -> Headers:
    """When to come back, whether to, and how to prove who one is."""
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(error.retry_after * 1000)))
    if error.http_status in (409, 504):
        # The SDKs would try these again by themselves.
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    if error.http_status == 401:
        headers.append((b"www-authenticate", _challenge(error) + challenge))
    return headers


def _challenge(error: JanError) -> bytes:
    if error.wire_code == "missing_credentials":
        return b'Bearer realm="jan"'
    return b'Bearer realm="jan", error="invalid_token", error_description="%b"' % (
        (error.wire_code or "").encode()
    )
