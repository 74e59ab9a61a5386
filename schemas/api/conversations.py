"""Conversations: OpenAI's resource, with titles, projects and branches besides.

Source: OpenAI's OpenAPI document, August 2026.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.decoding import decoder
from schemas.api.fields import Metadata
from schemas.api.items import MAX_ITEMS

Title = Annotated[str, Meta(max_length=256)]
Referrer = Annotated[str, Meta(max_length=64)]
ProjectId = Annotated[str, Meta(min_length=1, max_length=64)]
BranchName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][\w.-]*$")]
RawItems = Annotated[list[msgspec.Raw], Meta(max_length=MAX_ITEMS)]

MAIN = "MAIN"  # the branch that every conversation has
MAX_BRANCHES = 100  # of a conversation
MAX_DEPTH = 100  # of branches forked from each other: as many stretches is each read from


class CreateConversation(Struct):
    """POST /v1/conversations."""

    title: Title | None = None
    items: RawItems | None = None
    metadata: Metadata | None = None
    project_id: ProjectId | None = None
    referrer: Referrer | None = None


class UpdateConversation(Struct):
    """POST or PATCH /v1/conversations/{id}: what is not named stays."""

    title: Title | UnsetType | None = UNSET
    metadata: Metadata | UnsetType | None = UNSET
    project_id: ProjectId | UnsetType | None = UNSET
    referrer: Referrer | UnsetType | None = UNSET


class AddItems(Struct):
    """POST /v1/conversations/{id}/items."""

    items: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_ITEMS)]
    branch: BranchName | None = None


class Conversation(Struct, kw_only=True):
    """A conversation as it is served; `version` counts its changes (it is the ETag too)."""

    id: str
    object: str = "conversation"
    created_at: int
    updated_at: int
    title: str | None
    title_locked: bool
    metadata: dict[str, str]
    project_id: str | None
    referrer: str | None
    active_branch: str
    version: int


class ConversationDeleted(Struct, kw_only=True):
    """A conversation is gone."""

    id: str
    object: str = "conversation.deleted"
    deleted: bool = True


class Item(Struct, kw_only=True):
    """An item as it is served; what else it has depends on its type."""

    id: str
    type: str
    status: str


class ConversationList(Struct):
    """A page of conversations."""

    object: str
    data: list[Conversation]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


class ItemList(Struct):
    """A page of items."""

    object: str
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


decode_create = decoder(CreateConversation)
decode_update = decoder(UpdateConversation)
decode_add_items = decoder(AddItems)
