"""This API in OpenAPI 3.1, made from the types that requests are decoded with."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from edge.routes.health import Health, Readiness
from schemas.api.admin import ProviderList
from schemas.api.auth import Guest, LoggedOut, LogoutRequest, Me, RefreshRequest, TokenPair
from schemas.api.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from schemas.api.completions import Completion, CompletionRequest
from schemas.api.embeddings import EmbeddingList, EmbeddingRequest
from schemas.api.messages import (
    CancelledMessage,
    CountRequest,
    Message,
    MessageError,
    MessageEvent,
    MessagesRequest,
    TokenCount,
)
from schemas.api.models import Model, ModelList

VERSION: Final = "0.1.0"
_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"

_ERRORS: Final = {
    400: "The request is wrong; `param` names the field",
    401: "A credential is missing, wrong or expired",
    403: "The credential is good, but not for this",
    404: "There is no such thing, or it belongs to somebody else",
    405: "The route does not take this method; `Allow` names those it does",
    409: "The request contradicts an earlier one, e.g. an Idempotency-Key with another body",
    413: "The body is too large",
    429: "Too many requests, or a full queue: come back after `Retry-After`",
    431: "The request's head is too large",
    499: "The run was cancelled",
    500: "The server failed",
    502: "The deployment failed",
    503: "A part is down, nothing was done: come back after `Retry-After`",
    504: "The run, or the deployment, took too long",
}
_PUBLIC: Final = (400, 405, 500)
_KNOWN: Final = (400, 401, 403, 404, 405, 429, 500, 503)
_GENERATION: Final = (400, 401, 403, 404, 405, 409, 413, 429, 499, 500, 502, 503, 504)


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


class Jwks(Struct):
    """The public keys of access tokens."""

    keys: list[dict[str, str]]


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
    """One method of one path. `events`: what each event of a stream carries."""

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
    errors: tuple[int, ...] = _PUBLIC
    public: bool = True
    body_required: bool = True
    error: type[Struct] = Error


_ID = Parameter("id", "path", "The id of the completion.", {"type": "string"})
_MODEL = Parameter(
    "id", "path", "The model's id; it may contain slashes.", {"type": "string", "minLength": 1}
)
_STREAM = Parameter(
    "stream", "query", "`true` streams like the body's field.", {"enum": ["true", "false"]}
)
_IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    "header",
    "The same key and body again: the same run, not a second one.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
)
_AFTER = Parameter(
    "starting_after",
    "query",
    "The index of the last event received.",
    {"type": "integer", "minimum": 0, "maximum": 999999999},
)
_LAST_EVENT = Parameter(
    "Last-Event-ID",
    "header",
    "The same, as browsers send it.",
    {"type": "string", "pattern": "^[0-9]{1,9}$"},
)
_EVENT_ID: Final = {"type": "string", "pattern": "^[0-9]{1,9}([.][0-9]{1,4})?$"}
_AFTER_EVENT = Parameter("starting_after", "query", "The id of the last event received.", _EVENT_ID)
_LAST_MESSAGE_EVENT = Parameter(
    "Last-Event-ID", "header", "The same, as browsers send it.", _EVENT_ID
)


def _generation(
    path: str, name: str, text: str, takes: type[Struct], answers: type[Struct], **more: Any
) -> Operation:
    return Operation(
        path,
        "post",
        name,
        text,
        answers,
        takes=takes,
        errors=_GENERATION,
        public=False,
        **more,
    )


def _resume(
    path: str, name: str, answers: type[Struct], events: type[Struct], **more: Any
) -> Operation:
    more = {"parameters": (_ID, _AFTER, _LAST_EVENT), **more}
    return Operation(
        path,
        "get",
        name,
        "Go on reading a run, during it or for an hour after, on any edge.",
        answers,
        events=events,
        errors=_GENERATION,
        public=False,
        **more,
    )


def _cancel(path: str, name: str, answers: type[Struct] = CancelledRun, **more: Any) -> Operation:
    return Operation(
        path,
        "post",
        name,
        "Stop a run. What was generated stays.",
        answers,
        parameters=(_ID,),
        errors=_GENERATION,
        public=False,
        **more,
    )


OPERATIONS: Final = (
    _generation(
        "/v1/chat/completions",
        "createChatCompletion",
        "Answer a conversation. Unknown fields pass through to the engine.",
        ChatRequest,
        ChatCompletion,
        events=ChatCompletionChunk,
        parameters=(_STREAM, _IDEMPOTENCY),
    ),
    _resume(
        "/v1/chat/completions/{id}/stream",
        "resumeChatCompletion",
        ChatCompletion,
        ChatCompletionChunk,
    ),
    _cancel("/v1/chat/completions/{id}/cancel", "cancelChatCompletion"),
    _generation(
        "/v1/messages",
        "createMessage",
        "Answer a conversation in Anthropic's form, on any engine.",
        MessagesRequest,
        Message,
        events=MessageEvent,
        parameters=(_STREAM, _IDEMPOTENCY),
        error=MessageError,
    ),
    _generation(
        "/v1/messages/count_tokens",
        "countMessageTokens",
        "Count the tokens of a message's prompt.",
        CountRequest,
        TokenCount,
        parameters=(_IDEMPOTENCY,),
        error=MessageError,
    ),
    _resume(
        "/v1/messages/{id}/stream",
        "resumeMessage",
        Message,
        MessageEvent,
        parameters=(_ID, _AFTER_EVENT, _LAST_MESSAGE_EVENT),
        error=MessageError,
    ),
    _cancel("/v1/messages/{id}/cancel", "cancelMessage", CancelledMessage, error=MessageError),
    _generation(
        "/v1/completions",
        "createCompletion",
        "Continue a text (legacy). Unknown fields pass through to the engine.",
        CompletionRequest,
        Completion,
        events=Completion,
        parameters=(_STREAM, _IDEMPOTENCY),
    ),
    _resume("/v1/completions/{id}/stream", "resumeCompletion", Completion, Completion),
    _cancel("/v1/completions/{id}/cancel", "cancelCompletion"),
    _generation(
        "/v1/embeddings",
        "createEmbeddings",
        "Turn texts into vectors.",
        EmbeddingRequest,
        EmbeddingList,
        parameters=(_IDEMPOTENCY,),
    ),
    Operation(
        "/v1/models", "get", "listModels", "All models that are served.", ModelList,
        errors=_KNOWN, public=False,
    ),
    Operation(
        "/v1/models/{id}", "get", "retrieveModel", "One model.", Model,
        parameters=(_MODEL,), errors=_KNOWN, public=False,
    ),
    Operation(
        "/v1/admin/providers", "get", "listProviders",
        "Every deployment, its breaker and its figures. Needs a key with the scope `admin`.",
        ProviderList, errors=_KNOWN, public=False,
    ),
    Operation(
        "/auth/guest", "post", "createGuest", "Become a guest.", Guest,
        status=201, errors=(400, 403, 405, 413, 429, 500, 503),
    ),
    Operation(
        "/auth/guest-login", "post", "guestLogin", "Become a guest.", Guest,
        status=201, errors=(400, 403, 405, 413, 429, 500, 503),
    ),
    Operation(
        "/auth/refresh-token", "post", "refreshToken",
        "Exchange a refresh token, once, for new tokens. Its reuse ends the session.",
        TokenPair, takes=RefreshRequest, errors=(400, 401, 405, 413, 500, 503),
    ),
    Operation(
        "/auth/logout", "post", "logout", "End the session of a refresh or access token.",
        LoggedOut, takes=LogoutRequest, body_required=False, errors=(400, 405, 413, 500, 503),
    ),
    Operation(
        "/auth/logout", "get", "logoutByToken", "End the session of the access token.",
        LoggedOut, errors=(400, 405, 413, 500, 503),
    ),
    Operation(
        "/auth/me", "get", "me", "Who the credential stands for.", Me,
        errors=(400, 401, 405, 500), public=False,
    ),
    Operation("/auth/jwks", "get", "jwks", "The public keys of access tokens.", Jwks),
    Operation(
        "/.well-known/jwks.json", "get", "wellKnownJwks", "The public keys of access tokens.", Jwks
    ),
    Operation("/healthz", "get", "healthz", "The process answers.", Health),
    Operation(
        "/readyz", "get", "readyz", "What the server depends on, each by name.", Readiness,
        also=(503,),
    ),
    Operation("/metrics", "get", "metrics", "Figures for Prometheus.", "text/plain"),
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Build the document."""
    schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Jan Server",
            "version": VERSION,
            "description": "An OpenAI-compatible API whose generations outlive any process.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: schemas[name] for name in sorted(schemas)},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or the access token of a guest.",
                },
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def encode(document: dict[str, Any]) -> bytes:
    """Write the document as JSON."""
    return msgspec.json.encode(document)


def _schemas() -> dict[str, Any]:
    types: set[type[Struct]] = {operation.error for operation in OPERATIONS}
    for operation in OPERATIONS:
        types |= {kind for kind in (operation.takes, operation.events) if kind is not None}
        if not isinstance(operation.answers, str):
            types.add(operation.answers)
    ordered = sorted(types, key=lambda kind: kind.__name__)
    return msgspec.json.schema_components(ordered, ref_template=_REF)[1]


def _describe(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    group = operation.path.removeprefix("/v1").split("/")[1]
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.text,
        "tags": [group if operation.path.startswith(("/v1", "/auth")) else "health"],
        "security": [] if operation.public else [{"bearer": []}, {"apiKey": []}],
        "responses": _responses(operation),
    }
    if operation.parameters:
        told["parameters"] = [parameter.describe() for parameter in operation.parameters]
    if operation.takes is not None:
        assert operation.takes.__name__ in schemas
        told["requestBody"] = {
            "required": operation.body_required,
            "content": {_JSON: {"schema": _ref(operation.takes)}},
        }
    return told


def _responses(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if isinstance(operation.answers, str):
        content[operation.answers] = {"schema": {"type": "string"}}
    else:
        content[_JSON] = {"schema": _ref(operation.answers)}
    if operation.events is not None:
        # In 3.1 a stream can only be described in words.
        content["text/event-stream"] = {
            "schema": {"description": f"Events, each with a {operation.events.__name__} as data"}
        }
    good = {"description": operation.text, "headers": _headers(operation), "content": content}
    responses = {str(status): good for status in (operation.status, *operation.also)}
    for status in (*operation.errors, 431):
        responses[str(status)] = {
            "description": _ERRORS[status],
            "headers": {"X-Request-Id": _header("The request's id, also in the envelope.")},
            # The head of a request is refused before its path is looked at.
            "content": {_JSON: {"schema": _ref(Error if status == 431 else operation.error)}},
        }
    return responses


def _headers(operation: Operation) -> dict[str, Any]:
    headers = {"X-Request-Id": _header("The request's id: the client's own, or a new one.")}
    if not operation.public:
        headers["X-Principal-Id"] = _header("Who asked.")
        headers["X-Auth-Method"] = _header("`jwt` or `api_key`.")
    if operation.errors is _GENERATION:
        headers["X-Run-Id"] = _header("The run's id: for `jan log`.")
    return headers


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


def _ref(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
