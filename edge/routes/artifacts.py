"""/v1/containers: the files that a tool has made for the caller."""

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.generation import to_caller
from edge.state import state_of
from schemas.errors import NotFound
from schemas.ids import is_unique_part
from schemas.objects import artifact_name

_FILE: Final = re.compile(r"cfile_([0-9a-z]{26})_(\d{1,3})")


async def read_file(request: Request) -> Response:
    """GET /v1/containers/{container_id}/files/{file_id}/content: for its owner, for a month.

    What type it has is not said: a browser shall keep it, and run nothing of it.
    """
    state, caller = state_of(request.scope), to_caller(request.scope)
    container, file_id = request.path_params["container_id"], request.path_params["file_id"]
    match = _FILE.fullmatch(file_id)
    known = container.startswith("cntr_") and is_unique_part(container.removeprefix("cntr_"))
    if match is None or not known:
        raise NotFound("there is no such file")
    name = artifact_name(caller.principal, container, match[1], int(match[2]))
    try:
        data = await state["objects"].get(name)
    except NotFound:
        raise NotFound("there is no such file") from None
    headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
    return Response(data, headers=headers, media_type="application/octet-stream")


_PATH: Final = "/v1/containers/{container_id}/files/{file_id}/content"
ROUTES: list[BaseRoute] = [Route(_PATH, read_file, methods=["GET"])]
