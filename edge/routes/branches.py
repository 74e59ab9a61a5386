"""/v1/conversations/{id}/branches, and edits, which make them."""

import dataclasses
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.requests import answer_json, read_body, read_version, stored_of
from schemas import writes
from schemas.api import conversations as api
from schemas.api.items import to_message
from schemas.commands import encode
from schemas.queries.conversations import AskBranch

NOUN: Final = "conversations"


async def list_branches(request: Request) -> Response:
    """GET /v1/conversations/{id}/branches: all, oldest first."""
    stored, caller = stored_of(request)
    question = AskBranch(principal=caller.principal, conversation=request.path_params["id"])
    return answer_json(await stored.ask(NOUN, "branches", question))


async def create_branch(request: Request) -> Response:
    """POST /v1/conversations/{id}/branches: with all of its parent, or up to and with an item."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_create_branch)
    body = writes.CreateBranch(
        conversation=request.path_params["id"],
        name=given.name,
        parent=given.parent_branch,
        last_item=given.fork_from_item_id,
        description=given.description,
        version=read_version(request),
    )
    return answer_json(await stored.command(NOUN, "create_branch", caller, body), status=201)


async def retrieve_branch(request: Request) -> Response:
    """GET /v1/conversations/{id}/branches/{name}."""
    stored, caller = stored_of(request)
    question = AskBranch(
        principal=caller.principal,
        conversation=request.path_params["id"],
        name=request.path_params["name"],
    )
    return answer_json(await stored.ask(NOUN, "branch", question))


async def delete_branch(request: Request) -> Response:
    """DELETE /v1/conversations/{id}/branches/{name}: with the items that only it has."""
    stored, caller = stored_of(request)
    caller = dataclasses.replace(caller, idempotency_key=None)  # it may take several commands
    body, has_more = _named(request), True
    while has_more:
        told = await stored.command(NOUN, "delete_branch", caller, body)
        has_more = msgspec.json.decode(told, type=writes.DeletedBranch).has_more
        body = msgspec.structs.replace(body, version=None)
    return Response(status_code=204)


async def activate_branch(request: Request) -> Response:
    """POST /v1/conversations/{id}/branches/{name}/activate."""
    stored, caller = stored_of(request)
    return answer_json(await stored.command(NOUN, "activate_branch", caller, _named(request)))


async def edit_item(request: Request) -> Response:
    """POST /v1/conversations/{id}/items/{item_id}/edit: on a new branch, which becomes active.

    No model is asked: the next chat with this conversation answers the new message.
    """
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_edit_item)
    body = writes.EditItem(
        conversation=request.path_params["id"],
        item=request.path_params["item_id"],
        message=msgspec.Raw(encode(to_message(given.content, "user"))),
        branch=given.branch,
        version=read_version(request),
    )
    return answer_json(await stored.command(NOUN, "edit_item", caller, body))


def _named(request: Request) -> writes.NamedBranch:
    return writes.NamedBranch(
        conversation=request.path_params["id"],
        name=request.path_params["name"],
        version=read_version(request),
    )


_ALL: Final = "/v1/conversations/{id}/branches"
ROUTES: list[BaseRoute] = [
    Route(_ALL, list_branches, methods=["GET"]),
    Route(_ALL, create_branch, methods=["POST"]),
    Route(f"{_ALL}/{{name}}", retrieve_branch, methods=["GET"]),
    Route(f"{_ALL}/{{name}}", delete_branch, methods=["DELETE"]),
    Route(f"{_ALL}/{{name}}/activate", activate_branch, methods=["POST"]),
    Route("/v1/conversations/{id}/items/{item_id}/edit", edit_item, methods=["POST"]),
]
