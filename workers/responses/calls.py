"""Calls of tools as jobs for their workers, and what is told of those that can't be."""

import time
from typing import Any, Final

import msgspec

from schemas import subjects
from schemas.api.response_tools import McpTool
from schemas.commands import RunInference, encode
from schemas.responses.calls import ToolCall
from schemas.responses.fold import ResponseFold
from schemas.responses.recorded import call_id
from schemas.responses.story import Offer
from schemas.tools import (
    MAX_ARGUMENTS,
    CallTool,
    ToolProblem,
    ToolResult,
    ToolStatus,
)

MCP_TOOL: Final = "mcp"
EDGE: Final = "responses"  # in place of an edge's name: no client reads a call's frames
QUEUED: Final = 60.0  # seconds that a call may wait for a worker, before its own time begins


def call_id_of(job: RunInference, call: ToolCall) -> str:
    """The id of a call: it follows from its place in the output."""
    assert call.place is not None
    return call_id(job.run_id, call.place.at)


def to_call_job(
    job: RunInference, call: ToolCall, offer: Offer, options: object = None
) -> CallTool:
    """The job that has a call carried out; `options` are the call's own, else the offer's."""
    return to_tool_job(
        job,
        call_id_of(job, call),
        offer.tool,
        _to_json(call.arguments),
        seconds=offer.timeout,
        options=offer.options if options is None else msgspec.Raw(encode(options)),
        idempotent=offer.idempotent,
    )


def to_tool_job(
    job: RunInference,
    call_id: str,
    tool: str,
    arguments: msgspec.Raw,
    *,
    seconds: float,
    options: msgspec.Raw | None,
    idempotent: bool,
) -> CallTool:
    """The job that has a tool do something; it has so many seconds once a worker begins it."""
    now = time.time()
    return CallTool(
        call_id=call_id,
        tool=tool,
        arguments=arguments,
        principal=job.principal,
        edge=EDGE,
        created=int(now),
        deadline=min(job.deadline, now + QUEUED + seconds),
        request_id=job.request_id,
        parent=job.run_id,
        options=options,
        api_key=job.api_key,
        traceparent=job.traceparent,
        content=job.content,
        idempotent=idempotent,
    )


def to_options(tool: McpTool) -> dict[str, Any]:
    """What a call of an MCP server's tool says of the server; secrets in it are sealed."""
    return {
        "server_label": tool.server_label,
        "server_url": tool.server_url,
        "headers": tool.headers or {},
        "authorization": tool.authorization,
    }


def _to_json(arguments: str) -> msgspec.Raw:
    """Arguments as the model wrote them; what is no JSON becomes a text, which no tool takes."""
    try:
        msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(encode(arguments))
    return msgspec.Raw(arguments.encode())


def find_refusal(
    call: ToolCall, fold: ResponseFold, most: int, *, hidden: bool
) -> ToolResult | None:
    """What the model is told of a call that is not carried out; None if it is.

    `most` calls are carried out in a response; `hidden`: the step was offered no tools.
    """
    if call.offer is None or hidden:
        known = ", ".join(sorted(fold.offers or {})) or "none"
        return failed("unknown_tool", f"There is no tool {call.name!r}. There are: {known}.")
    if len(fold.called) >= most:
        return failed("limit", "The limit of tool calls is reached: answer without calling more.")
    if len(call.arguments.encode()) > MAX_ARGUMENTS:
        return failed("too_large", f"The arguments are larger than {MAX_ARGUMENTS} bytes.")
    return None


def failed(code: str, message: str, status: ToolStatus = "failed") -> ToolResult:
    """A call that came to nothing."""
    return ToolResult(status, message, error=ToolProblem(code, message))


def job_message(call: CallTool, queue: str) -> tuple[str, bytes, str]:
    """Where a call's job goes, the job, and the message's id."""
    subject = subjects.tool_job(queue)
    return subject, encode(call), f"JOBS:tools:{call.call_id}:0"
