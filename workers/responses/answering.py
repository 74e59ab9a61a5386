"""Answering a step's calls: each is a run of its own that a tools worker carries out."""

import time
from collections.abc import Sequence

import msgspec

from schemas.commands import RunInference, encode
from schemas.responses.calls import ToolCall
from schemas.responses.recorded import find_result
from schemas.responses.story import Call, Called, Offer, Progressed, Returned
from schemas.tool_options import PYTHON, PythonOptions
from schemas.tools import ToolResult, Word, decode_tool_result
from workers.responses.calls import (
    EDGE,
    QUEUED,
    call_id_of,
    failed,
    find_refusal,
    job_message,
    to_call_job,
    to_options,
)
from workers.responses.folder import Folder
from workers.responses.office import Asked, Office
from workers.responses.parts import SLACK, Mailbox, ended
from workers.responses.story import Story


class Answering:
    """Has the calls of one response carried out."""

    def __init__(self, office: Office, job: RunInference, asked: Asked, story: Story) -> None:
        self._parts = office.parts
        self._settings = office.settings
        self._folder = Folder(office.objects, job, asked)
        self._job = job
        self._asked = asked
        self._story = story

    async def answer(self, pending: Sequence[ToolCall], mailbox: Mailbox) -> None:
        """Have calls carried out, at the same time unless the request says otherwise.

        Raises QueueFull, BusError.
        """
        one_by_one = self._asked.request.parallel_tool_calls is False
        await self._dispatch(pending[:1] if one_by_one else pending)
        fold, called = self._story.fold, self._story.fold.called
        until = (
            time.time()
            + QUEUED
            + SLACK
            + max([call.offer.timeout for call in pending if call.offer is not None], default=0.0)
        )
        while waited := [call for call in fold.pending if call.item_id in called]:
            words = await mailbox.next(until)
            self._tell_progress(waited, words)
            for call in waited:
                part = called[call.item_id]
                if words and part not in ended(words):
                    continue
                result = await self._read_result(part, late=time.time() > until)
                if result is not None:
                    self._return(call, result)

    async def _dispatch(self, calls: Sequence[ToolCall]) -> None:
        """Give calls to the workers of their tools; what can't be is answered at once."""
        fold, settings = self._story.fold, self._settings
        most = min(
            self._asked.request.max_tool_calls or settings.response_tool_calls,
            settings.response_tool_calls,
        )
        hidden = fold.steps - fold.trims >= settings.response_depth
        given: list[ToolCall] = []
        for call in calls:
            answer = None
            if call.item_id not in fold.called:
                answer = find_refusal(call, fold, most - len(given), hidden=hidden)
                answer = answer or self._find_recorded(call)
            if answer is not None:
                self._return(call, answer)
            else:
                given.append(call)
        new = [
            Call(call.item_id, call_id_of(self._job, call))
            for call in given
            if call.item_id not in fold.called
        ]
        if new:
            self._story.say(Called(new))
        for call in given:
            await self._give_out(call)

    async def _give_out(self, call: ToolCall) -> None:
        """Put a call into the queue of its tool; one that is there already stays the only one."""
        offer = call.offer
        assert offer is not None
        job = to_call_job(self._job, call, offer, await self._options_of(offer))
        await self._parts.have_done(*job_message(job, offer.queue), patient=self._job.background)

    async def _options_of(self, offer: Offer) -> object:
        """What a call's job says besides, where that is more than the offer's. Raises BusError."""
        if offer.kind == "mcp" and offer.label in self._asked.servers:
            return to_options(self._asked.servers[offer.label])
        if offer.tool != PYTHON:
            return None
        # Calls at the same time don't see what each other make, whoever gives them out.
        fold, one_by_one = self._story.fold, self._asked.request.parallel_tool_calls is False
        told = [one for one in fold.told.values() if one_by_one or one.step < fold.steps]
        return PythonOptions(await self._folder.files(told))

    def _find_recorded(self, call: ToolCall) -> ToolResult | None:
        """What a tool said in the response that this one repeats; None if it is no replay."""
        recorded, place = self._asked.request.prepared.recorded, call.place
        if recorded is None or place is None:
            return None
        return find_result(recorded, place.item, self._story.fold.items[: place.at])

    async def _read_result(self, part: str, *, late: bool) -> ToolResult | None:
        """What has come of a call; None if it is still at work, and not late."""
        history = await self._parts.read(EDGE, part)
        if history.commit is not None and history.body:
            return decode_tool_result(b"".join(history.body))
        if history.commit is not None:
            return failed("server_error", "The tool's worker failed.")
        if not late:
            return None
        self._parts.cancel([part], "it took too long")
        return failed("timeout", "The tool did not answer in time; it may still have had effects.")

    def _tell_progress(self, waited: Sequence[ToolCall], words: Sequence[Word]) -> None:
        items = {self._story.fold.called[call.item_id]: call.item_id for call in waited}
        for word in words:
            if word.progress is not None and word.about in items:
                self._story.say(Progressed(items[word.about], word.progress))

    def _return(self, call: ToolCall, result: ToolResult) -> None:
        self._story.say(Returned(call.item_id, msgspec.Raw(encode(result))))
