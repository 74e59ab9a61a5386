"""Commands about a user's settings."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from schemas import writes
from schemas.api import settings as api
from schemas.commands import Command, encode
from workers.persistence.changes import Effect, Row, find
from workers.persistence.locks import take_turn
from workers.persistence.tables import user_settings

NOUN = "settings"


async def merge(
    connection: AsyncConnection, command: Command, body: writes.MergeSettings
) -> Effect:
    """Merge changes into what is set. Raises InvalidRequest if preferences become too many."""
    await take_turn(connection, NOUN, command.principal)
    condition = user_settings.c.principal == command.principal
    row = await find(connection, user_settings, condition, locked=True)
    if row is None:
        row = _new_row(command)
    merged = api.merge(msgspec.json.decode(row["settings"]), body.patch)
    api.require_bounded(merged.get("preferences", {}))
    row |= {
        "version": row["version"] + 1,
        "settings": encode(merged),
        "updated_at": max(command.at, row["updated_at"]),
    }
    return Effect(
        NOUN, "merged", command.principal, {"user_settings": [row]}, encode(to_settings(row))
    )


def to_settings(row: Row) -> api.StoredSettings:
    """Settings as the edge gets them."""
    stored = msgspec.json.decode(row["settings"], type=api.Stored)
    return api.StoredSettings(stored, row["version"], row["updated_at"])


def _new_row(command: Command) -> Row:
    return {
        "principal": command.principal,
        "version": 0,
        "settings": b"{}",
        "updated_at": command.at,
        "deleted_at": None,
    }
