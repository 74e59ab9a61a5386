"""Projects: conversations that belong together, and the instruction that they have in common."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.decoding import decoder
from schemas.api.fields import WebhookUrl

# A name that is seen: at least one character that is no space.
Name = Annotated[str, Meta(min_length=1, max_length=120, pattern=r"\S")]
Instruction = Annotated[str, Meta(max_length=32_768)]
Secret = Annotated[
    str,
    Meta(
        max_length=128,
        description="As Standard Webhooks has it: `whsec_` and the base 64 of 24 to 64 bytes.",
    ),
]


class SetWebhook(Struct):
    """A new project's webhook. Without a secret the user's own signs it."""

    url: WebhookUrl
    secret: Secret | None = None


class ChangeWebhook(Struct):
    """What becomes of a project's webhook: what is not named stays."""

    url: WebhookUrl | UnsetType = UNSET
    secret: Secret | UnsetType | None = UNSET


class CreateProject(Struct):
    """POST /v1/projects."""

    name: Name
    instruction: Instruction | None = None
    is_favorite: bool = False
    webhook: SetWebhook | None = None


class UpdateProject(Struct):
    """PATCH /v1/projects/{id}: what is not named stays."""

    name: Name | UnsetType = UNSET
    instruction: Instruction | UnsetType | None = UNSET
    is_archived: bool | UnsetType = UNSET
    is_favorite: bool | UnsetType = UNSET
    webhook: ChangeWebhook | UnsetType | None = UNSET


class Webhook(Struct, kw_only=True):
    """Where a project's webhooks go. Its secret is told to nobody."""

    url: str
    has_secret: bool


class Project(Struct, kw_only=True):
    """A project as it is served; `version` counts its changes (it is the ETag too)."""

    id: str
    object: str = "project"
    name: str
    instruction: str | None
    is_favorite: bool
    is_archived: bool
    webhook: Webhook | None
    archived_at: int | None
    created_at: int
    updated_at: int
    version: int


class ProjectDeleted(Struct, kw_only=True):
    """A project is gone."""

    id: str
    object: str = "project.deleted"
    deleted: bool = True


class ProjectList(Struct):
    """A page of projects."""

    object: str
    data: list[Project]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


decode_create = decoder(CreateProject)
decode_update = decoder(UpdateProject)
