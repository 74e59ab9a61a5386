"""Stored chat completions: those that were made with `store: true`.

Source: OpenAI's OpenAPI document, August 2026.
"""

from msgspec import UNSET, Struct, UnsetType

from schemas.api.chat import ChatCompletion, Reply
from schemas.api.decoding import decoder
from schemas.api.fields import JsonObject, Metadata


class UpdateCompletion(Struct):
    """POST /v1/chat/completions/{id}."""

    metadata: Metadata | None


class StoredCompletion(ChatCompletion, kw_only=True):
    """A stored completion as it is served."""

    metadata: dict[str, str] | UnsetType = UNSET


class CompletionDeleted(Struct, kw_only=True):
    """A stored completion is gone."""

    id: str
    object: str = "chat.completion.deleted"
    deleted: bool = True


class StoredCompletionList(Struct):
    """A page of stored completions."""

    object: str
    data: list[StoredCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


class CompletionMessage(Reply, kw_only=True):
    """A message of a stored completion's request."""

    id: str
    content_parts: list[JsonObject] | None = None


class CompletionMessageList(Struct):
    """A page of the messages of a stored completion's request."""

    object: str
    data: list[CompletionMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


decode_update = decoder(UpdateCompletion)
