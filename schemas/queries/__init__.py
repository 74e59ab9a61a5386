"""Questions on `query.<noun>.<verb>` and their answers, which a persistence worker gives.

One module for each noun; here is what all of them have.

A question with a `principal` sees only what is that principal's: another's is as good as missing.
An answer is the asked-for object, or a Failure.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from schemas.commands import encode
from schemas.errors import (
    Conflict,
    Forbidden,
    Gone,
    InternalError,
    InvalidRequest,
    JanError,
    NotFound,
    Unavailable,
)

T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What every question has: who asks (None: the operator, who sees everything), and `after`.

    `after` is a sequence of EVENTS. An answer that depends on the log waits until the database has
    everything up to there, so that a client sees what it has written.
    """

    principal: str | None = None
    after: int = 0
    v: int = 1


AskStored = Callable[[str, str, Ask], Awaitable[bytes]]
"""Asks `query.<noun>.<verb>` and gets the answer's JSON. Raises NotFound, Unavailable, …"""


class _Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    message: str
    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None


class Failure(msgspec.Struct, frozen=True):
    """The answer to a question or a command that fails: the error as the client will see it."""

    failure: _Problem


_FAILURE = b'{"failure":{'
_RAISED: dict[int, type[JanError]] = {
    400: InvalidRequest,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    503: Unavailable,
}
_decode_failure = msgspec.json.Decoder(Failure).decode


def encode_failure(error: JanError) -> bytes:
    """Encode an answer that says why there is none."""
    problem = _Problem(
        message=error.message,
        status=error.http_status,
        type=error.wire_type,
        code=error.wire_code,
        param=error.param,
        retry_after=error.retry_after,
    )
    return encode(Failure(problem))


def raise_failure(data: bytes) -> None:
    """Raise what an answer reports, if it is a Failure."""
    if data.startswith(_FAILURE):
        told = _decode_failure(data).failure
        raise _RAISED.get(told.status, InternalError)(
            told.message,
            param=told.param,
            code=told.code,
            retry_after=told.retry_after,
            status=told.status,
            type=told.type,
        )


def decode_answer(data: bytes, kind: type[T]) -> T:
    """Decode an answer. Raises NotFound, InvalidRequest, Conflict, Unavailable, InternalError."""
    raise_failure(data)
    return msgspec.json.decode(data, type=kind)


encode_answer = encode
