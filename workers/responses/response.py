"""A response: steps of inference and calls of tools, until the model has answered.

What it is at is what its frames say, folded: each entry is stored before what follows from it is
relied on, and every part has an id that follows from its place. So whoever goes on after a worker's
death finds the same state, asks for the same parts again, which are there already, and writes on.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bus import QUEUE_FULL, ObjectStore, ToolCatalogue
from schemas import frames, ids, subjects
from schemas.api.items import Item
from schemas.api.response_tools import McpTool
from schemas.api.responses import to_object
from schemas.commands import MAX_EMBEDDED, RunInference, decode_run_inference, encode
from schemas.errors import (
    BusError,
    Cancelled,
    InternalError,
    InvalidRequest,
    JanError,
    QueueFull,
)
from schemas.events import encode_run_accepted
from schemas.history import History
from schemas.objects import request_name
from schemas.responses.calls import ToolCall
from schemas.responses.chat import to_chat, to_history, without_oldest
from schemas.responses.fold import ResponseFold
from schemas.responses.prepared import PreparedRequest, decode_prepared, input_items
from schemas.responses.recorded import find_result
from schemas.responses.story import (
    Added,
    Begun,
    Call,
    Called,
    Ended,
    Entry,
    Judged,
    Offered,
    Progressed,
    Returned,
    Stepped,
    Trimmed,
    encode_entry,
    step_id,
)
from schemas.tools import ToolResult, Word, decode_tool_result
from workers.responses.approvals import find_approvals
from workers.responses.calls import (
    EDGE,
    call_id_of,
    failed,
    find_refusal,
    job_message,
    to_call_job,
)
from workers.responses.formats import to_correction
from workers.responses.listings import Listings
from workers.responses.offers import Listing, Offers, is_own, to_listing
from workers.responses.parts import Mailbox, Parts
from workers.responses.settings import ResponsesSettings
from workers.responses.webhooks import tell_webhook
from workers.runtime.delivery import Delivery
from workers.runtime.long_run import Ending, LongRun, RunDesk
from workers.runtime.writer import Writer

_SLACK: Final = 3.0  # seconds after its deadline in which a part's own word about it is awaited
_WIND_UP: Final = 2.0  # seconds that a step has to end by itself when the response does
_STORE_SECONDS: Final = 5.0
_AGAIN: Final = 1.0
_TOO_LONG: Final = "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Office:
    """What all responses of a worker share."""

    desk: RunDesk
    objects: ObjectStore
    parts: Parts
    catalogue: ToolCatalogue
    settings: ResponsesSettings


class Response(LongRun):
    """Carries one response out."""

    def __init__(self, office: Office, job: RunInference, delivery: Delivery) -> None:
        super().__init__(office.desk, job, delivery)
        self._office = office
        self._parts = office.parts
        self._bus = office.desk.bus
        self._fold = ResponseFold(job.run_id)
        self._request = PreparedRequest()
        self._input: list[Item] = []
        self._servers: dict[str, McpTool] = {}  # MCP servers that the request says how to reach

    @property
    def fenced(self) -> bool:
        """Always: its entries are several messages."""
        return True

    async def generate(self, writer: Writer) -> Ending:
        """Go on from what the frames say, to the end."""
        # Hear first: what ends while the frames are read would be missed.
        async with self._parts.mailbox(self.job.run_id) as mailbox:
            await self._recall(writer)
            await self._read_request()
            await self._begin_story(writer, mailbox)
            fold = self._fold
            while True:
                if fold.step is not None:
                    await self._until_step_ends(writer, mailbox, fold.step)
                elif fold.to_judge is not None:
                    self._say(writer, Judged(await to_correction(self._request, fold)))
                elif fold.pending:
                    await self._answer(writer, mailbox, fold.pending)
                elif (ending := self._find_end()) is not None:
                    return ending
                else:
                    await self._step(writer)

    async def to_ending(self, error: JanError, writer: Writer) -> Ending:
        """What ends it early: HTTP's status if nothing was said yet, else as responses have it."""
        if self._fold.begun is None:
            await self._recall(writer)
        if self._fold.begun is None:
            return await super().to_ending(error, writer)
        await self._wind_up(writer, error)
        if isinstance(error, Cancelled):
            return self._end("cancelled", "cancelled")
        refusal = None if self._fold.items else error
        problem = {"code": _to_code(error), "message": error.message}
        return self._end("failed", "failed", refusal=refusal, error=problem)

    async def follow_up(self, history: History) -> None:
        """Have its webhook sent, if it has one."""
        if self.job.webhook is not None:
            await tell_webhook(self._bus, self.job, self.job.webhook, history)

    def _say(self, writer: Writer, entry: Entry) -> None:
        """Write an entry, and fold it."""
        told = encode_entry(entry)
        writer.send([told])
        self._fold.feed(told)

    async def _recall(self, writer: Writer) -> None:
        """Fold what was written before, with the frames of the steps that have ended."""
        self._fold = ResponseFold(self.job.run_id)
        for entry in writer.history.chunks:
            self._fold.feed(entry)
            if self._fold.step is not None:
                self._hear(await self._parts.read(self.job.edge, self._fold.step.run_id))

    async def _read_request(self) -> None:
        job = self.job
        body = bytes(job.request) if job.request is not None else None
        if job.request_ref is not None:
            body = await self._office.objects.get(job.request_ref)
        if body is None:
            raise InvalidRequest("the job has no request")
        self._request = decode_prepared(body)
        self._input = input_items(self._request, job.run_id, self._request.prepared.referred)
        tools = [tool for tool in self._request.to_tools() if isinstance(tool, McpTool)]
        self._servers = {tool.server_label: tool for tool in tools if not is_own(tool)}

    async def _begin_story(self, writer: Writer, mailbox: Mailbox) -> None:
        """Say what the response begins with, as far as nobody has said it."""
        if self._fold.offers is None:
            await self._offer(writer, mailbox)
        context, offers = self._request.prepared.context, self._fold.offers or {}
        approvals = list(find_approvals(context, self._input, offers))
        for approval in approvals[self._fold.approvals :]:
            self._say(writer, approval)

    async def _offer(self, writer: Writer, mailbox: Mailbox) -> None:
        """Say that it begins, and what the model is offered."""
        fold = self._fold
        offers = Offers(self._office.catalogue, self._request.to_choice())
        offers.add_all(self._request.to_tools())  # before anything is said: a fault is a status
        if fold.begun is None:
            self._say(writer, self._to_begun())
        servers = list(self._servers.values())
        listed = await self._list(servers, mailbox) if servers else []
        for number, listing in enumerate(listed):
            if number >= len(fold.items):  # an earlier worker may have said some
                self._say(writer, Added(msgspec.Raw(encode(listing.to_item()))))
            offers.add_listed(servers[number], listing)
        self._say(writer, Offered(offers.to_list()))

    async def _list(self, servers: Sequence[McpTool], mailbox: Mailbox) -> list[Listing]:
        """What tools these servers have, or had in the response that this one repeats."""
        recorded = self._request.prepared.recorded
        if recorded is None:
            return await Listings(self._bus, self._parts, mailbox, self.job).of(servers)
        known = {item["server_label"]: to_listing(item) for item in recorded.lists}
        nothing = "the recorded response did not ask it"
        return [
            known.get(tool.server_label, Listing(tool.server_label, (), nothing))
            for tool in servers
        ]

    def _to_begun(self) -> Begun:
        request, job = self._request, self.job
        response = to_object(
            request,
            ids.public_id(job.run_id, "response"),
            job.created,
            conversation=request.prepared.conversation,
        )
        options = request.stream_options
        return Begun(
            response=msgspec.Raw(encode(response | {"model": job.model})),
            queued=bool(request.background),
            include=list(request.include or ()),
            obfuscate=options is not None and bool(options.include_obfuscation),
            judged=request.prepared.in_words,
        )

    async def _step(self, writer: Writer) -> None:
        """Have the next step of inference done."""
        number = self._fold.steps + 1
        last = number - self._fold.trims >= self._office.settings.response_depth
        body = to_chat(self._request, self._input, self._fold, last=last)
        step = await self._carrying(to_step(self.job, number), body)
        self._say(writer, Stepped(number, step.run_id))
        priority = subjects.BACKGROUND if self.job.background else subjects.INTERACTIVE
        self._bus.send_stored(
            subjects.run_event("accepted", step.run_id),
            # What it asks follows from the response's request and what was said since.
            encode_run_accepted(encode(msgspec.structs.replace(step, request=None)), time.time()),
            lambda _: None,
            msg_id=f"EVENTS:run.accepted:{step.run_id}:0",
        )
        await self._have_done(
            subjects.inference_job(step.targets[0].pool, priority),
            encode(step),
            f"JOBS:inference:{step.run_id}:0",
        )

    async def _carrying(self, step: RunInference, body: bytes) -> RunInference:
        """The step with its request in it, or with where a large one lies."""
        if len(body) <= MAX_EMBEDDED:
            return msgspec.structs.replace(step, request=msgspec.Raw(body))
        reference = request_name(step.run_id)
        await self._office.objects.put(reference, body)
        return msgspec.structs.replace(step, request_ref=reference)

    async def _until_step_ends(self, writer: Writer, mailbox: Mailbox, step: Stepped) -> None:
        """Wait for a step's commit. Raises the error that it ended with."""
        until = self.job.deadline + _SLACK
        while True:
            words = await mailbox.next(until)
            if words and step.run_id not in ended(words):
                continue
            history = await self._parts.read(self.job.edge, step.run_id)
            if history.commit is None and time.time() > until:
                raise InternalError("no worker has ended the step in time")
            said = len(self._fold.items)
            if self._hear(history):
                error = to_error(history)
                if error is not None and not self._may_trim(error, said):
                    raise error
                if error is not None:
                    self._say(writer, Trimmed(max(1, 2 * self._fold.trimmed)))
                return

    def _may_trim(self, error: JanError, said: int) -> bool:
        """Whether a step that was refused for its length is tried again with less to read."""
        fold = self._fold
        if self._request.truncation != "auto" or error.wire_code != _TOO_LONG:
            return False
        history = to_history(self._request, self._input)
        more = without_oldest(history, max(1, 2 * fold.trimmed))
        return len(fold.items) == said and len(more) < len(without_oldest(history, fold.trimmed))

    def _hear(self, history: History) -> bool:
        """Fold a step's frames if it has ended."""
        commit = history.commit
        if commit is None:
            return False
        for chunk in history.chunks:
            self._fold.hear(chunk)
        self._fold.end_step(commit.status, commit.finish_reason, commit.usage)
        self.deployment = commit.deployment or self.deployment
        return True

    async def _answer(self, writer: Writer, mailbox: Mailbox, pending: Sequence[ToolCall]) -> None:
        """Have calls carried out, at the same time unless the request says otherwise."""
        one_by_one = self._request.parallel_tool_calls is False
        await self._dispatch(writer, pending[:1] if one_by_one else pending)
        called = self._fold.called
        until = (
            time.time()
            + _SLACK
            + max([call.offer.timeout for call in pending if call.offer is not None], default=0.0)
        )
        while waited := [call for call in self._fold.pending if call.item_id in called]:
            words = await mailbox.next(until)
            self._tell_progress(writer, waited, words)
            for call in waited:
                part = called[call.item_id]
                if words and part not in ended(words):
                    continue
                result = await self._read_result(part, late=time.time() > until)
                if result is not None:
                    self._say(writer, Returned(call.item_id, msgspec.Raw(encode(result))))

    async def _dispatch(self, writer: Writer, calls: Sequence[ToolCall]) -> None:
        """Give calls to the workers of their tools; what can't be is answered at once."""
        fold, settings = self._fold, self._office.settings
        most = min(
            self._request.max_tool_calls or settings.response_tool_calls,
            settings.response_tool_calls,
        )
        hidden = fold.steps - fold.trims >= settings.response_depth
        given: list[ToolCall] = []
        for call in calls:
            refusal = None
            if call.item_id not in fold.called:
                refusal = find_refusal(call, fold, most - len(given), hidden=hidden)
                refusal = refusal or self._find_recorded(call)
            if refusal is not None:
                self._say(writer, Returned(call.item_id, msgspec.Raw(encode(refusal))))
            else:
                given.append(call)
        new = [
            Call(call.item_id, call_id_of(self.job, call))
            for call in given
            if call.item_id not in fold.called
        ]
        if new:
            self._say(writer, Called(new))
        for call in given:
            assert call.offer is not None
            server = self._servers.get(call.offer.label) if call.offer.kind == "mcp" else None
            job = to_call_job(self.job, call, call.offer, server)
            await self._have_done(*job_message(job, call.offer.queue))

    def _find_recorded(self, call: ToolCall) -> ToolResult | None:
        """What a tool said in the response that this one repeats; None if it is no replay."""
        recorded, place = self._request.prepared.recorded, call.place
        if recorded is None or place is None:
            return None
        return find_result(recorded, place.item, self._fold.items[: place.at])

    async def _read_result(self, part: str, *, late: bool) -> ToolResult | None:
        history = await self._parts.read(EDGE, part)
        if history.commit is not None and history.body:
            return decode_tool_result(b"".join(history.body))
        if history.commit is not None:
            return failed("server_error", "The tool's worker failed.")
        if not late:
            return None
        self._parts.cancel([part], "it took too long")
        return failed("timeout", "The tool did not answer in time; it may still have had effects.")

    def _tell_progress(
        self, writer: Writer, waited: Sequence[ToolCall], words: Sequence[Word]
    ) -> None:
        items = {self._fold.called[call.item_id]: call.item_id for call in waited}
        for word in words:
            if word.progress is not None and word.about in items:
                self._say(writer, Progressed(items[word.about], word.progress))

    async def _have_done(self, subject: str, job: bytes, msg_id: str) -> None:
        """Put a part's job into its queue. Raises QueueFull, BusError."""
        while True:
            try:
                await self._bus.store(subject, job, msg_id=msg_id, timeout=_STORE_SECONDS)
                return
            except BusError as error:
                if error.err_code not in QUEUE_FULL:
                    raise
            if not self.job.background:
                raise QueueFull("the queue of the workers is full", retry_after=1)
            await asyncio.sleep(_AGAIN)  # nobody waits: there will be room

    def _find_end(self) -> Ending | None:
        """How it ends, if it does now."""
        fold, settings = self._fold, self._office.settings
        if fold.steps == fold.trims:
            return None
        size = len(encode(fold.items))
        if size > settings.response_bytes:
            raise InternalError(f"the output has more than {settings.response_bytes} bytes")
        if fold.cut is not None:
            return self._end("completed", "incomplete", reason=fold.cut)
        if any(call.is_clients for call in fold.calls):
            return self._end("completed", "completed")
        if fold.steps - fold.trims >= settings.response_depth and fold.calls:
            return self._end("completed", "incomplete", reason="max_tool_calls")
        most = self._request.max_output_tokens
        if fold.calls and most is not None and fold.usage.output_tokens >= most:
            return self._end("completed", "incomplete", reason="max_output_tokens")
        corrected = fold.messages[-1]["role"] == "user"
        return None if fold.calls or corrected else self._end("completed", "completed")

    def _end(
        self,
        run_status: str,
        status: str,
        *,
        reason: str | None = None,
        refusal: JanError | None = None,
        error: dict[str, Any] | None = None,
    ) -> Ending:
        """The last entry, with the response as it will be stored."""
        details = {"reason": reason} if reason is not None else None
        output = _within(self._fold.items, self._office.settings.response_bytes)
        response = self._fold.to_response(
            status, time.time(), incomplete_details=details, error=error, output=output
        )
        ending = Ended(msgspec.Raw(encode(response)))
        if refusal is not None:
            envelope = msgspec.Raw(refusal.to_wire(self.job.request_id))
            ending = Ended(ending.response, refusal.http_status, envelope)
        return Ending(
            run_status,
            chunk=encode_entry(ending),
            usage=encode(self._fold.usage.to_chat()),
            finish_reason=reason or status,
        )

    async def _wind_up(self, writer: Writer, error: JanError) -> None:
        """End the parts that are still at work: their part of the output stays as it is then."""
        fold, reason = self._fold, f"its response has ended: {error.message}"
        waited = [fold.called[call.item_id] for call in fold.pending if call.item_id in fold.called]
        self._parts.cancel(waited, reason)
        for call in fold.pending:
            result = failed("cancelled", "The response has ended.", "cancelled")
            self._say(writer, Returned(call.item_id, msgspec.Raw(encode(result))))
        if fold.step is not None:
            self._parts.cancel([fold.step.run_id], reason)
            self._hear(await self._end_step(fold.step, error))
        if fold.to_judge is not None:
            self._say(writer, Judged())
            await self._wind_up(writer, error)

    async def _end_step(self, step: Stepped, error: JanError) -> History:
        """Let a step end by itself, or end it."""
        edge, until = self.job.edge, time.time() + _WIND_UP
        async with self._parts.mailbox(self.job.run_id) as mailbox:
            while time.time() < until:
                history = await self._parts.read(edge, step.run_id)
                if history.commit is not None:
                    return history
                await mailbox.next(min(until, time.time() + _WIND_UP / 4))
        commit = frames.Commit(status="cancelled", worker=self._office.desk.worker)
        return await self._parts.end(edge, step.run_id, commit, error.to_wire())


def to_response(office: Office, delivery: Delivery) -> Response:
    """Read a job. Raises DecodeError."""
    return Response(office, decode_run_inference(delivery.data), delivery)


def to_step(job: RunInference, number: int) -> RunInference:
    """The job of a response's step: a streamed chat, which is not stored by itself."""
    return msgspec.structs.replace(
        job,
        run_id=step_id(job.run_id, number),
        kind="chat",
        parent=job.run_id,
        stream=True,
        include_usage=True,
        request=None,
        request_ref=None,
        turn=None,
        store=False,
        webhook=None,
    )


def _within(items: Sequence[Item], most: int) -> list[Item]:
    """The first items, as many as there is room for: the bus takes no message of any size."""
    kept: list[Item] = []
    for item in items:
        most -= len(encode(item)) + 1
        if most < 0:
            break
        kept.append(item)
    return kept


def ended(words: Sequence[Word]) -> set[str]:
    """The parts that words say have ended."""
    return {word.about for word in words if word.ended}


class _Told(msgspec.Struct):
    message: str = "the model failed"
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None


class _Envelope(msgspec.Struct):
    error: _Told


def to_error(history: History) -> JanError | None:
    """What a step ended with, if it did not end well."""
    assert history.commit is not None
    if history.commit.status == "completed":
        return None
    told = msgspec.json.decode(history.error, type=_Envelope).error if history.error else _Told()
    if history.commit.status == "cancelled":
        return Cancelled(told.message)
    return JanError(
        told.message,
        type=told.type,
        code=told.code,
        param=_to_param(told.param),
        retry_after=told.retry_after,
        status=history.error_status or 500,
    )


def _to_param(chats: str | None) -> str | None:
    """The response's field that a field of its chat was made of."""
    if chats is None or not chats.startswith(("messages", "response_format")):
        return chats
    return "input" if chats.startswith("messages") else "text.format"


def _to_code(error: JanError) -> str:
    """OpenAI's codes for a failed response."""
    if error.http_status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.http_status == 400 else "server_error"
