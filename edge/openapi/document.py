"""This API in OpenAPI 3.1, made from the types that requests are decoded with."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from edge.openapi import (
    conversations,
    generations,
    projects,
    replays,
    responses,
    runs,
    server,
    tools,
    turns,
    users,
)
from edge.openapi.operation import ERRORS, GENERATION, NOTHING, Error, Operation

VERSION: Final = "0.1.0"
_REF: Final = "#/components/schemas/{name}"
_JSON: Final = "application/json"

OPERATIONS: Final[tuple[Operation, ...]] = (
    *generations.OPERATIONS,
    *responses.OPERATIONS,
    *conversations.OPERATIONS,
    *users.OPERATIONS,
    *runs.OPERATIONS,
    *projects.OPERATIONS,
    *replays.OPERATIONS,
    *turns.OPERATIONS,
    *tools.OPERATIONS,
    *server.OPERATIONS,
)


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
        if operation.answers != NOTHING:
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
            "description": ERRORS[status],
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
    if operation.errors is GENERATION:
        headers["X-Run-Id"] = _header("The run's id: for `jan log`.")
    return headers


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


def _ref(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}
