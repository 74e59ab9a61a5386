"""What commands say: the bodies of `commands.<noun>.<verb>`.

They are checked already: an edge has read them from a client. What depends on what is stored is
checked where they are carried out.
"""

import msgspec
from msgspec import UNSET, UnsetType


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


class DeleteConversation(msgspec.Struct, frozen=True):
    """`conversations.delete`."""

    id: str


class AddItems(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conversations.add_items`, at the end of a branch (None: the active one)."""

    conversation: str
    items: list[msgspec.Raw]
    branch: str | None = None


class DeleteItem(msgspec.Struct, frozen=True):
    """`conversations.delete_item`."""

    conversation: str
    item: str


class DeleteUser(msgspec.Struct, frozen=True):
    """`users.delete`: everything that the command's principal has stored until now."""
