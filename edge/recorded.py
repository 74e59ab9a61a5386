"""Recorded requests: what a run was asked, whole, from the log and from what it refers to.

The log has the client's own JSON. What that names is read again: the prompt in its very version,
the conversation as far as it had come. The digest in the log tells whether all is as it was.
"""

from typing import Final

from bus.objects import ObjectStore
from edge.jobs import carrying
from edge.prompts import with_prompt
from edge.responses.references import References
from edge.turns import to_used, with_history
from schemas import replays
from schemas.commands import RunInference, Sources, UsedHistory, UsedPrompt, digest_of
from schemas.errors import Gone, InvalidRequest, NotFound
from schemas.objects import resolved_name
from schemas.queries import AskStored, decode_answer
from schemas.queries.conversations import AskContext, Context

_GONE: Final = "source_deleted"
_CHANGED: Final = "source_changed"


class Requests:
    """Finds the requests of runs that have ended; `ask` reads stored things."""

    def __init__(self, objects: ObjectStore, ask: AskStored, references: References) -> None:
        self._objects = objects
        self._ask = ask
        self._references = references

    async def find(self, command: RunInference) -> bytes:
        """A run's request as its job carried it.

        Raises Gone if that is not known any more, Unavailable.
        """
        request = await self._read(command)
        sources = command.sources
        if command.kind == "response":
            return await self._resolved(command, request, sources or Sources(""))
        if sources is None:
            replays.require_whole(command, request)
            return request
        if sources.prompt is not None:
            request = await self._prompted(command, request, sources.prompt)
        now = None
        if sources.history is not None:
            request, now = await self._with_history(command, request, sources.history)
        if digest_of(request) != sources.digest:
            raise Gone(_to_reason(sources.prompt, sources.history, now), code=_CHANGED)
        return request

    async def carry(
        self, job: RunInference, original: RunInference, request: bytes
    ) -> RunInference:
        """The job of a replay with a request that was found.

        A large one lies where the original's did, so that it is erased with that.
        """
        if original.sources is None:
            return job
        return await carrying(self._objects, job, request, resolved_name(original.run_id))

    async def _read(self, command: RunInference) -> bytes:
        replays.require_recorded(command)
        if command.request_ref is None:
            return bytes(command.request or b"")
        try:
            return await self._objects.get(command.request_ref)
        except NotFound:
            raise Gone(replays.EXPIRED, code="request_expired") from None

    async def _resolved(self, command: RunInference, request: bytes, used: Sources) -> bytes:
        """The request of a response with what it referred to then."""
        try:
            found = await self._references.resolve(request, command.principal, used=used)
        except NotFound as error:
            raise Gone(f"its request can't be made again: {error.message}", code=_GONE) from None
        except InvalidRequest as error:
            raise Gone(f"its request can't be made again: {error.message}", code=_CHANGED) from None
        body = found.to_body(in_words=False)
        if digest_of(body) != used.digest:
            raise Gone(_to_reason(used.prompt, used.history, found.history), code=_CHANGED)
        return body

    async def _prompted(self, command: RunInference, request: bytes, used: UsedPrompt) -> bytes:
        try:
            prompted = await with_prompt(request, self._ask, command.principal, used)
        except NotFound:
            raise Gone(f"the prompt {used.id} of its request was deleted", code=_GONE) from None
        except InvalidRequest:
            raise Gone(_to_reason(used, None, None), code=_CHANGED) from None
        return prompted.body if prompted is not None else request

    async def _with_history(
        self, command: RunInference, request: bytes, used: UsedHistory
    ) -> tuple[bytes, UsedHistory]:
        question = AskContext(
            principal=command.principal,
            conversation=used.conversation,
            branch=used.branch,
            upto=used.head,
        )
        try:
            answer = await self._ask("conversations", "context", question)
            context = decode_answer(answer, Context)
        except NotFound as error:
            what = f"conversation {used.conversation}"
            if error.param == "branch":
                what = f"branch {used.branch!r} of the {what}"
            raise Gone(f"the {what}, with which it went on, was deleted", code=_GONE) from None
        now = to_used(used.conversation, context)
        try:
            return with_history(request, context, keep=False), now
        except InvalidRequest:  # nothing is left of it
            raise Gone(_to_reason(None, used, now), code=_CHANGED) from None


def _to_reason(
    prompt: UsedPrompt | None, before: UsedHistory | None, now: UsedHistory | None
) -> str:
    """What is no longer as it was when the run was accepted, as far as that can be told."""
    if before is None or now is None:
        of_what = f"the prompt {prompt.id}" if prompt is not None else "what its request refers to"
        return f"{of_what} gives other messages than it did"
    conversation = f"the conversation {before.conversation}"
    if now.instruction != before.instruction:
        return f"{conversation} has another instruction of a project than it had then"
    missing = before.items - now.items
    if missing > 0:
        items = "an item" if missing == 1 else f"{missing} items"
        return f"{items} of {conversation} that its request went on with can't be read any more"
    return f"an item of {conversation}, with which its request went on, is no longer as it was"
