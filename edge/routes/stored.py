"""/v1/chat/completions: those that were made with `store: true`, and are kept."""

import re
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.requests import answer_json, read_body, read_query, stored_of
from schemas import writes
from schemas.api import stored as api
from schemas.api.fields import Metadata
from schemas.api.lists import Paging
from schemas.errors import InvalidRequest
from schemas.queries.completions import AskCompletion, AskCompletions

NOUN: Final = "completions"
_METADATA: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_PAGING: Final = ("limit", "order", "after", "before")


async def list_completions(request: Request) -> Response:
    """GET /v1/chat/completions: oldest first, by model, by what their metadata has."""
    stored, caller = stored_of(request)
    question = AskCompletions(
        principal=caller.principal,
        paging=_read_paging(request),
        model=request.query_params.get("model"),
        metadata=_read_metadata(request),
    )
    return answer_json(await stored.ask(NOUN, "list", question))


async def retrieve_completion(request: Request) -> Response:
    """GET /v1/chat/completions/{id}."""
    stored, caller = stored_of(request)
    question = AskCompletion(principal=caller.principal, id=request.path_params["id"])
    return answer_json(await stored.ask(NOUN, "get", question))


async def update_completion(request: Request) -> Response:
    """POST /v1/chat/completions/{id}: other metadata."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_update)
    body = writes.UpdateCompletion(request.path_params["id"], given.metadata or {})
    return answer_json(await stored.command(NOUN, "update", caller, body))


async def delete_completion(request: Request) -> Response:
    """DELETE /v1/chat/completions/{id}."""
    stored, caller = stored_of(request)
    body = writes.DeleteCompletion(request.path_params["id"])
    return answer_json(await stored.command(NOUN, "delete", caller, body))


async def list_messages(request: Request) -> Response:
    """GET /v1/chat/completions/{id}/messages: what was asked, oldest first."""
    stored, caller = stored_of(request)
    question = AskCompletion(
        principal=caller.principal, id=request.path_params["id"], paging=_read_paging(request)
    )
    return answer_json(await stored.ask(NOUN, "messages", question))


def _read_paging(request: Request) -> Paging:
    """Read a page's place; unlike elsewhere the oldest come first, as OpenAI has it."""
    given: dict[str, Any] = {
        name: request.query_params[name] for name in _PAGING if name in request.query_params
    }
    return read_query({"order": "asc"} | given, Paging)


def _read_metadata(request: Request) -> dict[str, str]:
    """Read `metadata[key]=value`. Raises InvalidRequest."""
    wanted = {
        match[1]: value
        for name, value in request.query_params.items()
        if (match := _METADATA.fullmatch(name)) is not None
    }
    if any("\0" in text for pair in wanted.items() for text in pair):
        raise InvalidRequest("'metadata' contains the NUL character", param="metadata")
    try:
        return msgspec.convert(wanted, Metadata)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"'metadata': {error}", param="metadata") from None


_ALL: Final = "/v1/chat/completions"
ROUTES: list[BaseRoute] = [
    Route(_ALL, list_completions, methods=["GET"]),
    Route(f"{_ALL}/{{id}}", retrieve_completion, methods=["GET"]),
    Route(f"{_ALL}/{{id}}", update_completion, methods=["POST"]),
    Route(f"{_ALL}/{{id}}", delete_completion, methods=["DELETE"]),
    Route(f"{_ALL}/{{id}}/messages", list_messages, methods=["GET"]),
]
