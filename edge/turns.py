"""Turns: requests that go on with a conversation.

What was said before is put before a request's own messages; what is new, and the answer, is stored
when the run has ended, by the worker that owns the database.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from edge.orders import Order
from schemas.api.history import without_unanswered
from schemas.api.items import MAX_ITEMS_BYTES
from schemas.commands import Turn, UsedHistory, digest_of, encode
from schemas.errors import InvalidRequest
from schemas.queries import AskStored, decode_answer
from schemas.queries.conversations import AskContext, Context

_PER_MESSAGE: Final = 512  # bytes that a stored message has besides its text
_INSTRUCTIONS: Final = ("system", "developer")

_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_split_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Spoken(msgspec.Struct):
    role: str


class _Answer(msgspec.Struct):
    tool_call_id: str | None = None


_decode_role = msgspec.json.Decoder(_Spoken).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode


async def in_conversation(order: Order, ask: AskStored, principal: str) -> Order:
    """Put a conversation's history into a request. Raises NotFound, InvalidRequest, Unavailable."""
    into = order.into
    assert into is not None
    question = AskContext(principal=principal, conversation=into.conversation, branch=into.branch)
    context = decode_answer(await ask("conversations", "context", question), Context)
    resolved = with_history(order.resolved or order.body, context, keep=into.keep)
    turn = Turn(into.conversation, context.branch, context.head, context.project)
    headers = [
        (b"x-conversation-id", into.conversation.encode()),
        (b"x-conversation-branch", context.branch.encode()),
    ]
    if context.trimmed:
        headers.append((b"x-conversation-trimmed", b"true"))
    return replace(
        order,
        resolved=resolved,
        history=to_used(into.conversation, context),
        needs={"vision": "conversation", **order.needs} if context.images else order.needs,
        turn=turn if into.keep else None,
        headers=(*order.headers, *headers),
    )


def with_history(body: bytes, context: Context, *, keep: bool) -> bytes:
    """A request with its conversation's history in place of the name. Raises InvalidRequest."""
    fields = _split(body)
    fields.pop("conversation", None)
    own = _split_list(fields.get("messages", b"[]"))
    if keep:
        require_size(own)
    fields["messages"] = msgspec.Raw(to_messages(context, own))
    return encode(fields)


def to_used(conversation: str, context: Context) -> UsedHistory:
    """What has to be known of a history to read it again."""
    instruction = context.instruction
    return UsedHistory(
        conversation=conversation,
        branch=context.branch,
        head=context.head,
        items=context.items,
        instruction=digest_of(instruction.encode()) if instruction else None,
    )


def to_messages(context: Context, own: Sequence[msgspec.Raw]) -> bytes:
    """A history with a request's own messages: instructions first, then what was said, in order.

    Raises InvalidRequest if nobody has said anything.
    """
    first = 0
    while first < len(own) and _decode_role(own[first]).role in _INSTRUCTIONS:
        first += 1
    instruction = []
    if context.instruction:
        instruction.append(encode({"role": "system", "content": context.instruction}))
    history = _without_unanswered(bytes(context.messages), own)[1:-1]
    said = [part for part in (history, *map(bytes, own[first:])) if part]
    if not said:
        raise InvalidRequest("nobody has said anything in this conversation", param="messages")
    return b"[%b]" % b",".join([*instruction, *map(bytes, own[:first]), *said])


def _without_unanswered(history: bytes, own: Sequence[msgspec.Raw]) -> bytes:
    """A history without the calls that neither it nor the request's own messages answer."""
    if b'"tool_calls"' not in history:
        return history
    said = _decode_messages(history)
    answered = {message.get("tool_call_id") for message in said}
    answered |= {_decode_answer(message).tool_call_id for message in own}
    return encode(list(without_unanswered(said, answered)))


def require_size(own: Sequence[msgspec.Raw]) -> None:
    """Refuse messages that are too large to be stored. Raises InvalidRequest."""
    if sum(map(len, map(bytes, own))) + _PER_MESSAGE * len(own) > MAX_ITEMS_BYTES:
        raise InvalidRequest(
            f"'messages' have more than {MAX_ITEMS_BYTES} bytes, which are not stored in a "
            "conversation: send them without one, or with 'store': false",
            param="messages",
        )
