"""/v1/prompts: messages with placeholders, kept under a name, in versions."""

from typing import Final

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.requests import (
    answer_json,
    answer_versioned,
    read_body,
    read_paging,
    read_query,
    read_version,
    stored_of,
)
from schemas import writes
from schemas.api import prompts as api
from schemas.errors import InvalidRequest
from schemas.queries.prompts import AskPrompt, AskPrompts, AskPromptVersions

NOUN: Final = "prompts"


class _Wanted(msgspec.Struct):
    version: api.Version | None = None


async def create_prompt(request: Request) -> Response:
    """POST /v1/prompts: its first version."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_create)
    messages = api.read_messages(await request.body(), given)
    if messages is None:
        raise InvalidRequest(
            "'messages' is required, or 'template'",
            param="messages",
            code="missing_required_parameter",
        )
    body = writes.CreatePrompt(
        name=given.name,
        messages=msgspec.Raw(messages),
        variables=given.variables or {},
        model=given.model,
        project_id=given.project_id,
        description=given.description,
    )
    return answer_versioned(await stored.command(NOUN, "create", caller, body), status=201)


async def list_prompts(request: Request) -> Response:
    """GET /v1/prompts: the newest version of each; by project, by model."""
    stored, caller = stored_of(request)
    question = AskPrompts(
        principal=caller.principal,
        paging=read_paging(request),
        project_id=request.query_params.get("project_id"),
        model=request.query_params.get("model"),
    )
    return answer_json(await stored.ask(NOUN, "list", question))


async def retrieve_prompt(request: Request) -> Response:
    """GET /v1/prompts/{id}: the newest version, or `?version=N`."""
    stored, caller = stored_of(request)
    wanted = read_query(dict(request.query_params), _Wanted).version
    question = AskPrompt(principal=caller.principal, id=request.path_params["id"], version=wanted)
    return answer_versioned(await stored.ask(NOUN, "get", question))


async def create_version(request: Request) -> Response:
    """POST /v1/prompts/{id}: a new version; what is not named is as in the newest.

    With `If-Match`, the version that was read: 409 if there is a newer one.
    """
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_version)
    messages = api.read_messages(await request.body() or b"{}", given)
    body = writes.CreatePromptVersion(
        id=request.path_params["id"],
        messages=msgspec.Raw(messages) if messages is not None else None,
        variables=given.variables if given.variables is not UNSET else UNSET,
        model=given.model,
        project_id=given.project_id,
        description=given.description,
        version=read_version(request),
    )
    return answer_versioned(await stored.command(NOUN, "create_version", caller, body), status=201)


async def list_versions(request: Request) -> Response:
    """GET /v1/prompts/{id}/versions: newest first."""
    stored, caller = stored_of(request)
    question = AskPromptVersions(
        principal=caller.principal, id=request.path_params["id"], paging=read_paging(request)
    )
    return answer_json(await stored.ask(NOUN, "versions", question))


async def delete_prompt(request: Request) -> Response:
    """DELETE /v1/prompts/{id}: with all its versions."""
    stored, caller = stored_of(request)
    body = writes.DeletePrompt(request.path_params["id"])
    return answer_json(await stored.command(NOUN, "delete", caller, body))


_ONE: Final = "/v1/prompts/{id}"
ROUTES: list[BaseRoute] = [
    Route("/v1/prompts", create_prompt, methods=["POST"]),
    Route("/v1/prompts", list_prompts, methods=["GET"]),
    Route(_ONE, retrieve_prompt, methods=["GET"]),
    Route(_ONE, create_version, methods=["POST"]),
    Route(_ONE, delete_prompt, methods=["DELETE"]),
    Route(f"{_ONE}/versions", list_versions, methods=["GET"]),
]
