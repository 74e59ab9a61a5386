"""A response's steps: each is a chat, a run of its own that an inference worker carries out."""

import time
from typing import Final

import msgspec

from schemas import frames, subjects
from schemas.commands import MAX_EMBEDDED, RunInference, encode
from schemas.errors import Cancelled, InternalError, JanError
from schemas.history import History
from schemas.objects import request_name
from schemas.responses.chat import to_chat, to_history, without_oldest
from schemas.responses.story import Stepped, Trimmed, step_id
from workers.responses.office import Asked, Office
from workers.responses.parts import SLACK, Mailbox, ended
from workers.responses.story import Story

_WIND_UP: Final = 2.0  # seconds that a step has to end by itself when the response does
_TOO_LONG: Final = "context_length_exceeded"


class Steps:
    """Has the steps of one response done."""

    def __init__(self, office: Office, job: RunInference, asked: Asked, story: Story) -> None:
        self._office = office
        self._parts = office.parts
        self._job = job
        self._asked = asked
        self._story = story

    async def begin(self) -> None:
        """Have the next step done. Raises QueueFull, BusError."""
        fold = self._story.fold
        number = fold.steps + 1
        last = number - fold.trims >= self._office.settings.response_depth
        body = to_chat(self._asked.request, self._asked.input, fold, last=last)
        step = await self._carrying(to_step(self._job, number), body)
        self._story.say(Stepped(number, step.run_id))
        # What it asks follows from the response's request and what was said since.
        self._parts.tell_accepted(msgspec.structs.replace(step, request=None))
        priority = subjects.BACKGROUND if step.background else subjects.INTERACTIVE
        await self._parts.have_done(
            subjects.inference_job(step.targets[0].pool, priority),
            encode(step),
            f"JOBS:inference:{step.run_id}:0",
            patient=step.background,
        )

    async def until_ended(self, step: Stepped, mailbox: Mailbox) -> None:
        """Wait for a step's commit, and fold what it has said.

        Raises the error that it ended with, unless it is to be tried again with less to read.
        """
        history = await self._until_committed(step, mailbox)
        said = len(self._story.fold.items)
        self._story.hear(history)
        error = to_error(history)
        if error is not None and not self._may_trim(error, said):
            raise error
        if error is not None:
            self._story.say(Trimmed(max(1, 2 * self._story.fold.trimmed)))

    async def _until_committed(self, step: Stepped, mailbox: Mailbox) -> History:
        """Read a step once it has ended: by its word, or by a look at its last frame."""
        edge, until = self._job.edge, self._job.deadline + SLACK
        while True:
            words = await mailbox.next(until)
            late = not words and time.time() > until
            if words and step.run_id not in ended(words):
                continue
            if words or late or await self._parts.is_over(edge, step.run_id):
                history = await self._parts.read(edge, step.run_id)
                if history.commit is not None:
                    return history
                if late:
                    raise InternalError("no worker has ended the step in time")

    async def _carrying(self, step: RunInference, body: bytes) -> RunInference:
        """The step with its request in it, or with where a large one lies."""
        if len(body) <= MAX_EMBEDDED:
            return msgspec.structs.replace(step, request=msgspec.Raw(body))
        reference = request_name(step.run_id)
        await self._office.objects.put(reference, body)
        return msgspec.structs.replace(step, request_ref=reference)

    def _may_trim(self, error: JanError, said: int) -> bool:
        """Whether a step that was refused for its length is tried again with less to read.

        `said`: how many items there were before it.
        """
        request, fold = self._asked.request, self._story.fold
        if request.truncation != "auto" or error.wire_code != _TOO_LONG:
            return False
        history = to_history(request, self._asked.input)
        more = without_oldest(history, max(1, 2 * fold.trimmed))
        return len(fold.items) == said and len(more) < len(without_oldest(history, fold.trimmed))


async def wind_up_step(
    office: Office, job: RunInference, step: Stepped, error: JanError
) -> History:
    """Let a step that was cancelled end by itself, or end it with `error`. Raises BusError."""
    parts, until = office.parts, time.time() + _WIND_UP
    async with parts.mailbox(job.run_id) as mailbox:
        while time.time() < until:
            history = await parts.read(job.edge, step.run_id)
            if history.commit is not None:
                return history
            await mailbox.next(min(until, time.time() + _WIND_UP / 4))
    commit = frames.Commit(status="cancelled", worker=office.desk.worker)
    return await parts.end(job.edge, step.run_id, commit, error.to_wire())


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
    )


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
