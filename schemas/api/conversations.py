"""Conversations: OpenAI's resource, with titles, projects and branches besides.

Source: OpenAI's OpenAPI document, August 2026.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.decoding import decoder
from schemas.api.fields import Metadata
from schemas.api.items import MAX_ITEMS
from schemas.raw import OptionalRaw

Title = Annotated[str, Meta(max_length=256)]
Referrer = Annotated[str, Meta(max_length=64)]
ProjectId = Annotated[str, Meta(min_length=1, max_length=64)]
BranchName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][\w.-]*$")]
Position = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
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


class UpdateCall(Struct):
    """PATCH /v1/conversations/{id}/items/by-call-id/{call_id}: what is not named stays."""

    status: Annotated[str, Meta(min_length=1, max_length=32)]
    output: OptionalRaw = None
    error: OptionalRaw = None
    name: Annotated[str, Meta(min_length=1, max_length=128)] | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    server_label: Annotated[str, Meta(max_length=128)] | UnsetType = UNSET


class CreateBranch(Struct):
    """POST /v1/conversations/{id}/branches."""

    name: BranchName
    parent_branch: BranchName | None = None
    fork_from_item_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    description: Annotated[str, Meta(max_length=512)] | None = None


class EditItem(Struct):
    """POST /v1/conversations/{id}/items/{item_id}/edit."""

    content: msgspec.Raw
    branch: BranchName | None = None


class CreateShare(Struct):
    """POST /v1/conversations/{id}/share."""

    scope: Literal["conversation", "item"]
    item_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    title: Title | None = None
    include_images: bool = False
    include_context_messages: bool = False
    branch: BranchName | None = None


class ExportedHead(Struct):
    """What an export tells of the conversation itself; ids and times are not taken over."""

    title: Title | None = None
    title_locked: bool = False
    metadata: Metadata | None = None
    referrer: Referrer | None = None
    active_branch: BranchName = MAIN


class ExportedBranch(Struct):
    """A branch in an export.

    Its segments say which items it is made of: of each named branch those up to a position, and at
    last all of its own (null).
    """

    name: BranchName
    segments: Annotated[
        list[tuple[BranchName, Position | None]], Meta(min_length=1, max_length=MAX_DEPTH)
    ]
    description: Annotated[str, Meta(max_length=512)] | None = None
    parent_branch: BranchName | None = None


class ExportedItem(Struct):
    """An item in an export, with the branch on which it was added, and its place."""

    branch: BranchName
    position: Position
    item: msgspec.Raw


class ConversationExport(Struct):
    """A whole conversation, as it is exported and imported."""

    object: Literal["conversation.export"]
    version: Literal[1]
    conversation: ExportedHead
    branches: Annotated[list[ExportedBranch], Meta(min_length=1, max_length=MAX_BRANCHES)]
    items: Annotated[list[ExportedItem], Meta(max_length=100_000)]


class ExportQuery(Struct):
    """The query of an export."""

    format: Literal["json", "markdown"] = "json"
    store: bool = False


class SharesQuery(Struct):
    """The query of a list of shares, beside its paging."""

    include_revoked: bool = False


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


class ConversationsDeleted(Struct, kw_only=True):
    """All conversations are gone."""

    object: str = "conversations.deleted"
    deleted: bool = True
    deleted_count: int


class Branch(Struct, kw_only=True):
    """A branch as it is served; `forked_from_item_id` is the last item shared with its parent."""

    name: str
    object: str = "conversation.branch"
    description: str | None
    parent_branch: str | None
    forked_from_item_id: str | None
    item_count: int
    is_active: bool
    created_at: int


class BranchActivated(Struct, kw_only=True):
    """Another branch is what a conversation shows."""

    active_branch: str
    message: str


class Edited(Struct, kw_only=True):
    """A message was edited: the branch that has the new one, which is the active one now.

    `old_main_backup` is always null: no branch is renamed or swapped.
    """

    branch: str
    old_main_backup: None = None
    branch_created: bool = True
    new_branch: str
    user_item: msgspec.Raw


class ShareOptions(Struct):
    """What a share was made with."""

    include_images: bool
    include_context_messages: bool
    branch: str


class Share(Struct, kw_only=True):
    """A share, as its owner sees it."""

    id: str
    object: str = "conversation.share"
    slug: str
    share_url: str
    conversation_id: str
    scope: Literal["conversation", "item"]
    item_id: str | None
    title: str | None
    visibility: Literal["unlisted"] = "unlisted"
    created_at: int
    revoked_at: int | None
    snapshot_version: int = 1
    share_options: ShareOptions


class ShareRevoked(Struct, kw_only=True):
    """A share is gone."""

    id: str
    object: str = "conversation.share.deleted"
    deleted: bool = True


class SharedMessage(Struct, kw_only=True):
    """A message in a snapshot."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant"]
    content: list[msgspec.Raw]


class Snapshot(Struct, kw_only=True):
    """What was shared, as it was then."""

    version: int = 1
    scope: Literal["conversation", "item"]
    items: list[SharedMessage]


class PublicShare(Struct, kw_only=True):
    """A share, as everybody sees it."""

    object: str = "public_share"
    slug: str
    title: str | None
    created_at: int
    snapshot: Snapshot


class Exported(Struct, kw_only=True):
    """An export in the object store; only its owner can download it, until it expires."""

    id: str
    object: str = "conversations.export"
    url: str
    conversations: int
    bytes: int
    created_at: int
    expires_at: int


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


class BranchList(Struct):
    """All branches of a conversation."""

    object: str
    data: list[Branch]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


class ShareList(Struct):
    """A page of shares."""

    object: str
    data: list[Share]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


class Imported(Struct, kw_only=True):
    """What became of an import: the new conversations, in its order."""

    object: str = "list"
    data: list[msgspec.Raw]


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
decode_update_call = decoder(UpdateCall)
decode_create_branch = decoder(CreateBranch)
decode_edit_item = decoder(EditItem)
decode_create_share = decoder(CreateShare)
decode_export = decoder(ConversationExport)
