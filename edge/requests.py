"""Reading what routes of stored things have in common: the caller, the body, a page's place."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge.generation import to_caller
from edge.runs import Caller
from edge.state import state_of
from edge.stored import Stored
from schemas.api.decoding import to_invalid_request
from schemas.api.lists import Paging

T = TypeVar("T")


def stored_of(request: Request) -> tuple[Stored, Caller]:
    """What reads and writes stored things, and who asks."""
    return state_of(request.scope)["stored"], to_caller(request.scope)


async def read_body(request: Request, decode: Callable[[bytes], T]) -> T:
    """Read and check a request's body; none is an empty object. Raises InvalidRequest."""
    return decode(await request.body() or b"{}")


def read_paging(request: Request) -> Paging:
    """Read `limit`, `order`, `after`, `before`. Raises InvalidRequest naming the parameter."""
    given: dict[str, Any] = {
        name: value
        for name in ("limit", "order", "after", "before")
        if (value := request.query_params.get(name)) is not None
    }
    return read_query(given, Paging)


def read_query(given: dict[str, Any], kind: type[T]) -> T:
    """Check query parameters, which are texts. Raises InvalidRequest naming the parameter."""
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise to_invalid_request(str(error)) from None


def answer_json(
    body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer with JSON that a worker has made."""
    return Response(body, status, headers, media_type="application/json")
