"""This server's tools, as they are served: to everybody those in use, to administrators all."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.decoding import decoder
from schemas.tools import Switch, Tool

Keyword = Annotated[str, Meta(min_length=1, max_length=200)]
Keywords = Annotated[list[Keyword], Meta(max_length=100)]
Description = Annotated[str, Meta(min_length=1, max_length=4096)]


class ServedTool(Struct, kw_only=True):
    """A tool that can be called."""

    name: str
    object: Literal["tool"] = "tool"
    title: str
    description: str
    input_schema: msgspec.Raw
    output_schema: msgspec.Raw | None


class ServedToolList(Struct, kw_only=True):
    """All tools that can be called."""

    object: Literal["list"] = "list"
    data: list[ServedTool]


class AdminTool(Struct, kw_only=True):
    """A tool, and what an operator says of it.

    `description` is what callers are told; `own_description` what the tool says of itself.
    `unavailable` says why it can't be used here; null if it can. Times in seconds.
    """

    name: str
    object: Literal["admin.tool"] = "admin.tool"
    title: str
    description: str
    own_description: str
    enabled: bool
    disallowed_keywords: list[str]
    unavailable: str | None
    queue: str
    idempotent: bool
    timeout: float


class AdminToolList(Struct, kw_only=True):
    """All tools."""

    object: Literal["list"] = "list"
    data: list[AdminTool]


class UpdateTool(Struct, forbid_unknown_fields=True):
    """PATCH /v1/admin/tools/{name}: what is not named stays. A null description: the tool's own."""

    enabled: bool | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    disallowed_keywords: Keywords | UnsetType = UNSET


decode_update = decoder(UpdateTool)


def to_served(tool: Tool) -> ServedTool:
    """A tool for whoever may call it."""
    return ServedTool(
        name=tool.name,
        title=tool.title or tool.name,
        description=tool.description,
        input_schema=tool.parameters,
        output_schema=tool.output,
    )


def to_admin(tool: Tool, switch: Switch) -> AdminTool:
    """A tool for those who may switch it."""
    own = tool.description
    return AdminTool(
        name=tool.name,
        title=tool.title or tool.name,
        description=own if switch.description is None else switch.description,
        own_description=own,
        enabled=switch.enabled,
        disallowed_keywords=switch.disallowed_keywords,
        unavailable=tool.unavailable or None,
        queue=tool.queue,
        idempotent=tool.idempotent,
        timeout=tool.timeout,
    )


def change(switch: Switch, update: UpdateTool) -> Switch:
    """What an operator says from now on."""
    named = {
        name: value
        for name in ("enabled", "description", "disallowed_keywords")
        if (value := getattr(update, name)) is not UNSET
    }
    return msgspec.structs.replace(switch, **named)
