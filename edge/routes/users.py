"""/v1/users: what a principal has stored, as a whole."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.orders import Caller
from edge.requests import answer_json, stored_of
from edge.routes.admin import require_admin
from edge.routes.conversations import delete_all
from edge.state import state_of
from schemas import writes
from schemas.errors import InvalidRequest


async def delete_me(request: Request) -> Response:
    """DELETE /v1/users/me: everything of the caller's, from the log too; usage stays counted.

    Their API keys are revoked, and their sessions ended.
    """
    _, caller = stored_of(request)
    return await _delete(request, caller)


async def delete_user(request: Request) -> Response:
    """DELETE /v1/admin/users/{id}: the same for somebody else."""
    require_admin(request.scope)
    _, caller = stored_of(request)
    principal = request.path_params["id"]
    if len(principal) > _LONGEST_ID:
        raise InvalidRequest("'id' is no principal's id", param="id")
    return await _delete(request, Caller(principal, caller.request_id))


_LONGEST_ID = 256


async def _delete(request: Request, caller: Caller) -> Response:
    state = state_of(request.scope)
    stored = state["stored"]
    await delete_all(stored, caller)  # bit by bit: there can be any number of items
    body = writes.DeleteUser(keys=state["keys"].has_any(caller.principal))
    answer = await stored.command("users", "delete", caller, body)
    await state["sessions"].end_all(caller.principal)
    return answer_json(answer)


ROUTES: list[BaseRoute] = [
    Route("/v1/users/me", delete_me, methods=["DELETE"]),
    Route("/v1/admin/users/{id}", delete_user, methods=["DELETE"]),
]
