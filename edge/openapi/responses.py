"""Responses: started, read, read on, cancelled, deleted; what they were asked."""

from typing import Final

from edge.openapi.conversations import PAGING
from edge.openapi.operation import GENERATION, IDEMPOTENCY, KNOWN, Operation, Parameter
from schemas.api.conversations import ItemList
from schemas.api.response_objects import (
    CompactedResponse,
    Response,
    ResponseDeleted,
    ResponseEvent,
    ResponseInputTokens,
    WebhookSecret,
)
from schemas.api.responses import ResponseRequest

_ID: Final = Parameter("id", "path", "The response's id.", {"type": "string"})
_STREAM: Final = {"enum": ["true", "false"]}
_ONE: Final = "/v1/responses/{id}"

OPERATIONS: Final = (
    Operation(
        "/v1/responses", "post", "createResponse",
        "Have a model answer, with tools that it may call, in as many steps as that takes.",
        Response, takes=ResponseRequest, events=ResponseEvent,
        parameters=(
            Parameter("stream", "query", "`true` streams like the body's field.", _STREAM),
            IDEMPOTENCY,
        ),
        errors=GENERATION, public=False,
    ),
    Operation(
        "/v1/responses/input_tokens", "post", "countResponseInputTokens",
        "Count the tokens that a response would be asked with.",
        ResponseInputTokens, takes=ResponseRequest, parameters=(IDEMPOTENCY,),
        errors=GENERATION, public=False,
    ),
    Operation(
        "/v1/responses/compact", "post", "compactResponse",
        "Make a long input short: its user's words, and a sealed summary to go on with.",
        CompactedResponse, takes=ResponseRequest, parameters=(IDEMPOTENCY,),
        errors=GENERATION, public=False,
    ),
    Operation(
        _ONE, "get", "retrieveResponse",
        "A response, as far as it is; or its events from some number on, for an hour after it.",
        Response, events=ResponseEvent,
        parameters=(
            _ID,
            Parameter("stream", "query", "`true` tells the events.", _STREAM),
            Parameter(
                "starting_after", "query", "The number of the last event received.",
                {"type": "integer", "minimum": 0, "maximum": 999999999},
            ),
            Parameter(
                "Last-Event-ID", "header", "The same, as browsers send it.",
                {"type": "string", "pattern": "^[0-9]{1,9}$"},
            ),
        ),
        errors=GENERATION, public=False,
    ),
    Operation(
        _ONE, "delete", "deleteResponse",
        "Delete a response and its items; what a conversation has of it stays there.",
        ResponseDeleted, parameters=(_ID,), errors=KNOWN, public=False,
    ),
    Operation(
        f"{_ONE}/cancel", "post", "cancelResponse",
        "Stop a response. What it has come to stays.",
        Response, parameters=(_ID,), errors=GENERATION, public=False,
    ),
    Operation(
        f"{_ONE}/input_items", "get", "listResponseInputItems",
        "What a response was asked, newest first.",
        ItemList, parameters=(_ID, *PAGING), errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/containers/{container_id}/files/{file_id}/content", "get", "readContainerFile",
        "A file that the server's code interpreter, or another tool, has made for the caller.",
        "application/octet-stream",
        parameters=(
            Parameter("container_id", "path", "The container's id.", {"type": "string"}),
            Parameter("file_id", "path", "The file's id.", {"type": "string"}),
        ),
        errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/webhooks/secret", "get", "retrieveWebhookSecret",
        "The secret that the caller's webhooks are signed with.",
        WebhookSecret, public=False,
    ),
)  # fmt: skip
