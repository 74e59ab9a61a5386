"""A conversation in the simple view: messages with their text alone, and one more said."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.api.conversations import BranchName
from schemas.api.decoding import decoder
from schemas.api.items import MAX_ITEMS_BYTES


class AddMessage(Struct):
    """POST /v1/conversations/{id}/messages."""

    content: Annotated[str, Meta(min_length=1, max_length=MAX_ITEMS_BYTES)]
    role: Literal["user", "assistant", "system", "developer"] = "user"
    branch: BranchName | None = None


class ConversationMessage(Struct, kw_only=True):
    """A message of a conversation: its text alone."""

    id: str
    object: str = "conversation.message"
    role: str | None
    content: str
    status: str
    created_at: int


class ConversationMessageList(Struct):
    """A page of messages."""

    object: str
    data: list[ConversationMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


class Forked(Struct):
    """A branch that a run goes on with; `parent` was the active one before."""

    conversation: str
    branch: str
    parent: str


decode_add = decoder(AddMessage)
