"""/v1/runs/{id}/replay: run a recorded run again, in a sandbox, and compare."""

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.generation import query
from edge.replays import NOT_ENDED, Recorded
from edge.requests import read_body, stored_of
from edge.routes.admin import ADMIN
from edge.state import state_of
from schemas import ids
from schemas.api.replays import Replay, decode_request
from schemas.errors import Conflict, InvalidRequest, NotFound
from schemas.queries import decode_answer
from schemas.queries.runs import AskRun, RunRecord

_BOOLEANS: Final = {"true": True, "false": False, None: False}


async def replay_run(request: Request) -> Response:
    """POST /v1/runs/{id}/replay: one's own; with the scope `admin`, anybody's."""
    wait = _BOOLEANS.get(query(request.scope, "wait"))
    if wait is None:
        raise InvalidRequest("'wait' is true or false", param="wait", code="invalid_value")
    body = await read_body(request, decode_request)
    state, (_, caller) = state_of(request.scope), stored_of(request)
    recorded = await _find(request)
    run_id = ids.new_run_id(caller.principal, state["settings"].key_secret)
    started = await state["replays"].start(
        recorded, run_id, model=body.model, request_id=caller.request_id, at=body.at or 1
    )
    if wait:
        replay = await state["replays"].report(started)
    else:
        replay = Replay(id=run_id, replay_of=recorded.command.run_id, status="queued")
    return Response(
        msgspec.json.encode(replay),
        200 if wait else 202,
        {"x-run-id": run_id, "cache-control": "no-store"},
        media_type="application/json",
    )


async def _find(request: Request) -> Recorded:
    """Find the run that the path names, with what it was asked. Raises NotFound, Conflict, Gone."""
    state, (stored, caller) = state_of(request.scope), stored_of(request)
    run_id = ids.run_id_of(request.path_params["id"])
    sees_all = ADMIN in state["principal"].scopes
    secret = state["settings"].key_secret
    if run_id is None or not (sees_all or ids.is_owner(run_id, caller.principal, secret)):
        raise NotFound(f"there is no run {request.path_params['id']}")
    # What has just ended may not be in the database yet: its frames say how far to wait for it.
    seq = await state["replays"].end_of(run_id)
    question = AskRun(run_id=run_id, principal=None if sees_all else caller.principal, after=seq)
    record = decode_answer(await stored.ask("runs", "command", question), RunRecord)
    if record.finished is None:
        raise Conflict(NOT_ENDED, code="run_not_ended")
    return Recorded(record.accepted, record.finished)


ROUTES: list[BaseRoute] = [Route("/v1/runs/{id}/replay", replay_run, methods=["POST"])]
