"""What commands say: the bodies of `commands.<noun>.<verb>`.

They are checked already: an edge has read them from a client. What depends on what is stored is
checked where they are carried out.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from schemas.api.prompts import Variable
from schemas.raw import OptionalRaw


class CreateConversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.create`; `items` are in the form in which they are served, without ids."""

    title: str | None = None
    metadata: dict[str, str] = {}
    items: list[msgspec.Raw] = []
    project_id: str | None = None
    referrer: str | None = None


class UpdateConversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.update`; what is unset stays. `version` is what it must still be."""

    id: str
    title: str | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    project_id: str | UnsetType | None = UNSET
    referrer: str | UnsetType | None = UNSET
    version: int | None = None


class Retitle(msgspec.Struct, frozen=True):
    """`conversations.retitle`: what a model calls it, if it still has the title of first words."""

    id: str
    title: str
    instead_of: str | None


class DeleteConversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.delete`."""

    id: str
    version: int | None = None


class AddItems(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.add_items`, at the end of a branch (None: the active one)."""

    conversation: str
    items: list[msgspec.Raw]
    branch: str | None = None
    version: int | None = None


class Regenerate(msgspec.Struct, frozen=True):
    """`conversations.regenerate`: a fork of the active branch that ends before an answer."""

    conversation: str
    item: str


class UpdateCompletion(msgspec.Struct, frozen=True):
    """`completions.update`."""

    id: str
    metadata: dict[str, str]


class DeleteCompletion(msgspec.Struct, frozen=True):
    """`completions.delete`."""

    id: str


class DeleteResponse(msgspec.Struct, frozen=True):
    """`responses.delete`."""

    id: str


class DeleteItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.delete_item`."""

    conversation: str
    item: str
    version: int | None = None


class DeleteConversations(msgspec.Struct, frozen=True):
    """`conversations.delete_many`: the oldest of those made up to an id, so many at most."""

    upto: str
    limit: int


class DeletedConversations(msgspec.Struct, frozen=True):
    """The answer of `conversations.delete_many`."""

    count: int
    has_more: bool


class UpdateCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.update_call`: what becomes of the item of a tool's call, by the call's id."""

    conversation: str
    call_id: str
    fields: dict[str, msgspec.Raw]
    branch: str | None = None
    version: int | None = None


class CreateBranch(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.create_branch`: with all that its parent has, or up to and with an item."""

    conversation: str
    name: str
    parent: str | None = None
    last_item: str | None = None
    description: str | None = None
    version: int | None = None


class NamedBranch(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.delete_branch` and `conversations.activate_branch`."""

    conversation: str
    name: str
    version: int | None = None


class DeletedBranch(msgspec.Struct, frozen=True):
    """The answer of `conversations.delete_branch`: whether it has to be asked for again."""

    has_more: bool


class EditItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.edit_item`: another message in the place of a user's, on a new branch."""

    conversation: str
    item: str
    message: msgspec.Raw
    branch: str | None = None
    version: int | None = None


class ImportedBranch(msgspec.Struct, frozen=True, omit_defaults=True):
    """A branch as an export has it."""

    name: str
    segments: list[tuple[str, int | None]]
    description: str | None = None
    parent: str | None = None


class ImportedItem(msgspec.Struct, frozen=True):
    """An item as an export has it, without its id."""

    branch: str
    position: int
    item: msgspec.Raw


class ImportConversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.import`: a conversation with all its branches and the first of its items."""

    branches: list[ImportedBranch]
    items: list[ImportedItem]
    active_branch: str
    next_position: int
    title: str | None = None
    title_locked: bool = False
    metadata: dict[str, str] = {}
    referrer: str | None = None


class ImportItems(msgspec.Struct, frozen=True):
    """`conversations.import_items`: more of an import's items."""

    conversation: str
    items: list[ImportedItem]


class CreateShare(msgspec.Struct, frozen=True, omit_defaults=True):
    """`shares.create`: a snapshot of a branch, or of one of its items, for everybody to read."""

    conversation: str
    scope: str
    item: str | None = None
    title: str | None = None
    branch: str | None = None
    include_images: bool = False
    include_context_messages: bool = False
    version: int | None = None


class RevokeShare(msgspec.Struct, frozen=True, omit_defaults=True):
    """`shares.revoke`; `conversation` is what it must belong to, if it is named."""

    id: str
    conversation: str | None = None


class DeleteUser(msgspec.Struct, frozen=True, omit_defaults=True):
    """`users.delete`: everything that the command's principal has stored until now.

    `keys`: they have API keys, which are revoked.
    """

    keys: bool = False


class WebhookChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of a project's webhook: what is unset stays. `secret` is sealed."""

    url: str | UnsetType = UNSET
    secret: str | UnsetType | None = UNSET


class CreateProject(msgspec.Struct, frozen=True, omit_defaults=True):
    """`projects.create`."""

    name: str
    instruction: str | None = None
    is_favorite: bool = False
    webhook: WebhookChange | None = None


class UpdateProject(msgspec.Struct, frozen=True, omit_defaults=True):
    """`projects.update`; what is unset stays. `version` is what it must still be."""

    id: str
    name: str | UnsetType = UNSET
    instruction: str | UnsetType | None = UNSET
    is_archived: bool | UnsetType = UNSET
    is_favorite: bool | UnsetType = UNSET
    webhook: WebhookChange | UnsetType | None = UNSET
    version: int | None = None


class DeleteProject(msgspec.Struct, frozen=True):
    """`projects.delete`."""

    id: str


class MergeSettings(msgspec.Struct, frozen=True):
    """`settings.merge`, into what the user has set; a null takes away."""

    patch: dict[str, Any]


class CreatePrompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """`prompts.create`; the messages are chat messages."""

    name: str
    messages: msgspec.Raw
    variables: dict[str, Variable] = {}
    model: str | None = None
    project_id: str | None = None
    description: str | None = None


class CreatePromptVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """`prompts.create_version`; what is unset is as in the newest, which must be `version`."""

    id: str
    messages: OptionalRaw = None
    variables: dict[str, Variable] | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    project_id: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    version: int | None = None


class DeletePrompt(msgspec.Struct, frozen=True):
    """`prompts.delete`, with all its versions."""

    id: str


Attribute = str | int | float | bool


class IndexFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """`files.index`: have a document's text found, in place of what it was before.

    `store` is the owner's vector store that it is in; empty: none. Idempotent.
    """

    document: str
    text: str
    store: str = ""
    name: str = ""
    attributes: dict[str, Attribute | list[str]] = {}


class IndexedFile(msgspec.Struct, frozen=True):
    """The answer of `files.index`."""

    document: str
    chunks: int
    updated: bool  # it was there before


class ForgetFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """`files.forget`: have a document found no more, and what it said erased."""

    document: str
    store: str = ""
