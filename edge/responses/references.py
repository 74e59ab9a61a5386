"""What a request for a response refers to: read, and put beside it for the loop.

The response before it, a conversation, a prompt, single items, and what was compacted.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from edge.prompts import render
from edge.responses.checks import (
    require_asked,
    require_containers,
    require_known_calls,
    require_readable,
)
from edge.responses.compaction import to_words
from edge.responses.said import Said
from edge.turns import to_used
from schemas.api import responses as api
from schemas.api.chat import ConversationRef
from schemas.api.hosted import files_of
from schemas.api.items import Item
from schemas.api.response_tools import CodeInterpreterTool
from schemas.commands import Sources, Turn, UsedHistory, UsedPrompt, encode
from schemas.errors import InvalidRequest, NotFound
from schemas.objects import response_of
from schemas.queries import AskStored, decode_answer
from schemas.queries.conversations import AskContext, Context
from schemas.queries.responses import AskResponseContext, ResponseContext
from schemas.responses.prepared import Prepared, input_items, references

_NOBODY: Final = "run_" + "0" * 26  # whose items are only looked at
_NOTHING: Final = Sources("")
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[dict[str, Any]]).decode


@dataclass(slots=True)
class Resolved:
    """A request with all that it refers to. `turn` is where it goes on in a conversation."""

    request: api.ResponseRequest
    fields: dict[str, msgspec.Raw]
    prepared: Prepared
    items: list[Item] = field(default_factory=list)  # of the input
    prompted: int = 0  # of them, the first, are a prompt's messages
    prompt: UsedPrompt | None = None
    history: UsedHistory | None = None
    turn: Turn | None = None
    begun_after: UsedHistory | None = None  # what the first of the responses before had of one
    trimmed: bool = False  # the conversation has more than is read
    images: bool = False  # the conversation has some

    @property
    def asked(self) -> Sequence[Item]:
        """What the client's own input says, as later responses are told it."""
        return self.items[self.prompted :]

    @property
    def all_items(self) -> Sequence[Item]:
        """All that the model will read, but a conversation's history."""
        return [*self.prepared.context, *self.items]

    def to_body(self, *, in_words: bool) -> bytes:
        """The request as its job carries it."""
        prepared = msgspec.structs.replace(self.prepared, in_words=in_words)
        own = {"model": self.request.model, "prepared": prepared}
        return encode(self.fields | {name: msgspec.Raw(encode(own[name])) for name in own})


class References:
    """Reads what requests refer to; `ask` reads stored things, `key` opens what was sealed."""

    def __init__(self, ask: AskStored, key: str) -> None:
        self.key = key
        self._ask = ask

    async def resolve(
        self,
        body: bytes,
        principal: str,
        *,
        before: Said | None = None,
        used: Sources | None = None,
    ) -> Resolved:
        """Check a request, and read what it refers to.

        `before` is what was said up to the previous response, where not all of that is stored;
        `used` is what its references stood for when it was first made.

        Raises InvalidRequest naming the field, NotFound, Unavailable.
        """
        request = api.decode_request(body)
        found = Resolved(request, _split(body), Prepared())
        used = used or _NOTHING
        await self._render(found, principal, used.prompt)
        _require_content(request)
        require_containers(request.to_tools())
        await self._read_items(found, principal, before)
        self._read_input(found)
        await self._read_conversation(found, principal, used.history)
        await self._read_conversation_before(found, principal)
        await self._read_containers(found, principal)
        _require_something(found)
        require_asked(found.items, found.prepared.context)
        if not found.trimmed:  # else the call may be in what is left out
            messages = found.prepared.messages or b"[]"
            require_known_calls(found.items, found.prepared.context, messages)
        return found

    async def _render(self, found: Resolved, principal: str, used: UsedPrompt | None) -> None:
        """Put a prompt's messages before the input."""
        request = found.request
        if request.prompt is None:
            return
        rendered = await render(self._ask, principal, request.prompt, used)
        own = request.input or []
        if isinstance(own, str):
            own = [msgspec.Raw(encode({"role": "user", "content": own}))]
        request.input = [*map(_to_item, rendered.messages), *own]
        request.model = request.model or rendered.model or ""
        found.fields["input"] = msgspec.Raw(encode(request.input))
        found.prompt = UsedPrompt(rendered.id, rendered.version)
        found.prompted = len(rendered.messages)

    async def _read_items(self, found: Resolved, principal: str, before: Said | None) -> None:
        """Read the responses before, as far as they are stored, and what the input refers to."""
        request, prepared = found.request, found.prepared
        named = references(request.input) if isinstance(request.input, list) else []
        previous = request.previous_response_id if before is None else before.after
        if previous is not None or any(named):
            question = AskResponseContext(
                principal=principal,
                previous=previous,
                references=named,
                deleted=before is not None,
            )
            answer = await self._ask("responses", "context", question)
            context = decode_answer(answer, ResponseContext)
            prepared.context = _decode_items(encode(context.items))
            prepared.referred = {
                name: msgspec.json.decode(item) for name, item in context.referred.items()
            }
            found.begun_after = context.history
        if before is not None:
            prepared.context += before.items
            found.begun_after = before.history or found.begun_after
        prepared.files = files_of(prepared.context)

    def _read_input(self, found: Resolved) -> None:
        """Check the input's items; where it has compactions, the job gets what they say."""
        prepared = found.prepared
        items = input_items(found.request, _NOBODY, prepared.referred)
        require_readable(items)
        prepared.context = to_words(prepared.context, self.key, "previous_response_id")
        found.items = to_words(items, self.key, "input")
        if found.items != items:
            found.fields["input"] = msgspec.Raw(encode(found.items))

    async def _read_conversation(
        self, found: Resolved, principal: str, used: UsedHistory | None
    ) -> None:
        """Read a conversation's history, up to where it had come."""
        named = found.request.conversation
        if named is None:
            return
        reference = named if isinstance(named, ConversationRef) else ConversationRef(named)
        question = AskContext(
            principal=principal,
            conversation=reference.id,
            branch=used.branch if used is not None else reference.branch,
            upto=used.head if used is not None else None,
        )
        context = await self._read_history(found, question)
        found.prepared.instruction = context.instruction
        found.prepared.conversation = reference.id
        found.history = to_used(reference.id, context)
        found.turn = Turn(reference.id, context.branch, context.head, context.project)

    async def _read_conversation_before(self, found: Resolved, principal: str) -> None:
        """Read what the responses before had of a conversation; what was deleted is left out."""
        used = found.begun_after
        if used is None:
            return
        question = AskContext(
            principal=principal, conversation=used.conversation, branch=used.branch, upto=used.head
        )
        with suppress(NotFound):
            await self._read_history(found, question)

    async def _read_history(self, found: Resolved, question: AskContext) -> Context:
        """Put a conversation's history before all else that was said."""
        context = decode_answer(await self._ask("conversations", "context", question), Context)
        prepared = found.prepared
        prepared.messages = context.messages
        prepared.context = [*_decode_items(encode(context.asked)), *prepared.context]
        prepared.files = [*context.files, *prepared.files]
        found.trimmed, found.images = context.trimmed, context.images
        return context

    async def _read_containers(self, found: Resolved, principal: str) -> None:
        """Find the files of a container that the request names: one of an earlier response."""
        for number, tool in enumerate(found.request.to_tools()):
            named = tool.container if isinstance(tool, CodeInterpreterTool) else None
            if not isinstance(named, str):
                continue
            question = AskResponseContext(principal=principal, previous=response_of(named))
            try:
                answer = await self._ask("responses", "context", question)
            except NotFound:
                param = f"tools[{number}].container"
                raise NotFound(f"'{param}': there is no container {named}", param=param) from None
            items = _decode_items(encode(decode_answer(answer, ResponseContext).items))
            found.prepared.files += files_of(items)


def _require_content(request: api.ResponseRequest) -> None:
    missing = "" if request.model else "model"
    if request.input is None and request.previous_response_id is None and not request.conversation:
        missing = missing or "input"
    if missing:
        raise InvalidRequest(
            f"'{missing}' is required", param=missing, code="missing_required_parameter"
        )


def _require_something(found: Resolved) -> None:
    """Refuse what has nothing to answer."""
    if not (found.all_items or msgspec.json.decode(found.prepared.messages or b"[]")):
        raise InvalidRequest("'input' is empty, and nothing was said before", param="input")


class _Spoken(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


def _to_item(raw: msgspec.Raw) -> msgspec.Raw:
    """A prompt's message, which is one of chat's, as an item of the input."""
    said = msgspec.json.decode(raw, type=_Spoken)
    return msgspec.Raw(encode({"type": "message", "role": said.role, "content": said.content}))
