"""What is wrong with a message, before the SDK looks at it: that quotes its library's own words."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from schemas.api.decoding import to_invalid_request
from schemas.errors import InvalidRequest
from schemas.raw import OptionalRaw

_Name = Annotated[str, msgspec.Meta(min_length=1)]


class Fault(NamedTuple):
    """An error, and the id of the request that it answers; None: it is no request."""

    error: InvalidRequest
    answers: int | str | None


class _Message(msgspec.Struct):
    jsonrpc: Literal["2.0"]


class _Request(_Message, kw_only=True):
    method: str
    id: int | str | None = None
    params: dict[str, msgspec.Raw] | None = None


class _Answer(_Message):
    """What a client answers to a server's request; this one makes none, and the SDK ignores it."""

    result: OptionalRaw = None
    error: OptionalRaw = None


class _Page(msgspec.Struct):
    cursor: str | None = None


class _List(msgspec.Struct):
    params: _Page | None = None


class _Tool(msgspec.Struct):
    name: _Name
    arguments: dict[str, msgspec.Raw] | None = None


class _CallTool(msgspec.Struct):
    params: _Tool


class _Resource(msgspec.Struct):
    uri: str


class _ReadResource(msgspec.Struct):
    params: _Resource


class _Prompt(msgspec.Struct):
    name: _Name
    arguments: dict[str, str] | None = None


class _GetPrompt(msgspec.Struct):
    params: _Prompt


class _Program(msgspec.Struct):
    name: str
    version: str


class _Client(msgspec.Struct, rename="camel"):
    protocol_version: str
    capabilities: dict[str, msgspec.Raw]
    client_info: _Program


class _Initialize(msgspec.Struct):
    params: _Client


_KINDS: Final[dict[str, type[msgspec.Struct]]] = {
    "initialize": _Initialize,
    "tools/list": _List,
    "tools/call": _CallTool,
    "resources/list": _List,
    "resources/templates/list": _List,
    "resources/read": _ReadResource,
    "prompts/list": _List,
    "prompts/get": _GetPrompt,
}
_CHECKS: Final[dict[str, Callable[[bytes], Any]]] = {
    method: msgspec.json.Decoder(kind).decode for method, kind in _KINDS.items()
}
_decode_request = msgspec.json.Decoder(_Request).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


def find_fault(body: bytes) -> Fault | None:
    """Find what is wrong, naming the field; of what is no JSON at all the SDK says so itself."""
    answers = None
    try:
        request = _decode_request(body)
        answers = request.id
        check = _CHECKS.get(request.method)
        if check is not None and answers is not None:
            check(body)
    except msgspec.ValidationError as error:
        if answers is None and _is_answer(body):
            return None
        return Fault(to_invalid_request(str(error)), answers)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None


def _is_answer(body: bytes) -> bool:
    try:
        found = _decode_answer(body)
    except msgspec.ValidationError:
        return False
    return found.result is not None or found.error is not None
