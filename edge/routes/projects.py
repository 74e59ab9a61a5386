"""/v1/projects: conversations that belong together, with an instruction."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.requests import (
    answer_json,
    answer_versioned,
    read_body,
    read_flag,
    read_paging,
    read_version,
    stored_of,
)
from edge.state import state_of
from schemas import writes
from schemas.api import projects as api
from schemas.queries.projects import AskProject, AskProjects

NOUN: Final = "projects"


async def create_project(request: Request) -> Response:
    """POST /v1/projects."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_create)
    hooks = state_of(request.scope)["webhooks"]
    webhook = hooks.to_change(given.webhook) if given.webhook is not None else None
    body = writes.CreateProject(given.name, given.instruction, given.is_favorite, webhook)
    return answer_versioned(await stored.command(NOUN, "create", caller, body), status=201)


async def list_projects(request: Request) -> Response:
    """GET /v1/projects: newest first; archived ones or not, favourites or not."""
    stored, caller = stored_of(request)
    question = AskProjects(
        principal=caller.principal,
        paging=read_paging(request),
        archived=read_flag(request, "archived"),
        favorite=read_flag(request, "favorite"),
    )
    return answer_json(await stored.ask(NOUN, "list", question))


async def retrieve_project(request: Request) -> Response:
    """GET /v1/projects/{id}."""
    stored, caller = stored_of(request)
    question = AskProject(principal=caller.principal, id=request.path_params["id"])
    return answer_versioned(await stored.ask(NOUN, "get", question))


async def update_project(request: Request) -> Response:
    """PATCH /v1/projects/{id}: what is not named stays; the last write wins.

    With `If-Match`, the version that was read: 409 if somebody else has changed it since.
    """
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_update)
    hooks, changed = state_of(request.scope)["webhooks"], given.webhook
    body = writes.UpdateProject(
        id=request.path_params["id"],
        name=given.name,
        instruction=given.instruction,
        is_archived=given.is_archived,
        is_favorite=given.is_favorite,
        webhook=hooks.to_change(changed) if isinstance(changed, api.ChangeWebhook) else changed,
        version=read_version(request),
    )
    return answer_versioned(await stored.command(NOUN, "update", caller, body))


async def delete_project(request: Request) -> Response:
    """DELETE /v1/projects/{id}: its conversations stay, without a project."""
    stored, caller = stored_of(request)
    body = writes.DeleteProject(request.path_params["id"])
    return answer_json(await stored.command(NOUN, "delete", caller, body))


_ONE: Final = "/v1/projects/{id}"
ROUTES: list[BaseRoute] = [
    Route("/v1/projects", create_project, methods=["POST"]),
    Route("/v1/projects", list_projects, methods=["GET"]),
    Route(_ONE, retrieve_project, methods=["GET"]),
    Route(_ONE, update_project, methods=["PATCH"]),
    Route(_ONE, delete_project, methods=["DELETE"]),
]
