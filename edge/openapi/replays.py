"""Runs that are run again."""

from typing import Final

from edge.openapi.operation import Operation, Parameter
from schemas.api.replays import Replay, ReplayRequest

OPERATIONS: Final = (
    Operation(
        "/v1/runs/{id}/replay",
        "post",
        "replayRun",
        "Run a recorded run again, in a sandbox; with `wait`, answer with the comparison.",
        Replay,
        takes=ReplayRequest,
        body_required=False,
        parameters=(
            Parameter("id", "path", "The run's id, or that of its answer.", {"type": "string"}),
            Parameter(
                "wait",
                "query",
                "`true` answers when the replay has ended.",
                {"enum": ["true", "false"]},
            ),
        ),
        status=202,
        also=(200,),
        errors=(400, 401, 403, 404, 405, 409, 410, 413, 429, 500, 503, 504),
        public=False,
    ),
)
