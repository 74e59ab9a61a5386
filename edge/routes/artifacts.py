"""/v1/containers: the files that a tool has made for the caller."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.artifacts import read_artifact
from edge.generation import to_caller
from edge.state import state_of


async def read_file(request: Request) -> Response:
    """GET /v1/containers/{container_id}/files/{file_id}/content: for its owner, for a month.

    What type it has is not said: a browser shall keep it, and run nothing of it.
    """
    state, caller = state_of(request.scope), to_caller(request.scope)
    container, file_id = request.path_params["container_id"], request.path_params["file_id"]
    data = await read_artifact(state["objects"], caller.principal, container, file_id)
    headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
    return Response(data, headers=headers, media_type="application/octet-stream")


_PATH: Final = "/v1/containers/{container_id}/files/{file_id}/content"
ROUTES: list[BaseRoute] = [Route(_PATH, read_file, methods=["GET"])]
