"""Calls of this server's own tools by clients: put into a queue, read to their end, cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from bus import QUEUE_FULL, Bus, Message, ToolCatalogue
from edge.inbox import Inbox, Reader
from edge.orders import Caller
from schemas import frames, ids, subjects
from schemas.commands import CancelRun, encode
from schemas.content import Content
from schemas.errors import (
    BusError,
    BusUnavailable,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    JanError,
    NotFound,
    QueueFull,
    Unavailable,
)
from schemas.tools import (
    MAX_ARGUMENTS,
    CallTool,
    Progress,
    Tool,
    ToolResult,
    decode_progress,
    decode_tool_result,
)

logger = structlog.get_logger()

OnProgress = Callable[[Progress], Awaitable[None]]

_QUEUED: Final = 5.0  # seconds that a call may wait for a worker, beside its tool's time-out
_SLACK: Final = 2.0  # seconds after its deadline in which the worker's own word is awaited
_STORE: Final = 0.7  # seconds in which the bus must take a call
_CANCEL_PATIENCE: Final = 30.0  # seconds that a cancel is tried for while the bus is away
_CLOSE: Final = 1.0  # seconds that the last cancels have when the edge stops
_EVENT: Final = b"id: "  # what progress begins with; a result is JSON


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What the settings say about calls."""

    edge: str
    content: Content = "full"


class ToolCalls:
    """The calls that clients of this edge wait for. Made by `open_tool_calls`."""

    def __init__(
        self, bus: Bus, inbox: Inbox, catalogue: ToolCatalogue, options: CallOptions
    ) -> None:
        self._bus = bus
        self._inbox = inbox
        self._catalogue = catalogue
        self._options = options
        self._readers: dict[Reader, None] = {}
        self._named: dict[str, Reader] = {}
        self._cancelling: set[asyncio.Task[None]] = set()
        self._draining = False
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        """How many calls are waited for."""
        return len(self._readers)

    async def call(
        self,
        name: str,
        arguments: bytes,
        caller: Caller,
        on_progress: OnProgress,
        *,
        known_as: str | None = None,
    ) -> ToolResult:
        """Have a tool called, and wait for what comes of it; who stops waiting cancels it.

        `known_as` is what `cancel` may be told. Raises NotFound, InvalidRequest, QueueFull,
        Unavailable, Cancelled, and DeadlineExceeded if no result comes in time.
        """
        if self._draining:
            raise Unavailable("this server is stopping", retry_after=1)
        tool = self._require(name)
        job = self._to_job(tool, arguments, caller)
        # Listen before publishing: a fast worker would answer nobody.
        reader = self._inbox.open(job.call_id)
        self._readers[reader] = None
        if known_as is not None:
            self._named[known_as] = reader
        try:
            await self._publish(job, tool)
            return await self._read(reader, job, on_progress)
        except QueueFull:
            raise
        except BaseException:
            self._cancel(job.call_id)
            raise
        finally:
            if known_as is not None and self._named.get(known_as) is reader:
                del self._named[known_as]
            del self._readers[reader]
            await self._inbox.release(reader)
            if not self._readers:
                self._idle.set()

    def cancel(self, known_as: str) -> None:
        """Have the edge that waits for a call cancel it; nothing happens if none does."""
        reader = self._named.get(known_as)
        if reader is not None:
            reader.stop()
        else:
            self._bus.publish(subjects.CALLED_OFF, known_as.encode())

    async def start(self) -> None:
        """Begin to hear what is called off at other edges."""
        self._called_off = await self._bus.subscribe(subjects.CALLED_OFF, self._on_called_off)

    async def drain(self, timeout: float) -> None:
        """Take no more calls, and let those end that do so in time."""
        self._draining = True
        self._idle.clear()
        if self._readers:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)

    async def close(self) -> None:
        """Let the cancels be told that are on their way."""
        await self._called_off.unsubscribe()
        if self._cancelling:
            await asyncio.wait(self._cancelling, timeout=_CLOSE)
        for task in self._cancelling:
            task.cancel()

    def _on_called_off(self, message: Message) -> None:
        reader = self._named.get(message.data.decode())
        if reader is not None:
            reader.stop()

    def _require(self, name: str) -> Tool:
        tool = self._catalogue.find(name)
        if tool is None:
            raise NotFound(f"there is no tool {name[:100]!r}", param="name", code="unknown_tool")
        if tool.unavailable:
            raise NotFound(
                f"the tool {name} can't be used here: {tool.unavailable}",
                param="name",
                code="tool_unavailable",
            )
        return tool

    def _to_job(self, tool: Tool, arguments: bytes, caller: Caller) -> CallTool:
        if len(arguments) > MAX_ARGUMENTS:
            raise InvalidRequest(
                f"'arguments' are larger than {MAX_ARGUMENTS} bytes", param="arguments"
            )
        now = time.time()
        return CallTool(
            call_id=ids.new_id("tool_"),
            tool=tool.name,
            arguments=msgspec.Raw(arguments),
            principal=caller.principal,
            edge=self._options.edge,
            created=int(now),
            deadline=now + tool.timeout + _QUEUED,
            request_id=caller.request_id,
            api_key=caller.api_key,
            traceparent=caller.traceparent,
            content=self._options.content,
        )

    async def _publish(self, job: CallTool, tool: Tool) -> None:
        try:
            await self._bus.store(
                subjects.tool_job(tool.queue),
                encode(job),
                msg_id=f"JOBS:tools:{job.call_id}:0",
                timeout=_STORE,
            )
        except BusError as error:
            if error.err_code in QUEUE_FULL:
                raise QueueFull(f"too many calls of {tool.name} wait", retry_after=1) from None
            raise BusUnavailable("the message bus did not store the call", retry_after=1) from error

    async def _read(self, reader: Reader, job: CallTool, on_progress: OnProgress) -> ToolResult:
        loop = asyncio.get_running_loop()
        until = loop.time() + job.deadline - time.time() + _SLACK
        body = b""
        while not reader.done:
            data = await reader.next(until)
            if not data and reader.closed:
                raise Cancelled(f"the call of {job.tool} was cancelled")
            if not data and not reader.done and loop.time() >= until:
                raise _too_late(reader, job)
            body += await _tell(data, on_progress)
        return decode_tool_result(body)

    def _cancel(self, call_id: str) -> None:
        task = asyncio.create_task(self._store_cancel(call_id))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _store_cancel(self, call_id: str) -> None:
        try:
            await self._bus.store(
                subjects.cancel(call_id),
                encode(CancelRun(call_id, "nobody waits for it any more", "", time.time())),
                msg_id=f"CONTROL:cancel:{call_id}:0",
                timeout=_CANCEL_PATIENCE,
            )
        except JanError as error:
            logger.warning("a call could not be cancelled", call_id=call_id, error=error.message)


async def _tell(data: bytes, on_progress: OnProgress) -> bytes:
    """Tell the progress that came; what is left belongs to the result."""
    while data.startswith(_EVENT):
        event, end, data = data.partition(b"\n\n")
        await on_progress(decode_progress(frames.chunk_of(event + end)))
    return data


def _too_late(reader: Reader, job: CallTool) -> DeadlineExceeded:
    if not reader.fold.seq:
        return DeadlineExceeded(f"no worker took the call of {job.tool} in time", code="no_worker")
    return DeadlineExceeded(f"{job.tool} did not end in time")


@asynccontextmanager
async def open_tool_calls(calls: ToolCalls) -> AsyncIterator[ToolCalls]:
    """Keep `calls` working for the context's life."""
    await calls.start()
    try:
        yield calls
    finally:
        await calls.close()
