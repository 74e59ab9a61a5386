"""Reading what routes of stored things have in common: the caller, the body, a page's place."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge.generation import to_caller
from edge.orders import Caller
from edge.state import state_of
from edge.stored import Stored
from schemas.api.decoding import to_invalid_request
from schemas.api.lists import Paging
from schemas.errors import InvalidRequest

T = TypeVar("T")

_ETAG: Final = re.compile(r'(?:W/)?"?(\d{1,18})"?')


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


def read_version(request: Request) -> int | None:
    """The version that a change expects, by `If-Match`. Raises InvalidRequest."""
    given = request.headers.get("if-match")
    if given is None or given == "*":
        return None
    match = _ETAG.fullmatch(given)
    if match is None:
        raise InvalidRequest("If-Match is an ETag that this server has given", param="If-Match")
    return int(match[1])


def step_of(caller: Caller, step: int) -> Caller:
    """The caller of one of the commands that a request takes: each needs a key of its own."""
    if caller.idempotency_key is None:
        return caller
    return dataclasses.replace(caller, idempotency_key=f"{caller.idempotency_key}\0{step}")


def read_flag(request: Request, param: str) -> bool | None:
    """A query parameter that is `true` or `false`. Raises InvalidRequest."""
    given = request.query_params.get(param)
    if given not in (None, "true", "false"):
        raise InvalidRequest(f"'{param}' is true or false", param=param)
    return given == "true" if given is not None else None


def answer_json(
    body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer with JSON that a worker has made."""
    return Response(body, status, headers, media_type="application/json")


def answer_versioned(body: bytes, *, status: int = 200) -> Response:
    """Answer with JSON that says its `version`, which is its ETag."""
    version = msgspec.json.decode(body, type=_Versioned).version
    return answer_json(body, status=status, headers={"etag": f'"{version}"'})


class _Versioned(msgspec.Struct):
    version: int
