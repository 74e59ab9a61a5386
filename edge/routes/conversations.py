"""/v1/conversations: OpenAI's resource and what the server adds to it."""

import dataclasses
from typing import Final

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.orders import Caller
from edge.requests import answer_json, read_body, read_paging, read_version, stored_of
from edge.stored import Stored
from schemas import ids, writes
from schemas.api import conversations as api
from schemas.api.items import require_json, to_items
from schemas.commands import encode
from schemas.errors import InvalidRequest
from schemas.queries.conversations import AskConversation, AskConversations, AskItem, AskItems

NOUN: Final = "conversations"
_LONGEST_SEARCH: Final = 256  # characters
_DELETED_AT_ONCE: Final = 100  # conversations in one fact, which may name 100 shares of each


async def create_conversation(request: Request) -> Response:
    """POST /v1/conversations."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_create)
    body = writes.CreateConversation(
        title=given.title,
        metadata=given.metadata or {},
        items=_encoded(given.items or []),
        project_id=given.project_id,
        referrer=given.referrer,
    )
    return answer_json(await stored.command(NOUN, "create", caller, body))


async def list_conversations(request: Request) -> Response:
    """GET /v1/conversations: newest first, by project, or by words in titles and texts."""
    stored, caller = stored_of(request)
    search = request.query_params.get("search")
    if search is not None and not 0 < len(search) <= _LONGEST_SEARCH:
        raise InvalidRequest(f"'search' has 1 to {_LONGEST_SEARCH} characters", param="search")
    question = AskConversations(
        principal=caller.principal,
        paging=read_paging(request),
        project_id=request.query_params.get("project_id"),
        search=search,
    )
    return answer_json(await stored.ask(NOUN, "list", question))


async def retrieve_conversation(request: Request) -> Response:
    """GET /v1/conversations/{id}."""
    stored, caller = stored_of(request)
    question = AskConversation(principal=caller.principal, id=request.path_params["id"])
    return _with_etag(await stored.ask(NOUN, "get", question))


async def update_conversation(request: Request) -> Response:
    """POST or PATCH /v1/conversations/{id}: what is not named stays; the last write wins.

    With `If-Match`, the version that was read: 409 if somebody else has changed it since.
    """
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_update)
    body = writes.UpdateConversation(
        id=request.path_params["id"],
        title=given.title,
        metadata=given.metadata or {} if given.metadata is not UNSET else UNSET,
        project_id=given.project_id,
        referrer=given.referrer,
        version=read_version(request),
    )
    return _with_etag(await stored.command(NOUN, "update", caller, body))


async def delete_conversation(request: Request) -> Response:
    """DELETE /v1/conversations/{id}: with its items, branches and shares, from the log too."""
    stored, caller = stored_of(request)
    body = writes.DeleteConversation(id=request.path_params["id"], version=read_version(request))
    return answer_json(await stored.command(NOUN, "delete", caller, body))


async def delete_conversations(request: Request) -> Response:
    """DELETE /v1/conversations: all that the caller has now, a hundred at a time."""
    stored, caller = stored_of(request)
    count = await delete_all(stored, caller)
    return answer_json(encode(api.ConversationsDeleted(deleted_count=count)))


async def delete_all(stored: Stored, caller: Caller) -> int:
    """Delete all conversations that a principal has now, a hundred at a time; return how many."""
    upto = ids.new_id("conv_")  # those that come while this goes on stay
    body = writes.DeleteConversations(upto=upto, limit=_DELETED_AT_ONCE)
    caller = dataclasses.replace(caller, idempotency_key=None)  # to repeat it is no harm
    count, has_more = 0, True
    while has_more:
        told = await stored.command(NOUN, "delete_many", caller, body)
        done = msgspec.json.decode(told, type=writes.DeletedConversations)
        count, has_more = count + done.count, done.has_more
    return count


async def create_items(request: Request) -> Response:
    """POST /v1/conversations/{id}/items: append to a branch, the active one by default."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_add_items)
    body = writes.AddItems(
        conversation=request.path_params["id"],
        items=_encoded(given.items),
        branch=given.branch,
        version=read_version(request),
    )
    return answer_json(await stored.command(NOUN, "add_items", caller, body))


async def list_items(request: Request) -> Response:
    """GET /v1/conversations/{id}/items: those of a branch, newest first."""
    stored, caller = stored_of(request)
    question = AskItems(
        principal=caller.principal,
        conversation=request.path_params["id"],
        paging=read_paging(request),
        branch=request.query_params.get("branch"),
    )
    return answer_json(await stored.ask(NOUN, "items", question))


async def retrieve_item(request: Request) -> Response:
    """GET /v1/conversations/{id}/items/{item_id}."""
    stored, caller = stored_of(request)
    question = AskItem(
        principal=caller.principal,
        conversation=request.path_params["id"],
        item=request.path_params["item_id"],
    )
    return answer_json(await stored.ask(NOUN, "item", question))


async def delete_item(request: Request) -> Response:
    """DELETE /v1/conversations/{id}/items/{item_id}: answers with the conversation."""
    stored, caller = stored_of(request)
    body = writes.DeleteItem(
        conversation=request.path_params["id"],
        item=request.path_params["item_id"],
        version=read_version(request),
    )
    return answer_json(await stored.command(NOUN, "delete_item", caller, body))


async def update_call(request: Request) -> Response:
    """PATCH /v1/conversations/{id}/items/by-call-id/{call_id}: what became of a tool's call."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_update_call)
    fields = {
        name: value if isinstance(value, msgspec.Raw) else msgspec.Raw(encode(value))
        for name, value in msgspec.structs.asdict(given).items()
        if value is not None and value is not UNSET
    }
    for name, value in fields.items():
        require_json(value, name)
    body = writes.UpdateCall(
        conversation=request.path_params["id"],
        call_id=request.path_params["call_id"],
        fields=fields,
        branch=request.query_params.get("branch"),
        version=read_version(request),
    )
    return answer_json(await stored.command(NOUN, "update_call", caller, body))


def _encoded(given: list[msgspec.Raw]) -> list[msgspec.Raw]:
    return [msgspec.Raw(encode(item)) for item in to_items(given)]


def _with_etag(body: bytes) -> Response:
    version = msgspec.json.decode(body, type=_Versioned).version
    return answer_json(body, headers={"etag": f'"{version}"'})


class _Versioned(msgspec.Struct):
    version: int


_ONE: Final = "/v1/conversations/{id}"
ROUTES: list[BaseRoute] = [
    Route("/v1/conversations", create_conversation, methods=["POST"]),
    Route("/v1/conversations", list_conversations, methods=["GET"]),
    Route("/v1/conversations", delete_conversations, methods=["DELETE"]),
    Route(_ONE, retrieve_conversation, methods=["GET"]),
    Route(_ONE, update_conversation, methods=["POST", "PATCH"]),
    Route(_ONE, delete_conversation, methods=["DELETE"]),
    Route(f"{_ONE}/items", create_items, methods=["POST"]),
    Route(f"{_ONE}/items", list_items, methods=["GET"]),
    Route(f"{_ONE}/items/by-call-id/{{call_id}}", update_call, methods=["PATCH"]),
    Route(f"{_ONE}/items/{{item_id}}", retrieve_item, methods=["GET"]),
    Route(f"{_ONE}/items/{{item_id}}", delete_item, methods=["DELETE"]),
]
