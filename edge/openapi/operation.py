"""What an operation of the API is, and what many have in common."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

ERRORS: Final = {
    400: "The request is wrong; `param` names the field",
    401: "A credential is missing, wrong or expired",
    403: "The credential is good, but not for this",
    404: "There is no such thing, or it belongs to somebody else",
    405: "The route does not take this method; `Allow` names those it does",
    409: "The request contradicts an earlier one, e.g. an Idempotency-Key with another body",
    410: "It was there, and is no longer",
    413: "The body is too large",
    429: "Too many requests, or a full queue: come back after `Retry-After`",
    431: "The request's head is too large",
    499: "The run was cancelled",
    500: "The server failed",
    502: "The deployment failed",
    503: "A part is down, nothing was done: come back after `Retry-After`",
    504: "The run, or the deployment, took too long",
}
NOTHING: Final = ""  # as an operation's `answers`: there is no body
PUBLIC: Final = (400, 405, 500)
KNOWN: Final = (400, 401, 403, 404, 405, 429, 500, 503)
GENERATION: Final = (400, 401, 403, 404, 405, 409, 413, 429, 499, 500, 502, 503, 504)


class ErrorDetail(Struct):
    """What went wrong: for programs `type` and `code`, for people `message`."""

    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str | None
    retry_after: float | msgspec.UnsetType = msgspec.UNSET


class Error(Struct):
    """The envelope of every error."""

    error: ErrorDetail


class CancelledRun(Struct):
    """Where a run stands after it was cancelled."""

    id: str
    object: str
    status: Literal["completed", "failed", "cancelled", "cancelling"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of the path, the query or a header."""

    name: str
    where: Literal["path", "query", "header"]
    text: str
    schema: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """Write it as OpenAPI does."""
        return {
            "name": self.name,
            "in": self.where,
            "required": self.where == "path",
            "description": self.text,
            "schema": self.schema,
        }


@dataclass(frozen=True)
class Operation:
    """One method of one path. `events`: what each event of a stream carries.

    `answers` is a type, or the content type of what is no JSON.
    """

    path: str
    method: str
    name: str
    text: str
    answers: type[Struct] | str
    takes: type[Struct] | None = None
    events: type[Struct] | None = None
    parameters: tuple[Parameter, ...] = ()
    status: int = 200
    also: tuple[int, ...] = ()
    errors: tuple[int, ...] = PUBLIC
    public: bool = True
    body_required: bool = True
    error: type[Struct] = Error


IDEMPOTENCY: Final = Parameter(
    "Idempotency-Key",
    "header",
    "The same key and body again: the same thing done, not a second one.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)
