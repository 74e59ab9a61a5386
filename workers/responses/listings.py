"""What tools the MCP servers have that a request names: asked for as calls, like any other."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from schemas import ids
from schemas.api.response_tools import McpTool
from schemas.commands import RunInference, encode
from schemas.errors import BusError
from schemas.tool_options import McpToolList
from schemas.tools import CallTool, ToolResult, decode_tool_result
from workers.responses.calls import EDGE, MCP_TOOL, QUEUED, job_message, to_options, to_tool_job
from workers.responses.offers import MCP_QUEUE, Listing
from workers.responses.parts import SLACK, Mailbox, Parts, ended

_SECONDS: Final = 30.0  # that a worker has for it: somewhat more than it gives the server
_MOST: Final = 1 << 20  # bytes of all lists of a response: they are told it, and its models


class Listings:
    """Asks for the tools of the MCP servers that a response's request names."""

    def __init__(self, parts: Parts, mailbox: Mailbox, job: RunInference) -> None:
        self._parts = parts
        self._mailbox = mailbox
        self._job = job

    async def of(self, servers: Sequence[McpTool]) -> list[Listing]:
        """Ask all of them at once. One that does not answer has no tools, and an error.

        Raises QueueFull, BusError.
        """
        calls = [self._to_call(tool, at) for at, tool in enumerate(servers)]
        for call in calls:
            await self._parts.have_done(*job_message(call, MCP_QUEUE), patient=self._job.background)
        until = time.time() + QUEUED + _SECONDS + SLACK
        found: dict[str, ToolResult] = {}
        while len(found) < len(calls) and time.time() < until:
            words = await self._mailbox.next(until)
            for call in calls:
                if call.call_id not in found and (not words or call.call_id in ended(words)):
                    await self._look(call.call_id, found)
        listings = (
            _to_listing(tool.server_label, found.get(call.call_id))
            for tool, call in zip(servers, calls, strict=True)
        )
        return list(_bounded(listings))

    def _to_call(self, tool: McpTool, number: int) -> CallTool:
        options: dict[str, Any] = to_options(tool) | {"op": "list_tools"}
        return to_tool_job(
            self._job,
            ids.derived_id("tool_", self._job.run_id, -1 - number),
            MCP_TOOL,
            msgspec.Raw(b"{}"),
            seconds=_SECONDS,
            options=msgspec.Raw(encode(options)),
            idempotent=True,
        )

    async def _look(self, call_id: str, found: dict[str, ToolResult]) -> None:
        try:
            history = await self._parts.read(EDGE, call_id)
        except BusError:
            return  # it is looked at again
        if history.commit is not None:
            found[call_id] = decode_tool_result(b"".join(history.body))


def _bounded(listings: Iterable[Listing]) -> Iterator[Listing]:
    """Lists as they are while there is room for them; the others are told as a fault."""
    room = _MOST
    for listing in listings:
        size = len(encode(listing.tools))
        if size <= room:
            room -= size
            yield listing
        else:
            yield Listing(listing.label, (), "the request's servers have too many tools")


def _to_listing(label: str, result: ToolResult | None) -> Listing:
    if result is None:
        return Listing(label, (), "no worker has asked the server in time")
    if result.status != "completed" or result.structured is None:
        return Listing(label, (), result.error.message if result.error else result.output)
    try:
        return Listing(label, msgspec.json.decode(result.structured, type=McpToolList).tools)
    except msgspec.DecodeError as error:
        return Listing(label, (), f"the server's list can't be read: {error}")
