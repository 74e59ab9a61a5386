"""Reading a user's settings."""

from sqlalchemy.ext.asyncio import AsyncConnection

from schemas.api.settings import Stored, StoredSettings
from schemas.queries.settings import AskSettings
from workers.persistence.changes import find
from workers.persistence.commands.settings import to_settings
from workers.persistence.tables import user_settings


async def get_settings(connection: AsyncConnection, ask: AskSettings) -> StoredSettings:
    """What the asker has set; nothing, if nothing."""
    row = await find(connection, user_settings, user_settings.c.principal == ask.principal)
    return to_settings(row) if row is not None else StoredSettings(Stored())
