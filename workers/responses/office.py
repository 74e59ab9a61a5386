"""What the responses of a worker share, and what each of them was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bus import ObjectStore, ToolCatalogue
from schemas.api.items import Item
from schemas.api.response_tools import McpTool
from schemas.commands import RunInference
from schemas.errors import InvalidRequest
from schemas.responses.prepared import PreparedRequest, decode_prepared, input_items
from workers.responses.offers import is_own
from workers.responses.parts import Parts
from workers.responses.settings import ResponsesSettings
from workers.runtime.long_run import RunDesk


@dataclass(frozen=True, slots=True)
class Office:
    """What all responses of a worker share."""

    desk: RunDesk
    objects: ObjectStore
    parts: Parts
    catalogue: ToolCatalogue
    settings: ResponsesSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """A response's request: the items of its input, and the MCP servers that it says how to reach.

    `servers` are by their labels.
    """

    request: PreparedRequest
    input: Sequence[Item]
    servers: Mapping[str, McpTool]


async def read_asked(objects: ObjectStore, job: RunInference) -> Asked:
    """Read what a job asks. Raises InvalidRequest, NotFound if it is gone, BusError."""
    body = bytes(job.request) if job.request is not None else None
    if job.request_ref is not None:
        body = await objects.get(job.request_ref)
    if body is None:
        raise InvalidRequest("the job has no request")
    request = decode_prepared(body)
    tools = [tool for tool in request.to_tools() if isinstance(tool, McpTool)]
    return Asked(
        request,
        input_items(request, job.run_id, request.prepared.referred),
        {tool.server_label: tool for tool in tools if not is_own(tool)},
    )
